// Coordinate descent over the codes of a quantized weight, after the pass that chose them.
#ifndef HARROW_COMPRESS_METHODS_REFINE_CODES_H_
#define HARROW_COMPRESS_METHODS_REFINE_CODES_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"

namespace harrow {

// Lowers (W - w) A (W - w)^T of every row, where W is layer->original, w is layer->w on the grid of
// layer->quantization and A = H + damping * mean(diag H) I, in up to `sweeps` passes over the
// inputs. Each kept weight in turn takes the code that is best with all others as they are
// (QuantEase: Behdin et al., arXiv 2309.01885, algorithm 2). With `fixed` a kept weight and a
// pruned one of the same N:M group, or of the same 16 inputs of a row where zeros may stand
// anywhere, also change places where that lowers it: the number of zeros stays. `fixed` [rows,
// cols] is the mask of before the pass, whose zeros do not come back; null: the mask stays. Grids
// stay.
//
// The error never rises. It does not depend on the number of threads. Appends a note with what is
// left of the error. kCancelled.
Status RefineCodes(int64_t sweeps, double damping, const std::vector<uint8_t>* fixed,
                   LayerWork* layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_REFINE_CODES_H_
