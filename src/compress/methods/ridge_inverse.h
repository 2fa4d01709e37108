// (N + rho I)^-1 for one penalty rho after another, which is what the ADMM of ALPS and of the Lasso
// multiplies by.
#ifndef HARROW_COMPRESS_METHODS_RIDGE_INVERSE_H_
#define HARROW_COMPRESS_METHODS_RIDGE_INVERSE_H_

#include <cstdint>
#include <vector>

#include "compress/statistics.h"

namespace harrow {

// Inputs up to so wide are iterated on in float64, wider ones in float32.
inline constexpr int64_t kFloat64Cols = 1024;

// N is the matrix of the spectrum, which must outlive this. Real is double or float.
template <class Real>
class RidgeInverse {
 public:
  explicit RidgeInverse(const HessianSpectrum& spectrum);

  // From the eigenvectors, by cols^3 operations. rho > 0.
  void Set(double rho);
  // out = x (N + rho I)^-1 for x [rows, cols]; not in place.
  void Multiply(const Real* x, int64_t rows, Real* out) const;

 private:
  const HessianSpectrum& spectrum_;
  std::vector<Real> scaled_;   // [cols, cols]
  std::vector<Real> inverse_;  // [cols, cols], the upper triangle
};

extern template class RidgeInverse<double>;
extern template class RidgeInverse<float>;

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_RIDGE_INVERSE_H_
