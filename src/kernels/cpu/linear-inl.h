// The linear kernels of one instruction-set tier. Included inside the tier's namespace and target
// region after simd/<tier>-inl.h, which gives the vector operations; no lambdas here, because they
// would not inherit the target.
//
// Sums live in arrays that must become registers. Loops over them are therefore written as fold
// expressions: GCC 12 unrolls nested loops after it has decided which arrays to keep in memory.
//
// These loops do all the work:
// - RowsKernel: row-major weights, few tokens. One stream of weights a thread; x comes from cache.
// - RowGroups: the same, up to kMaxRowTokens. Several rows share what is loaded of x.
// - Fused*: panel weights, up to kPanelTokens. A decoder yields units straight into registers.
// - Expanded*: many tokens. kMicroPanels panels are expanded, kExpandUnits cells at a time, into
//   first-level cache, and one micro-kernel runs over all token blocks, whatever the format was.
// - Skip*: very sparse panel weights, many tokens. Only cells with a non-zero are visited, or only
//   non-zeros.
// - Blocks*: block weights, any number of tokens. Only stored units are visited.
// - IndexPanel: weights with an index each, any number of tokens. Each step looks its x up.
// Quantized weights whose activations stay BF16 take Expanded* (weight_only-inl.h).

// Ask memory for a stream of weights LinearTask::fetch_distance ahead. The hardware's prefetcher
// alone does not keep every core busy (Zen 5, one thread, from memory): dense int8 goes from 0.88
// to 0.98 of the fastest read for 1 token, from 0.64 to 0.91 for 4. Masked formats need it most,
// because where a block begins is known only once the masks before it have arrived, and
// out-of-order execution cannot run ahead: int8 at 50 % took 3.1 ns a unit without it, 2.1 at 1536
// bytes, 1.6 at 4096, 1.5 at 8192, 1.2 at 12288, 1.25 at 16384 and beyond. Where it does (Zen 4),
// asking too is in its way: FetchDistance() in linear.cc.
HARROW_INLINE void FetchLater(const std::byte* p, int64_t distance) {
  __builtin_prefetch(p + distance, 0, 3);
}

#include "kernels/cpu/decoders-inl.h"

// ---- arithmetic of float units

struct RawLoader {  // four-byte elements as they are
  static constexpr int64_t kBytes = 64;
  static HARROW_INLINE F Load(const std::byte* p) { return LoadF(p); }
};
struct F16Loader {
  static constexpr int64_t kBytes = 32;
  static HARROW_INLINE F Load(const std::byte* p) { return LoadF16(p); }
};
struct Bf16Loader {
  static constexpr int64_t kBytes = 32;
  static HARROW_INLINE F Load(const std::byte* p) { return LoadBf16(p); }
};

// One float32 input a cell.
struct MathF32 {
  static HARROW_INLINE F Step(F acc, F w, F x) { return Fma(w, x, acc); }
};

#if HARROW_NATIVE_BF16
// Two bf16 inputs a cell, one instruction.
struct MathBf16 {
  using Loader = RawLoader;
  static constexpr XElement kElement = XElement::kBf16;
  static constexpr int kCellsPerUnit = 1;
  static HARROW_INLINE F Step(F acc, F w, F x) { return DotBf16(acc, AsUnit(w), AsUnit(x)); }
  // A panel unit times the cells at `x` of `tokens` tokens.
  static HARROW_INLINE F StepUnit(F acc, Unit w, const std::byte* x, int, int token) {
    return DotBf16Cell(acc, w, x + 4 * token);
  }
  static HARROW_INLINE void StoreExpanded(std::byte* out, Unit w) { StoreUnit(out, w); }
};
#else
// bf16 without a dot product: each unit is two cells of float32.
struct MathBf16 : MathF32 {
  using Loader = Bf16Loader;
  static constexpr XElement kElement = XElement::kF32RoundedToBf16;
  static constexpr int kCellsPerUnit = 2;
  static HARROW_INLINE F StepUnit(F acc, Unit w, const std::byte* x, int tokens, int token) {
    acc = Fma(EvenBf16(w), BroadcastF(x + 4 * token), acc);
    return Fma(OddBf16(w), BroadcastF(x + 4 * (tokens + token)), acc);
  }
  static HARROW_INLINE void StoreExpanded(std::byte* out, Unit w) {
    StoreF(reinterpret_cast<float*>(out), EvenBf16(w));
    StoreF(reinterpret_cast<float*>(out + 64), OddBf16(w));
  }
};
#endif

template <int... i>
using Ints = std::integer_sequence<int, i...>;
template <int n>
using Count = std::make_integer_sequence<int, n>;

template <class V, int... i>
HARROW_INLINE void Clear(V* acc, V zero, Ints<i...>) {
  ((acc[i] = Own(zero)), ...);
}
HARROW_INLINE F Plus(F a, F b) {
  return Add(a, b);
}
HARROW_INLINE I Plus(I a, I b) {
  return AddI(a, b);
}
template <int R, class V>
HARROW_INLINE V SumPartials(const V* acc) {
  if constexpr (R == 1) {
    return acc[0];
  } else {
    return Plus(SumPartials<R / 2>(acc), SumPartials<R / 2>(acc + R / 2));
  }
}

HARROW_INLINE void StoreLanes(float* y, F value, int64_t lanes) {
  if (lanes >= kPanelRows) {
    StoreF(y, value);
    return;
  }
  float all[kPanelRows];
  StoreF(all, value);
  __builtin_memcpy(y, all, static_cast<size_t>(lanes) * sizeof(float));
}

#include "kernels/cpu/few_tokens-inl.h"
//
#include "kernels/cpu/many_tokens-inl.h"
//
#include "kernels/cpu/skip_cells-inl.h"
//
#include "kernels/cpu/skip_pairs-inl.h"
//
#include "kernels/cpu/blocks-inl.h"
//
#include "kernels/cpu/index-inl.h"

// ---- entries: what x they want, and which loop runs

using TaskFn = void (*)(const LinearTask&) noexcept;

template <class Math, class Loader, int... kTokens>
HARROW_INLINE TaskFn RowsOf(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr TaskFn kTable[] = {&RowsKernel<Math, Loader, kTokens + 1>...};
  return kTable[tokens - 1];
}
template <class Decoder, int... kTokens>
HARROW_INLINE TaskFn FusedBf16Of(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr TaskFn kTable[] = {&FusedBf16<Decoder, kTokens + 1>...};
  return kTable[tokens - 1];
}
template <class Decoder, int... kTokens>
HARROW_INLINE TaskFn FusedI8Of(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr TaskFn kTable[] = {&FusedI8<Decoder, kTokens + 1>...};
  return kTable[tokens - 1];
}
using RowTokens = std::make_integer_sequence<int, kRowTokens>;
using PanelTokens = std::make_integer_sequence<int, kPanelTokens>;

XFormat CellsX(XElement element, int32_t group, int block_tokens) {
  XFormat format;
  format.element = element;
  format.layout = XLayout::kCells;
  format.group = group;
  format.block_tokens = block_tokens;
  return format;
}
int PanelBlockTokens(int64_t m) {
  return m <= kPanelTokens ? kPanelTokens : kMicroTokens;
}

XFormat LinearDenseX(const WeightSpec& spec, int64_t m) {
  XFormat format;
  format.element = spec.values == ValueType::kBf16 ? MathBf16::kElement : XElement::kF32;
  if (m > kMaxRowTokens) return CellsX(format.element, 0, kMicroTokens);
  format.layout = XLayout::kRows;
  if (m > kRowTokens) format.block_tokens = kRowBlockTokens;
  return format;
}

XFormat LinearBf16X(const WeightSpec&, int64_t m) {
  return CellsX(MathBf16::kElement, 0, PanelBlockTokens(m));
}

XFormat LinearPanelI8X(const WeightSpec& spec, int64_t m) {
  return CellsX(XElement::kI8, static_cast<int32_t>(ActivationGroup(spec.group)),
                PanelBlockTokens(m));
}

XFormat SkipX(XElement element, int32_t group) {
  XFormat format;
  format.element = element;
  format.layout = XLayout::kTiles;
  format.group = group;
  format.block_tokens = kSkipTile;
  return format;
}
XFormat LinearSkipBf16X(const WeightSpec&, int64_t) {
  XFormat format = SkipX(MathBf16::kElement, 0);
  if (kSkipsPairs) {
    format.layout = XLayout::kInputs;
    format.tile_multiple = 32;  // whole vectors of 2-byte inputs
  }
  return format;
}
XFormat LinearSkipI8X(const WeightSpec& spec, int64_t) {
  return SkipX(kOffsetWeights ? XElement::kU8 : XElement::kI8,
               static_cast<int32_t>(ActivationGroup(spec.group)));
}

template <class Math, class Loader>
HARROW_INLINE void DenseRun(const LinearTask& task) {
  if (task.x->m <= kRowTokens) return RowsOf<Math, Loader>(task.x->m, RowTokens())(task);
  if constexpr (kMaxRowTokens > kRowTokens) {
    if (task.x->m <= kMaxRowTokens) return RowGroups<Math, Loader>(task);
  }
  Expanded<Math, RowsExpander<Loader>>(task);
}
void LinearDenseF32(const LinearTask& task) noexcept {
  DenseRun<MathF32, RawLoader>(task);
}
void LinearDenseF16(const LinearTask& task) noexcept {
  DenseRun<MathF32, F16Loader>(task);
}
void LinearDenseBf16(const LinearTask& task) noexcept {
  DenseRun<MathBf16, MathBf16::Loader>(task);
}

template <class Decoder>
HARROW_INLINE void PanelBf16Run(const LinearTask& task) {
  if (task.x->m <= kPanelTokens) {
    FusedBf16Of<Decoder>(task.x->m, PanelTokens())(task);
  } else {
    Expanded<MathBf16, PanelExpander<Decoder>>(task);
  }
}
void LinearBitmaskBf16(const LinearTask& task) noexcept {
  if (IsQuadMask(task.weight->spec)) {
    PanelBf16Run<QuadBf16>(task);
  } else {
    PanelBf16Run<MaskedBf16<false>>(task);
  }
}
void LinearNmBf16(const LinearTask& task) noexcept {
  PanelBf16Run<MaskedBf16<true>>(task);
}

template <class Decoder>
HARROW_INLINE void PanelI8Run(const LinearTask& task) {
  if (task.x->m <= kPanelTokens) {
    FusedI8Of<Decoder>(task.x->m, PanelTokens())(task);
  } else {
    ExpandedI8<Decoder>(task);
  }
}
void LinearDensePanelI8(const LinearTask& task) noexcept {
  PanelI8Run<PlainI8>(task);
}
void LinearBitmaskI8(const LinearTask& task) noexcept {
  if (IsQuadMask(task.weight->spec)) {
    PanelI8Run<QuadI8>(task);
  } else {
    PanelI8Run<MaskedI8<false>>(task);
  }
}
void LinearNmI8(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI8<true>>(task);
}
void LinearDensePanelI4(const LinearTask& task) noexcept {
  PanelI8Run<PlainI4<false>>(task);
}
void LinearDensePanelU4(const LinearTask& task) noexcept {
  PanelI8Run<PlainI4<true>>(task);
}
void LinearBitmaskI4(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI4<false, false>>(task);
}
void LinearBitmaskU4(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI4<false, true>>(task);
}
void LinearNmI4(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI4<true, false>>(task);
}
void LinearNmU4(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI4<true, true>>(task);
}

void LinearBlockBf16(const LinearTask& task) noexcept {
  RunBlocks<ValueType::kBf16, 2>(task);
}
void LinearBlockI8(const LinearTask& task) noexcept {
  RunBlocks<ValueType::kI8, 4>(task);
}

void LinearSkipBitmaskBf16(const LinearTask& task) noexcept {
  SkipCellsRun<SkipBf16Of<MaskedBf16<false>>>(task);
}
void LinearSkipBitmaskI8(const LinearTask& task) noexcept {
  SkipCellsRun<SkipI8<MaskedI8<false>>>(task);
}

#include "kernels/cpu/weight_only-inl.h"
