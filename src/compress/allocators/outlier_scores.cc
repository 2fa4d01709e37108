#include "compress/allocators/outlier_scores.h"

#include <cmath>

#include "base/check.h"
#include "compress/row_slices.h"

namespace harrow {

Status ForScores(std::span<const DenseWeight> unit,
                 const std::function<void(const double* scores, int64_t count)>& body) {
  std::vector<double> scores;
  for (const DenseWeight& dense : unit) {
    const int64_t cols = dense.weight->cols;
    HARROW_CHECK(static_cast<int64_t>(dense.norms.size()) == cols);
    HARROW_RETURN_IF_ERROR(
        ForRowSlices(dense.name, *dense.weight, [&](int64_t, const float* values, int64_t count) {
          scores.resize(static_cast<size_t>(count));
          for (int64_t i = 0; i < count; ++i) {
            scores[static_cast<size_t>(i)] = std::fabs(static_cast<double>(values[i])) *
                                             dense.norms[static_cast<size_t>(i % cols)];
          }
          body(scores.data(), count);
        }));
  }
  return OkStatus();
}

Result<double> MeanScore(std::span<const DenseWeight> unit) {
  double sum = 0;
  int64_t weights = 0;
  HARROW_RETURN_IF_ERROR(ForScores(unit, [&](const double* scores, int64_t count) {
    double slice = 0;
    for (int64_t i = 0; i < count; ++i)
      slice += scores[i];
    sum += slice;
    weights += count;
  }));
  return sum / static_cast<double>(weights);
}

}  // namespace harrow
