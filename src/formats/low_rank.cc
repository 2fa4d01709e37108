#include "formats/low_rank.h"

#include <algorithm>
#include <vector>

namespace harrow {

Result<int64_t> ValidateLowRank(const LowRankFactors& factors, int64_t rows, int64_t cols) {
  const LinearWeight& a = factors.a;
  const LinearWeight& b = factors.b;
  if (a.rows < 1 || a.cols != cols || b.rows != rows || b.cols != a.rows) {
    return Corruption("low-rank factors [{}, {}] and [{}, {}] of a weight [{}, {}]", b.rows, b.cols,
                      a.rows, a.cols, rows, cols);
  }
  if (a.low_rank != nullptr || b.low_rank != nullptr) {
    return Corruption("a low-rank factor that has low-rank factors");
  }
  HARROW_ASSIGN_OR_RETURN(const int64_t in_a, ValidateWeight(a));
  HARROW_ASSIGN_OR_RETURN(const int64_t in_b, ValidateWeight(b));
  return in_a + in_b;
}

void AddLowRankRows(const LowRankFactors& factors, int64_t begin, int64_t end, float* out) {
  const int64_t rank = factors.a.rows;
  const int64_t cols = factors.a.cols;
  std::vector<float> a(static_cast<size_t>(rank * cols));
  std::vector<float> b(static_cast<size_t>((end - begin) * rank));
  UnpackRows(factors.a, 0, rank, a.data());
  UnpackRows(factors.b, begin, end, b.data());
  std::vector<double> sum(static_cast<size_t>(cols));
  for (int64_t row = 0; row < end - begin; ++row) {
    float* const values = out + row * cols;
    std::copy_n(values, cols, sum.begin());
    for (int64_t k = 0; k < rank; ++k) {
      const double factor = b[static_cast<size_t>(row * rank + k)];
      const float* const a_row = a.data() + k * cols;
      for (int64_t j = 0; j < cols; ++j)
        sum[static_cast<size_t>(j)] += factor * static_cast<double>(a_row[j]);
    }
    for (int64_t j = 0; j < cols; ++j)
      values[j] = static_cast<float>(sum[static_cast<size_t>(j)]);
  }
}

}  // namespace harrow
