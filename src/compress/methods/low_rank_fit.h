// The best low-rank approximation of a matrix under a weighting of its inputs.
#ifndef HARROW_COMPRESS_METHODS_LOW_RANK_FIT_H_
#define HARROW_COMPRESS_METHODS_LOW_RANK_FIT_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"
#include "compress/option_reader.h"

namespace harrow {

// What is made small is |(M - B A) S|_F. One of the two is set.
struct InputScaling {
  std::vector<double> diagonal;                  // S = diag, all positive
  std::shared_ptr<const HessianFactor> hessian;  // S = inverse(upper), so that S S^T = H + damping
};

// B A of `rank` (at most min(rows, cols)) for m [rows, cols] float64, which is overwritten; both
// factors rounded to BF16. From the singular value decomposition of M S, by the eigenvectors of its
// smaller Gram matrix: singular values below 2^-26 of the largest are noise, which the rounding to
// BF16 drowns. Signs are fixed (the largest entry of every eigenvector is positive), so the same
// input gives the same factors. kNumerical when LAPACK fails.
Result<LowRankProduct> FitLowRank(std::vector<double> m, int64_t rows, int64_t cols, int64_t rank,
                                  const InputScaling& scaling);

// out [rows, cols] float64 = B A.
void Multiply(const LowRankProduct& product, int64_t rows, int64_t cols, double* out);

// `rank`, or `ratio`: the parameters of both factors as a fraction of the matrix's.
struct RankTarget {
  int64_t rank = 0;  // 0: by ratio
  double ratio = 0;

  static RankTarget Read(OptionReader* options);
  // int(rows * cols * ratio / (rows + cols)), as SVD-LLM has it.
  int64_t RankOf(int64_t rows, int64_t cols) const;
  // An error for a rank of 0 or above min(rows, cols); with `alone`, also for factors that are no
  // smaller than the matrix.
  Status Check(int64_t rows, int64_t cols, bool alone) const;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_LOW_RANK_FIT_H_
