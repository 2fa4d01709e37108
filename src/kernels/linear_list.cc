// Every linear kernel, fastest first. One line a kernel.
#include "kernels/cpu/linear_cpu.h"
#include "kernels/linear_kernel.h"

namespace harrow {
namespace {

template <FormatId kFormat, ValueType kValues>
bool Is(const WeightSpec& spec) {
  return spec.format == kFormat && spec.values == kValues;
}
bool Always(const WeightSpec&) {
  return true;
}

// The ten entries of one tier.
#define HARROW_TIER(tier, isa)                                                                     \
  {"linear.dense_bf16." #tier, isa, Is<FormatId::kDense, ValueType::kBf16>, tier::LinearDenseX,    \
   tier::LinearDenseBf16},                                                                         \
      {"linear.dense_f16." #tier, isa, Is<FormatId::kDense, ValueType::kF16>, tier::LinearDenseX,  \
       tier::LinearDenseF16},                                                                      \
      {"linear.dense_f32." #tier, isa, Is<FormatId::kDense, ValueType::kF32>, tier::LinearDenseX,  \
       tier::LinearDenseF32},                                                                      \
      {"linear.dense_panel_i8." #tier, isa, Is<FormatId::kDensePanel, ValueType::kI8>,             \
       tier::LinearI8X, tier::LinearDensePanelI8},                                                 \
      {"linear.bitmask_bf16." #tier, isa, Is<FormatId::kBitmask, ValueType::kBf16>,                \
       tier::LinearBf16X, tier::LinearBitmaskBf16},                                                \
      {"linear.bitmask_i8." #tier, isa, Is<FormatId::kBitmask, ValueType::kI8>, tier::LinearI8X,   \
       tier::LinearBitmaskI8},                                                                     \
      {"linear.nm_bf16." #tier, isa, Is<FormatId::kNm, ValueType::kBf16>, tier::LinearBf16X,       \
       tier::LinearNmBf16},                                                                        \
      {"linear.nm_i8." #tier, isa, Is<FormatId::kNm, ValueType::kI8>, tier::LinearI8X,             \
       tier::LinearNmI8},                                                                          \
      {"linear.block_bf16." #tier, isa, Is<FormatId::kBlock, ValueType::kBf16>, tier::LinearBf16X, \
       tier::LinearBlockBf16},                                                                     \
  {                                                                                                \
    "linear.block_i8." #tier, isa, Is<FormatId::kBlock, ValueType::kI8>, tier::LinearI8X,          \
        tier::LinearBlockI8                                                                        \
  }

constexpr LinearKernel kLinear[] = {
#if defined(__x86_64__)
    HARROW_TIER(avx512bf16, Isa::kAvx512Bf16),
    HARROW_TIER(avx512, Isa::kAvx512),
    HARROW_TIER(avx2, Isa::kAvx2),
#endif
    {"linear.ref", Isa::kScalar, Always, ref::LinearX, ref::Linear},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() {
  return kLinear;
}

}  // namespace harrow
