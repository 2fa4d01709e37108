// Packing of activations: how x is rounded, and the layouts that kernels read.
#ifndef HARROW_KERNELS_ACTIVATION_H_
#define HARROW_KERNELS_ACTIVATION_H_

#include <cstdint>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/linear_kernel.h"

namespace harrow {

// How a group is quantized, from the bits of its max|x|: x becomes q = round to nearest even
// (x * inverse), -127 .. 127, and stands for q * scale.
struct QuantizeScale {
  float scale;
  float inverse;  // 0: all q are 0
};
// scale = max|x| / 127. Groups whose max|x| is below 2^-100 become zero. A group with a value that
// is not finite has the scale NaN, so that it shows in every output it reaches.
QuantizeScale QuantizeScaleOf(int32_t largest_bits);

// The rounding loops of a tier. Each works on `count` consecutive values; all tiers agree in every
// bit.
struct RoundingOps {
  void (*bf16)(const float* x, int64_t count, uint16_t* out);
  void (*bf16_as_f32)(const float* x, int64_t count, float* out);
  // Quantizes one group; returns its scale and sets *sum to the sum of q.
  float (*i8)(const float* x, int64_t count, int8_t* q, int32_t* sum);
};
// Those of ActiveIsa().
const RoundingOps& ActiveRounding();

#if defined(__x86_64__)
namespace avx2 {
const RoundingOps& Rounding();
}
namespace avx512 {
const RoundingOps& Rounding();
}
#endif

// Memory of one PackedX; reused from call to call.
class PackedXBuffer {
 public:
  // Packs x [m, k] (row stride `x_stride`), with the pool when the work is large.
  const PackedX& Pack(const XFormat& format, const float* x, int64_t x_stride, int64_t m, int64_t k,
                      ThreadPool* pool);
  const PackedX& packed() const { return packed_; }

 private:
  PackedX packed_;
  void PackBlock(const RoundingOps& ops, const float* x, int64_t x_stride, int64_t block);

  AlignedArray<std::byte> values_;
  AlignedArray<float> scales_;
  AlignedArray<int32_t> corrections_;
};

}  // namespace harrow

#endif  // HARROW_KERNELS_ACTIVATION_H_
