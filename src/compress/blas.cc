#include "compress/blas.h"

#include <algorithm>
#include <utility>

namespace harrow {
namespace {

thread_local ThreadPool* g_pool = nullptr;

// A step of a reduction to tridiagonal form reads the matrix once: from this order on, 16 MB in
// double, long enough for several threads.
constexpr int64_t kThreadedOrder = 2048;

constexpr CBLAS_ORDER kRowMajor = CblasRowMajor;

blasint Int(int64_t n) {
  return static_cast<blasint>(n);
}

void BlasGemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k,
              double alpha, const double* a, int64_t lda, const double* b, int64_t ldb, double beta,
              double* c, int64_t ldc) {
  cblas_dgemm(kRowMajor, op_a, op_b, Int(m), Int(n), Int(k), alpha, a, Int(lda), b, Int(ldb), beta,
              c, Int(ldc));
}
void BlasGemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k,
              float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
              float* c, int64_t ldc) {
  cblas_sgemm(kRowMajor, op_a, op_b, Int(m), Int(n), Int(k), alpha, a, Int(lda), b, Int(ldb), beta,
              c, Int(ldc));
}
void BlasSymm(int64_t rows, int64_t n, const double* x, const double* a, double* out) {
  cblas_dsymm(kRowMajor, CblasRight, CblasUpper, Int(rows), Int(n), 1.0, a, Int(n), x, Int(n), 0.0,
              out, Int(n));
}
void BlasSymm(int64_t rows, int64_t n, const float* x, const float* a, float* out) {
  cblas_ssymm(kRowMajor, CblasRight, CblasUpper, Int(rows), Int(n), 1.0f, a, Int(n), x, Int(n),
              0.0f, out, Int(n));
}
void BlasSyrk(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const double* a, int64_t lda, double beta,
              double* c, int64_t ldc) {
  cblas_dsyrk(kRowMajor, CblasUpper, op, Int(n), Int(k), 1.0, a, Int(lda), beta, c, Int(ldc));
}
void BlasSyrk(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const float* a, int64_t lda, float beta,
              float* c, int64_t ldc) {
  cblas_ssyrk(kRowMajor, CblasUpper, op, Int(n), Int(k), 1.0f, a, Int(lda), beta, c, Int(ldc));
}

template <class Real>
void GemmOf(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k, Real alpha,
            const Real* a, int64_t lda, const Real* b, int64_t ldb, Real beta, Real* c,
            int64_t ldc) {
  ForBlasRows(m, 2.0 * static_cast<double>(n * k), [&](int64_t begin, int64_t count) {
    BlasGemm(op_a, op_b, count, n, k, alpha, a + begin * (op_a == CblasNoTrans ? lda : 1), lda, b,
             ldb, beta, c + begin * ldc, ldc);
  });
}

template <class Real>
void TimesSymmetricOf(int64_t rows, int64_t n, const Real* x, const Real* a, Real* out) {
  ForBlasRows(rows, 2.0 * static_cast<double>(n * n), [&](int64_t begin, int64_t count) {
    BlasSymm(count, n, x + begin * n, a, out + begin * n);
  });
}

template <class Real>
void GramOf(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const Real* a, Real beta, Real* c) {
  const bool transposed = op == CblasTrans;
  const int64_t lda = transposed ? n : k;
  const auto at = [&](int64_t row) { return a + row * (transposed ? 1 : k); };
  // A piece is a square on the diagonal and what stands to its right.
  ForBlasRows(n, static_cast<double>(n * k), [&](int64_t begin, int64_t count) {
    const int64_t end = begin + count;
    BlasSyrk(op, count, k, at(begin), lda, beta, c + begin * n + begin, n);
    if (end == n) return;
    BlasGemm(op, transposed ? CblasNoTrans : CblasTrans, count, n - end, k, Real{1}, at(begin), lda,
             at(end), lda, beta, c + begin * n + end, n);
  });
}

}  // namespace

BlasThreads::BlasThreads(ThreadPool* pool)
    : pool_before_(std::exchange(g_pool, pool)), threads_before_(openblas_get_num_threads()) {
  openblas_set_num_threads(1);
}

BlasThreads::~BlasThreads() {
  openblas_set_num_threads(threads_before_);
  g_pool = pool_before_;
}

LapackThreads::LapackThreads(int64_t order) : threads_before_(openblas_get_num_threads()) {
  if (g_pool != nullptr && order >= kThreadedOrder) openblas_set_num_threads(g_pool->size());
}

LapackThreads::~LapackThreads() {
  openblas_set_num_threads(threads_before_);
}

namespace blas_internal {

int64_t Pieces(int64_t rows, double flops_per_row) {
  // Every piece packs the other matrix anew, which costs a tenth of its time at 96 rows and 4 % at
  // 256; below some 100 microseconds there is little to gain.
  constexpr double kLeastFlops = 4e6;
  const int64_t most =
      static_cast<int64_t>(static_cast<double>(rows) * flops_per_row / kLeastFlops);
  const int64_t piece_rows = std::clamp<int64_t>(rows / 8, 72, 256);
  return std::max<int64_t>(1, std::min(rows / piece_rows, most));
}

ThreadPool* TakePool() {
  return std::exchange(g_pool, nullptr);
}

void GiveBack(ThreadPool* pool) {
  g_pool = pool;
}

}  // namespace blas_internal

void Gemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k, double alpha,
          const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
          int64_t ldc) {
  GemmOf(op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void Gemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
          int64_t ldc) {
  GemmOf(op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void TimesSymmetric(int64_t rows, int64_t n, const double* x, const double* a, double* out) {
  TimesSymmetricOf(rows, n, x, a, out);
}
void TimesSymmetric(int64_t rows, int64_t n, const float* x, const float* a, float* out) {
  TimesSymmetricOf(rows, n, x, a, out);
}

void Gram(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const double* a, double beta, double* c) {
  GramOf(op, n, k, a, beta, c);
}
void Gram(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const float* a, float beta, float* c) {
  GramOf(op, n, k, a, beta, c);
}

}  // namespace harrow
