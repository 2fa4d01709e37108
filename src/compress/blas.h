// OpenBLAS and LAPACK on our own threads. OpenBLAS's threads spin in sched_yield and wait for each
// other in every call: on a machine that others use as well each call then costs time slices
// (docs/decisions/045). So it computes on one thread, and the products here cut themselves into
// pieces for the thread pool, the same pieces for any number of threads: bits do not depend on it.
#ifndef HARROW_COMPRESS_BLAS_H_
#define HARROW_COMPRESS_BLAS_H_

#include <cblas.h>

#include <cstdint>

#include "base/thread_pool.h"

namespace harrow {

// For its lifetime, products that this thread asks for run on `pool` (null: on this thread alone),
// and OpenBLAS, which keeps one thread count for the process, on one thread.
class BlasThreads {
 public:
  explicit BlasThreads(ThreadPool* pool);
  ~BlasThreads();
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  ThreadPool* pool_before_;
  int threads_before_;
};

// For its lifetime, LAPACK on a matrix of this order takes as many threads of OpenBLAS as the pool
// has. Small orders take one: their many short steps would wait for each other.
class LapackThreads {
 public:
  explicit LapackThreads(int64_t order);
  ~LapackThreads();
  LapackThreads(const LapackThreads&) = delete;
  LapackThreads& operator=(const LapackThreads&) = delete;

 private:
  int threads_before_;
};

namespace blas_internal {

// Pieces of a product of `rows` rows; a property of its shape alone.
int64_t Pieces(int64_t rows, double flops_per_row);
// The pool of this thread, out of reach until it is given back: tasks do not share themselves out.
ThreadPool* TakePool();
void GiveBack(ThreadPool* pool);

}  // namespace blas_internal

// body(begin, count) for pieces of [0, rows), in parallel.
template <class Body>
void ForBlasRows(int64_t rows, double flops_per_row, const Body& body) {
  const int64_t pieces = blas_internal::Pieces(rows, flops_per_row);
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = rows * piece / pieces;
      body(begin, rows * (piece + 1) / pieces - begin);
    }
  };
  ThreadPool* const pool = pieces > 1 ? blas_internal::TakePool() : nullptr;
  if (pool == nullptr) return run(0, pieces);
  pool->ParallelFor(pieces, 1, run);
  blas_internal::GiveBack(pool);
}

// All matrices are row-major; ld* are row strides.

// c [m, n] = alpha op(a) op(b) + beta c.
void Gemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k, double alpha,
          const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
          int64_t ldc);
void Gemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
          int64_t ldc);

// out [rows, n] = x [rows, n] a, with a symmetric and its upper triangle read.
void TimesSymmetric(int64_t rows, int64_t n, const double* x, const double* a, double* out);
void TimesSymmetric(int64_t rows, int64_t n, const float* x, const float* a, float* out);

// The upper triangle of c [n, n] = g + beta c, where g is a a^T of a [n, k] (CblasNoTrans) or
// a^T a of a [k, n] (CblasTrans).
void Gram(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const double* a, double beta, double* c);
void Gram(CBLAS_TRANSPOSE op, int64_t n, int64_t k, const float* a, float beta, float* c);

}  // namespace harrow

#endif  // HARROW_COMPRESS_BLAS_H_
