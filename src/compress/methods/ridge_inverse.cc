#include "compress/methods/ridge_inverse.h"

#include <cblas.h>

#include <cmath>

namespace harrow {
namespace {

void MultiplySymmetric(int64_t rows, int64_t n, const double* x, const double* a, double* out) {
  const auto width = static_cast<blasint>(n);
  cblas_dsymm(CblasRowMajor, CblasRight, CblasUpper, static_cast<blasint>(rows), width, 1.0, a,
              width, x, width, 0.0, out, width);
}
void MultiplySymmetric(int64_t rows, int64_t n, const float* x, const float* a, float* out) {
  const auto width = static_cast<blasint>(n);
  cblas_ssymm(CblasRowMajor, CblasRight, CblasUpper, static_cast<blasint>(rows), width, 1.0f, a,
              width, x, width, 0.0f, out, width);
}
// The upper triangle of a^T a.
void Gram(int64_t n, const double* a, double* out) {
  const auto width = static_cast<blasint>(n);
  cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, width, width, 1.0, a, width, 0.0, out, width);
}
void Gram(int64_t n, const float* a, float* out) {
  const auto width = static_cast<blasint>(n);
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, width, width, 1.0f, a, width, 0.0f, out,
              width);
}

}  // namespace

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
  Gram(static_cast<int64_t>(n), scaled_.data(), inverse_.data());
}

template <class Real>
void RidgeInverse<Real>::Multiply(const Real* x, int64_t rows, Real* out) const {
  MultiplySymmetric(rows, static_cast<int64_t>(spectrum_.values.size()), x, inverse_.data(), out);
}

template class RidgeInverse<double>;
template class RidgeInverse<float>;

}  // namespace harrow
