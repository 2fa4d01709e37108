// Random weights for measuring speed at the size of real ones.
#ifndef HARROW_FORMATS_RANDOM_WEIGHT_H_
#define HARROW_FORMATS_RANDOM_WEIGHT_H_

#include <cstdint>

#include "base/status.h"
#include "formats/linear_weight.h"

namespace harrow {

// W [rows, cols] of normal numbers, packed: N:M patterns full, of block formats round(density *
// blocks) blocks in each row of blocks, else exactly that fraction of weights non-zero. The first
// 64 rows are drawn and repeat, so that large weights are made quickly. The same seed gives the
// same weight. `density` is in (0, 1].
Result<LinearWeight> PackRandomWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                      double density, uint64_t seed);

}  // namespace harrow

#endif  // HARROW_FORMATS_RANDOM_WEIGHT_H_
