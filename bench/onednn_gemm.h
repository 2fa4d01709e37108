// oneDNN's matrix product, the dense opponent of bench/linear_bench.cc.
#ifndef HARROW_BENCH_ONEDNN_GEMM_H_
#define HARROW_BENCH_ONEDNN_GEMM_H_

#include <cstdint>
#include <memory>

namespace harrow {

// y [m, n] float32 = x [m, k] * W^T with W [n, k], in the terms that are best for oneDNN: x is
// rounded already, weights are in the layout that it asks for, int8 (u8 x s8) has a single scale.
class OneDnnGemm {
 public:
  virtual ~OneDnnGemm() = default;
  // Seconds of one product, averaged over copies of W that fill `stack_bytes`.
  virtual double Seconds() = 0;
  // The same from row-major W, which each product lays out anew.
  virtual double SecondsFromRows() = 0;
};

// Null where the benchmark was built without oneDNN or it has no such product.
std::unique_ptr<OneDnnGemm> NewOneDnnGemm(bool int8, int64_t m, int64_t n, int64_t k,
                                          int64_t stack_bytes, int threads);

}  // namespace harrow

#endif  // HARROW_BENCH_ONEDNN_GEMM_H_
