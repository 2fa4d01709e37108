// Least squares on the support of a pruned weight: the weights that are left, refitted.
#ifndef HARROW_COMPRESS_METHODS_LEAST_SQUARES_H_
#define HARROW_COMPRESS_METHODS_LEAST_SQUARES_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"

namespace harrow {

// For each row x of a weight, with 0 where pruned, the minimum of x A x^T - 2 x c^T, where
// A = H + ridge I is shared by all rows and c is the row's right-hand side (c = t A makes x
// reproduce the outputs of t).
class MaskedLeastSquares {
 public:
  // The ridge is `damping` * mean(diag H). Keeps a reference to the statistics, which must have a
  // Hessian.
  MaskedLeastSquares(const InputStatistics& statistics, double damping);

  double ridge() const { return ridge_; }
  // out = x A for x [rows, cols]; not in place.
  void Multiply(const double* x, int64_t rows, double* out) const;
  // The sum over rows of x A x^T - 2 x c^T.
  double Objective(const double* x, const double* c, int64_t rows) const;

  struct Outcome {
    int64_t iterations = 0;       // of the slowest row
    int64_t unfinished_rows = 0;  // that have not reached the tolerance
  };
  // Conjugate gradients with the inverse diagonal of A as preconditioner, from x [rows, cols],
  // which must be 0 where `pruned`. A row is done when its residual on the support, in the norm of
  // the preconditioner, is `tolerance` times that of c. The objective never rises. kCancelled.
  Result<Outcome> Iterate(const LayerWork& layer, const double* c, const uint8_t* pruned,
                          int64_t max_iterations, double tolerance, double* x) const;
  // By Cholesky, a row at a time: rows * cols^3 / 3 operations at most. kNumerical where A has no
  // positive definite block on the support.
  Status Solve(const LayerWork& layer, const double* c, const uint8_t* pruned, double* x) const;

 private:
  const std::vector<double>& hessian_;
  int64_t cols_;
  double ridge_;
  std::vector<double> inverse_diagonal_;  // 0 where A has no diagonal
};

// layer->w = x [rows, cols], 0 where pruned. kNumerical, with the place, where x is not finite in
// float32.
Status StoreWeights(const std::vector<double>& x, LayerWork* layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_LEAST_SQUARES_H_
