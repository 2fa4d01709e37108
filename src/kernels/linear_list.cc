// Every linear kernel, fastest first. One line a kernel.
#include "formats/panel.h"
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
bool Quantized(const WeightSpec& spec) {
  return IsQuantized(spec.values);
}
// The panel formats; not those that a later format.def may bring.
bool QuantizedPanels(const WeightSpec& spec) {
  return IsQuantized(spec.values) &&
         (spec.format == FormatId::kDensePanel || spec.format == FormatId::kBitmask ||
          spec.format == FormatId::kNm ||
          (spec.format == FormatId::kBlock && spec.block_rows == kPanelRows));
}

// One entry: the tier's `run` on weights of a format and value type.
#define HARROW_ENTRY(tier, isa, name, format, values, x, run) \
  { "linear." name "." #tier, isa, Is<FormatId::format, ValueType::values>, tier::x, tier::run }

// Whether passing over empty cells beats expanding them, from a line through what was measured
// (decision 041). The unit is what expanded cells of 64 tokens cost; `lists` is the price of the
// lists, `tile` and `cell` that of 64 tokens as such and of the share of cells that are listed.
bool SkipPays(double cells, int64_t m, double lists, double tile, double cell) {
  const double tiles = static_cast<double>(m) / 64;
  return m >= 32 && lists + tiles * (tile + cell * cells) < 0.2 + tiles;
}
// The share of cells of so many inputs with a non-zero, where zeros stand anywhere.
double ShareOfCells(const LinearWeight& weight, int inputs) {
  double zeros = 1;
  for (int i = 0; i < inputs; ++i)
    zeros *= 1 - StoredDensity(weight);
  return 1 - zeros;
}
// bf16 with a bf16 dot product: what is listed are non-zeros, not cells.
bool PairSkipPays(const LinearWeight& weight, int64_t m) {
  const double nonzeros = StoredDensity(weight);
  return SkipPays(nonzeros, m, 0.35 + 0.5 * nonzeros, 0.15, 1.65);
}
bool QuadSkipPays(const LinearWeight& weight, int64_t m) {
  const double cells = ShareOfCells(weight, 4);
  return SkipPays(cells, m, 1.3 + 0.8 * cells, 0.38, 1.1);
}

// Where skipping won wherever it was measured: bf16 in tiers without a bf16 dot product, whose
// cells are single inputs, and int8 of avx2.
template <int kMaxPercent>
bool PaysUpTo(const LinearWeight& weight, int64_t m) {
  return m >= 128 && StoredDensity(weight) * 100 <= kMaxPercent;
}

// Masks of single weights: cells of 1x4 blocks are not looked for.
template <ValueType kValues>
bool PlainMask(const WeightSpec& spec) {
  return Is<FormatId::kBitmask, kValues>(spec) && !IsQuadMask(spec);
}

// An entry that passes over empty cells where that pays.
#define HARROW_SKIP_ENTRY(tier, isa, name, values, x, run, pays)                                \
  {                                                                                             \
    "linear." name "_skip." #tier, isa, PlainMask<ValueType::values>, tier::x, tier::run, pays, \
        tier::SkipScratchBytes                                                                  \
  }

// An entry for block weights.
#define HARROW_BLOCK_ENTRY(tier, isa, name, values, x, run)                                     \
  {                                                                                             \
    "linear." name "." #tier, isa, Is<FormatId::kBlock, ValueType::values>, tier::x, tier::run, \
        nullptr, tier::BlockScratchBytes                                                        \
  }

// The entries of one tier.
#define HARROW_TIER(tier, isa, bf16_skip_pays, i8_skip_pays)                                    \
  HARROW_SKIP_ENTRY(tier, isa, "bitmask_bf16", kBf16, LinearSkipBf16X, LinearSkipBitmaskBf16,   \
                    bf16_skip_pays),                                                            \
      HARROW_SKIP_ENTRY(tier, isa, "bitmask_i8", kI8, LinearSkipI8X, LinearSkipBitmaskI8,       \
                        i8_skip_pays),                                                          \
      HARROW_ENTRY(tier, isa, "dense_bf16", kDense, kBf16, LinearDenseX, LinearDenseBf16),      \
      HARROW_ENTRY(tier, isa, "dense_f16", kDense, kF16, LinearDenseX, LinearDenseF16),         \
      HARROW_ENTRY(tier, isa, "dense_f32", kDense, kF32, LinearDenseX, LinearDenseF32),         \
      HARROW_ENTRY(tier, isa, "dense_panel_i8", kDensePanel, kI8, LinearPanelI8X,               \
                   LinearDensePanelI8),                                                         \
      HARROW_ENTRY(tier, isa, "dense_panel_i4", kDensePanel, kI4, LinearPanelI8X,               \
                   LinearDensePanelI4),                                                         \
      HARROW_ENTRY(tier, isa, "dense_panel_u4", kDensePanel, kU4, LinearPanelI8X,               \
                   LinearDensePanelU4),                                                         \
      HARROW_ENTRY(tier, isa, "bitmask_bf16", kBitmask, kBf16, LinearBf16X, LinearBitmaskBf16), \
      HARROW_ENTRY(tier, isa, "bitmask_i8", kBitmask, kI8, LinearPanelI8X, LinearBitmaskI8),    \
      HARROW_ENTRY(tier, isa, "bitmask_i4", kBitmask, kI4, LinearPanelI8X, LinearBitmaskI4),    \
      HARROW_ENTRY(tier, isa, "bitmask_u4", kBitmask, kU4, LinearPanelI8X, LinearBitmaskU4),    \
      HARROW_ENTRY(tier, isa, "nm_bf16", kNm, kBf16, LinearBf16X, LinearNmBf16),                \
      HARROW_ENTRY(tier, isa, "nm_i8", kNm, kI8, LinearPanelI8X, LinearNmI8),                   \
      HARROW_ENTRY(tier, isa, "nm_i4", kNm, kI4, LinearPanelI8X, LinearNmI4),                   \
      HARROW_ENTRY(tier, isa, "nm_u4", kNm, kU4, LinearPanelI8X, LinearNmU4),                   \
      HARROW_BLOCK_ENTRY(tier, isa, "block_bf16", kBf16, LinearBlockBf16X, LinearBlockBf16),    \
      HARROW_BLOCK_ENTRY(tier, isa, "block_i8", kI8, LinearBlockI8X, LinearBlockI8),            \
      HARROW_ENTRY(tier, isa, "index_i8", kIndex, kI8, LinearIndexX, LinearIndexI8), {          \
    "linear.weight_only." #tier, isa, QuantizedPanels, tier::LinearWeightOnlyX,                 \
        tier::LinearWeightOnly                                                                  \
  }

constexpr LinearKernel kLinear[] = {
#if defined(__x86_64__)
    HARROW_TIER(avx512bf16, Isa::kAvx512Bf16, PairSkipPays, QuadSkipPays),
    HARROW_TIER(avx512, Isa::kAvx512, PaysUpTo<20>, QuadSkipPays),
    HARROW_TIER(avx2, Isa::kAvx2, PaysUpTo<20>, PaysUpTo<12>),
#endif
    {"linear.ref_weight_only", Isa::kScalar, Quantized, ref::LinearWeightOnlyX, ref::Linear},
    {"linear.ref", Isa::kScalar, Always, ref::LinearX, ref::Linear},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() {
  return kLinear;
}

}  // namespace harrow
