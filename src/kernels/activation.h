// Packing of activations: how x is rounded, and the layouts that kernels read.
#ifndef HARROW_KERNELS_ACTIVATION_H_
#define HARROW_KERNELS_ACTIVATION_H_

#include <cstdint>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/linear_kernel.h"

namespace harrow {

// Rounds `count` values to int8, symmetric: returns the scale = max|x| / 127 and q = round to
// nearest even(x * (127 / max|x|)). Groups whose max|x| is below 2^-100 become zero. A value that
// is not finite makes the scale NaN, so that it shows in every output it reaches.
float QuantizeGroup(const float* x, int64_t count, int8_t* q);

// Memory of one PackedX; reused from call to call.
class PackedXBuffer {
 public:
  // Packs x [m, k] (row stride `x_stride`), with the pool when the work is large.
  const PackedX& Pack(const XFormat& format, const float* x, int64_t x_stride, int64_t m, int64_t k,
                      ThreadPool* pool);
  const PackedX& packed() const { return packed_; }

 private:
  PackedX packed_;
  AlignedArray<std::byte> values_;
  AlignedArray<float> scales_;
  AlignedArray<int32_t> corrections_;
};

}  // namespace harrow

#endif  // HARROW_KERNELS_ACTIVATION_H_
