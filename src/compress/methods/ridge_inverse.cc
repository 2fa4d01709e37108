#include "compress/methods/ridge_inverse.h"

#include <cmath>

#include "compress/blas.h"

namespace harrow {
template <class Real>
RidgeInverse<Real>::RidgeInverse(const HessianSpectrum& spectrum)
    : spectrum_(spectrum), scaled_(spectrum.vectors.size()), inverse_(spectrum.vectors.size()) {}

template <class Real>
void RidgeInverse<Real>::Set(double rho) {
  const size_t n = spectrum_.values.size();
  for (size_t i = 0; i < n; ++i) {
    const double root = 1.0 / std::sqrt(spectrum_.values[i] + rho);
    for (size_t j = 0; j < n; ++j)
      scaled_[i * n + j] = static_cast<Real>(spectrum_.vectors[i * n + j] * root);
  }
  const auto cols = static_cast<int64_t>(n);
  Gram(CblasTrans, cols, cols, scaled_.data(), Real{0}, inverse_.data());
}

template <class Real>
void RidgeInverse<Real>::Multiply(const Real* x, int64_t rows, Real* out) const {
  TimesSymmetric(rows, static_cast<int64_t>(spectrum_.values.size()), x, inverse_.data(), out);
}

template class RidgeInverse<double>;
template class RidgeInverse<float>;

}  // namespace harrow
