// The thread count of OpenBLAS for the time of a scope.
#ifndef HARROW_COMPRESS_BLAS_THREADS_H_
#define HARROW_COMPRESS_BLAS_THREADS_H_

#include <cblas.h>

namespace harrow {

// OpenBLAS keeps one thread count for the process.
class BlasThreads {
 public:
  explicit BlasThreads(int threads) : before_(openblas_get_num_threads()) {
    openblas_set_num_threads(threads);
  }
  ~BlasThreads() { openblas_set_num_threads(before_); }
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  int before_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_BLAS_THREADS_H_
