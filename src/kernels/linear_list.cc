// Every linear kernel, fastest first. One line a kernel.
#include "kernels/cpu/linear_cpu.h"
#include "kernels/linear.h"
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

// One entry: the tier's `run` on weights of a format and value type.
#define HARROW_ENTRY(tier, isa, name, format, values, x, run) \
  { "linear." name "." #tier, isa, Is<FormatId::format, ValueType::values>, tier::x, tier::run }

// Where passing over empty cells beats expanding them: decision 041.
template <int64_t kMinM, int kMaxPercent>
bool Sparse(const LinearWeight& weight, int64_t m) {
  return m >= kMinM && StoredDensity(weight) * 100 <= kMaxPercent;
}
// An entry that passes over empty cells, for M and densities (in percent) where that pays.
#define HARROW_SKIP_ENTRY(tier, isa, name, format, values, x, run, min_m, max_percent)    \
  {                                                                                       \
    "linear." name "_skip." #tier, isa, Is<FormatId::format, ValueType::values>, tier::x, \
        tier::run, Sparse<min_m, max_percent>, tier::SkipScratchBytes                     \
  }

// The entries of one tier.
#define HARROW_TIER(tier, isa)                                                                    \
  HARROW_SKIP_ENTRY(tier, isa, "bitmask_bf16", kBitmask, kBf16, LinearSkipBf16X,                  \
                    LinearSkipBitmaskBf16, 64, 40),                                               \
      HARROW_SKIP_ENTRY(tier, isa, "bitmask_i8", kBitmask, kI8, LinearSkipI8X,                    \
                        LinearSkipBitmaskI8, 64, 20),                                             \
      HARROW_ENTRY(tier, isa, "dense_bf16", kDense, kBf16, LinearDenseX, LinearDenseBf16),        \
      HARROW_ENTRY(tier, isa, "dense_f16", kDense, kF16, LinearDenseX, LinearDenseF16),           \
      HARROW_ENTRY(tier, isa, "dense_f32", kDense, kF32, LinearDenseX, LinearDenseF32),           \
      HARROW_ENTRY(tier, isa, "dense_panel_i8", kDensePanel, kI8, LinearI8X, LinearDensePanelI8), \
      HARROW_ENTRY(tier, isa, "dense_panel_i4", kDensePanel, kI4, LinearI8X, LinearDensePanelI4), \
      HARROW_ENTRY(tier, isa, "dense_panel_u4", kDensePanel, kU4, LinearI8X, LinearDensePanelU4), \
      HARROW_ENTRY(tier, isa, "bitmask_bf16", kBitmask, kBf16, LinearBf16X, LinearBitmaskBf16),   \
      HARROW_ENTRY(tier, isa, "bitmask_i8", kBitmask, kI8, LinearI8X, LinearBitmaskI8),           \
      HARROW_ENTRY(tier, isa, "bitmask_i4", kBitmask, kI4, LinearI8X, LinearBitmaskI4),           \
      HARROW_ENTRY(tier, isa, "bitmask_u4", kBitmask, kU4, LinearI8X, LinearBitmaskU4),           \
      HARROW_ENTRY(tier, isa, "nm_bf16", kNm, kBf16, LinearBf16X, LinearNmBf16),                  \
      HARROW_ENTRY(tier, isa, "nm_i8", kNm, kI8, LinearI8X, LinearNmI8),                          \
      HARROW_ENTRY(tier, isa, "nm_i4", kNm, kI4, LinearI8X, LinearNmI4),                          \
      HARROW_ENTRY(tier, isa, "nm_u4", kNm, kU4, LinearI8X, LinearNmU4),                          \
      HARROW_ENTRY(tier, isa, "block_bf16", kBlock, kBf16, LinearBf16X, LinearBlockBf16),         \
      HARROW_ENTRY(tier, isa, "block_i8", kBlock, kI8, LinearI8X, LinearBlockI8)

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
