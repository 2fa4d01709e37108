// The low-rank product of a weight (LinearWeight::low_rank).
#ifndef HARROW_FORMATS_LOW_RANK_H_
#define HARROW_FORMATS_LOW_RANK_H_

#include <cstdint>

#include "base/status.h"
#include "formats/linear_weight.h"

namespace harrow {

// Checks untrusted factors of a weight [rows, cols] completely: shapes that multiply, no factors of
// factors, sound bytes. The non-zeros of both.
Result<int64_t> ValidateLowRank(const LowRankFactors& factors, int64_t rows, int64_t cols);

// out [end - begin, cols] += rows [begin, end) of B * A, summed in float64 and rounded once.
void AddLowRankRows(const LowRankFactors& factors, int64_t begin, int64_t end, float* out);

}  // namespace harrow

#endif  // HARROW_FORMATS_LOW_RANK_H_
