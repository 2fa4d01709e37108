// |W_ij| * |X_j| over the weights of a unit, the quantity that OWL and DLP take statistics of.
#ifndef HARROW_COMPRESS_ALLOCATORS_OUTLIER_SCORES_H_
#define HARROW_COMPRESS_ALLOCATORS_OUTLIER_SCORES_H_

#include <functional>

#include "compress/allocators/allocator.h"

namespace harrow {

// Calls body(scores, count) for slices of the scores of all weights of `unit`, in their order.
// kNumerical for a weight that is not finite.
Status ForScores(std::span<const DenseWeight> unit,
                 const std::function<void(const double* scores, int64_t count)>& body);

// The mean of all scores; 0 where all are.
Result<double> MeanScore(std::span<const DenseWeight> unit);

}  // namespace harrow

#endif  // HARROW_COMPRESS_ALLOCATORS_OUTLIER_SCORES_H_
