// The linear kernels of one instruction-set tier. Included inside the tier's namespace and target
// region after simd/<tier>-inl.h, which gives the vector operations; no lambdas here, because they
// would not inherit the target.
//
// Sums live in arrays that must become registers. Loops over them are therefore written as fold
// expressions: GCC 12 unrolls nested loops after it has decided which arrays to keep in memory.
//
// Three loops do all the work:
// - RowsKernel: row-major weights, few tokens. One stream of weights a thread; x comes from cache.
// - Fused*: panel weights, few tokens. A decoder yields units straight into registers.
// - Expanded*: many tokens. A pair of panels is expanded, kExpandUnits cells at a time, into
//   first-level cache, and one micro-kernel runs over all token blocks, whatever the format was.

// ---- decoders: panel bytes to units

// How far ahead of a masked stream to ask for memory. Where a block begins is known only once the
// masks before it have arrived, so out-of-order execution cannot run ahead into memory, and the
// hardware's prefetcher alone leaves the loop waiting: int8 at 50 % took 3.1 ns a unit from memory
// without this; 2.1 at 1536 bytes, 1.6 at 4096, 1.5 at 8192, 1.2 at 12288, 1.25 at 16384 and more
// (Zen 5, one thread).
constexpr int64_t kFetchDistance = 12288;

// The masked formats. A block is 512 mask bits, then the stored codes. `stride` is the size of
// every block where that is fixed (nm), so that a block need not wait for the bit counts of the
// last.
//
// Where that wait is the limit (bitmask, few tokens) its length counts: the counts are added as a
// tree, 0.90 ns a unit on Zen 5 where one after the other took 1.07.
template <int kCodeBytes, bool kFixedStride>
struct MaskedBlocks {
  const std::byte* block;
  const std::byte* next;
  int64_t stride;
  Background background;
  uint64_t offsets[8];  // in codes, of each mask word's first code

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    next = in;
    stride = block_stride;
    background = MakeBackground(kCodeBytes == 1 ? 128 : 0);
  }
  HARROW_INLINE uint64_t Word(int i) const {
    uint64_t word;
    __builtin_memcpy(&word, block + 8 * i, sizeof(word));
    return word;
  }
  HARROW_INLINE uint64_t Bits(int i) const {
    return static_cast<uint64_t>(__builtin_popcountll(Word(i)));
  }
  HARROW_INLINE void BeginBlock() {
    block = next;
    const uint64_t first2 = Bits(0) + Bits(1);
    const uint64_t second2 = Bits(2) + Bits(3);
    const uint64_t third2 = Bits(4) + Bits(5);
    const uint64_t first4 = first2 + second2;
    const uint64_t third6 = first4 + third2;
    offsets[0] = 0;
    offsets[1] = Bits(0);
    offsets[2] = first2;
    offsets[3] = first2 + Bits(2);
    offsets[4] = first4;
    offsets[5] = first4 + Bits(4);
    offsets[6] = third6;
    offsets[7] = third6 + Bits(6);
    if constexpr (kFixedStride) {
      next = block + stride;
    } else {
      uint64_t total = first4 + (third2 + (Bits(6) + Bits(7)));
      __asm__("" : "+r"(total));  // keeps the compiler from chaining it behind offsets[7]
      next = block + kMaskBytes + kCodeBytes * total;
    }
  }
  HARROW_INLINE const std::byte* Codes(int i) const {
    return block + kMaskBytes + kCodeBytes * offsets[i];
  }
  // Asks for what stands kFetchDistance after mask word i's codes, and `bytes` on.
  HARROW_INLINE void FetchAfter(int i, int64_t bytes) const {
    __builtin_prefetch(Codes(i) + kFetchDistance + bytes, 0, 3);
  }
};

template <bool kFixedStride>
struct MaskedBf16 : MaskedBlocks<2, kFixedStride> {
  static constexpr int kUnits = 16;

  // A mask word's codes are up to two lines.
  HARROW_INLINE void Fetch(int u) const { this->FetchAfter(u / 2, u % 2 * 64); }
  HARROW_INLINE Unit Next(int u) {
    const uint64_t word = this->Word(u / 2);
    const uint32_t low = static_cast<uint32_t>(word);
    const std::byte* codes = this->Codes(u / 2);
    if (u % 2 == 0) return ExpandBf16(this->background, codes, low);
    return ExpandBf16(this->background, codes + 2 * static_cast<uint64_t>(__builtin_popcount(low)),
                      static_cast<uint32_t>(word >> 32));
  }
};

template <bool kFixedStride>
struct MaskedI8 : MaskedBlocks<1, kFixedStride> {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = false;

  HARROW_INLINE void Fetch(int u) const { this->FetchAfter(u, 0); }
  HARROW_INLINE UnitI8 Next(int u) {
    return ExpandI8(this->background, this->Codes(u), this->Word(u));
  }
};

struct PlainI8 {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = kOffsetWeights;  // the stored form is what DotI8 takes
  const std::byte* block;
  const std::byte* next;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) { next = in; }
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + kBlockWeights;
  }
  HARROW_INLINE void Fetch(int) const {}
  HARROW_INLINE UnitI8 Next(int u) { return LoadI8(block + 64 * u); }
};

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
    return DotBf16(acc, w, AsUnit(BroadcastF(x + 4 * token)));
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

// ---- row-major weights, few tokens

// acc[t * R + r] += w . x of token t, whose chunks stand 64 bytes apart.
template <class Math, int R, int... t>
HARROW_INLINE void StepRow(F* acc, int r, F w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = Math::Step(acc[t * R + r], w, LoadF(x + 64 * t))), ...);
}
// R chunks, one for each partial sum.
template <class Math, class Loader, int T, int... r>
HARROW_INLINE void StepChunks(F* acc, const std::byte* w, const std::byte* x, Ints<r...>) {
  (StepRow<Math, sizeof...(r)>(acc, r, Loader::Load(w + r * Loader::kBytes), x + r * 64 * T,
                               Count<T>()),
   ...);
}
template <int R, int... t>
HARROW_INLINE void StoreSums(const LinearTask& task, int64_t row, const F* acc, Ints<t...>) {
  ((task.y[t * task.y_stride + row] = Sum(SumPartials<R>(acc + t * R))), ...);
}
template <class Loader>
HARROW_INLINE F LoadRest(const std::byte* w, int64_t rest) {
  std::byte last[Loader::kBytes] = {};
  __builtin_memcpy(last, w, static_cast<size_t>(rest));
  return Loader::Load(last);
}

template <class Math, class Loader, int T>
HARROW_INLINE void OneRow(const LinearTask& task, int64_t row, int64_t row_bytes) {
  constexpr int R = Partials(T);
  const std::byte* w = task.weight->data.data() + row * row_bytes;
  const std::byte* x = task.x->values;
  const int64_t whole = row_bytes / Loader::kBytes;
  F acc[T * R];
  Clear(acc, ZeroF(), Count<T * R>());
  int64_t chunk = 0;
  for (; chunk + R <= whole; chunk += R) {
    StepChunks<Math, Loader, T>(acc, w, x, Count<R>());
    w += R * Loader::kBytes;
    x += R * 64 * T;
  }
  for (; chunk < whole; ++chunk) {
    StepRow<Math, R>(acc, 0, Loader::Load(w), x, Count<T>());
    w += Loader::kBytes;
    x += 64 * T;
  }
  if (const int64_t rest = row_bytes % Loader::kBytes; rest > 0)
    StepRow<Math, R>(acc, 0, LoadRest<Loader>(w, rest), x, Count<T>());
  StoreSums<R>(task, row, acc, Count<T>());
}

template <class Math, class Loader, int T>
void RowsKernel(const LinearTask& task) noexcept {
  const int64_t row_bytes = static_cast<int64_t>(task.weight->data.size()) / task.weight->rows;
  for (int64_t row = task.row_begin; row < task.row_end; ++row)
    OneRow<Math, Loader, T>(task, row, row_bytes);
}

// ---- panels, few tokens

template <int R, int... t>
HARROW_INLINE void StepUnit(F* acc, int r, Unit w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = MathBf16::StepUnit(acc[t * R + r], w, x, sizeof...(t), t)), ...);
}
template <int R, int... t>
HARROW_INLINE void StepUnit(I* acc, int r, UnitI8 w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = DotI8(acc[t * R + r], w, BroadcastI(x + 4 * t))), ...);
}
// One block; x_bytes is what one unit takes of x.
template <int T, int R, class V, class Decoder, int... u>
HARROW_INLINE void StepBlock(V* acc, Decoder* decoder, const std::byte* x, int64_t x_bytes,
                             Ints<u...>) {
  decoder->BeginBlock();
  ((decoder->Fetch(u), StepUnit<R>(acc, u % R, decoder->Next(u), x + u * x_bytes, Count<T>())),
   ...);
}
template <int R, int... t>
HARROW_INLINE void StorePanel(const LinearTask& task, int64_t row, const F* acc, Ints<t...>) {
  (StoreLanes(task.y + t * task.y_stride + row, SumPartials<R>(acc + t * R), task.row_end - row),
   ...);
}

template <class Decoder, int T>
void FusedBf16(const LinearTask& task) noexcept {
  constexpr int R = Partials(T);
  constexpr int64_t kXBytes = 4 * MathBf16::kCellsPerUnit * T;
  const LinearWeight& weight = *task.weight;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    Decoder decoder;
    decoder.Begin(weight.data.data() + PanelOffset(weight, row / kPanelRows), stride);
    const std::byte* x = task.x->values;
    F acc[T * R];
    Clear(acc, ZeroF(), Count<T * R>());
    for (int64_t b = 0; b < g.blocks; ++b) {
      StepBlock<T, R>(acc, &decoder, x, kXBytes, Count<Decoder::kUnits>());
      x += Decoder::kUnits * kXBytes;
    }
    StorePanel<R>(task, row, acc, Count<T>());
  }
}

// Starts the sums of a group at the correction for q + 128, where weights are stored so.
template <int R, int... t>
HARROW_INLINE void BeginGroup(I* acc, const int32_t* corrections, Ints<t...>) {
  if constexpr (kOffsetWeights) ((acc[t * R] = Own(BroadcastI(corrections + t))), ...);
}
// out[t] += sum * scale of the weights * scale of x.
template <int R, int... t>
HARROW_INLINE void EndGroup(F* out, const I* acc, F scale, const float* x_scales, Ints<t...>) {
  ((out[t] = Fma(ToF(SumPartials<R>(acc + t * R)), Mul(scale, BroadcastF(x_scales + t)), out[t])),
   ...);
}

template <class Decoder, int T>
void FusedI8(const LinearTask& task) noexcept {
  constexpr int R = Partials(T);
  const LinearWeight& weight = *task.weight;
  const PackedX& x = *task.x;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  const int64_t x_group_blocks = x.format.group / kBlockCols;
  const int64_t x_groups_per_scale = weight.spec.group / x.format.group;
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows);
    Decoder decoder;
    decoder.Begin(panel + g.scale_bytes, stride);
    const std::byte* cells = x.values;
    F out[T];
    Clear(out, ZeroF(), Count<T>());
    int64_t block = 0;
    for (int64_t group = 0; group < x.groups; ++group) {
      I acc[T * R];
      Clear(acc, ZeroI(), Count<T * R>());
      BeginGroup<R>(acc, x.corrections + group * T, Count<T>());
      const int64_t end = block + x_group_blocks < g.blocks ? block + x_group_blocks : g.blocks;
      for (; block < end; ++block) {
        StepBlock<T, R>(acc, &decoder, cells, 4 * T, Count<Decoder::kUnits>());
        cells += Decoder::kUnits * 4 * T;
      }
      const F scale = LoadBf16(panel + group / x_groups_per_scale * (2 * kPanelRows));
      EndGroup<R>(out, acc, scale, x.scales + group * T, Count<T>());
    }
    StorePanel<1>(task, row, out, Count<T>());
  }
}

// ---- many tokens: expand, then one micro-kernel
//
// Sums are indexed p * T + t for panel p and token t. `units` > 0. Own() and loops that test at
// their end matter: without either GCC 12 merges equal initial values, copies them back apart in
// the loop, and spills half of the 24 sums.

template <int P, int T, int... i>
HARROW_INLINE void LoadTile(F* acc, const float* tile, Ints<i...>) {
  ((acc[i] = LoadF(tile + i % T * kTaskRows + i / T * kPanelRows)), ...);
}
template <int P, int T, int... i>
HARROW_INLINE void StoreToTile(const F* acc, float* tile, Ints<i...>) {
  (StoreF(tile + i % T * kTaskRows + i / T * kPanelRows, acc[i]), ...);
}
template <class Math, int P, int T>
HARROW_INLINE void StepToken(F* acc, int t, F a, F b, F cell) {
  acc[t] = Math::Step(acc[t], a, cell);
  if constexpr (P == 2) acc[T + t] = Math::Step(acc[T + t], b, cell);
}
template <class Math, int P, int... t>
HARROW_INLINE void StepCell(F* acc, F a, F b, const std::byte* x, Ints<t...>) {
  (StepToken<Math, P, sizeof...(t)>(acc, t, a, b, BroadcastF(x + 4 * t)), ...);
}

// Lines of the next slice of weights, fetched while the micro-kernel works on this one: without
// that, memory rests while the arithmetic runs and the other way round. One line per panel and
// cell: 16 lines `step` bytes apart, and again from `turn` bytes on.
struct Ahead {
  const std::byte* line[2];
  int64_t step = 0;  // both 0: nothing more to fetch
  int64_t turn = 0;
};
template <int P>
HARROW_INLINE void Fetch(const Ahead& ahead, int64_t unit) {
  // No branch: a second way round the loop makes GCC copy all sums in it.
  const int64_t offset = (unit & 15) * ahead.step + (unit >> 4) * ahead.turn;
  __builtin_prefetch(ahead.line[0] + offset, 0, 2);
  if constexpr (P == 2) __builtin_prefetch(ahead.line[1] + offset, 0, 2);
}

// tile [T][kTaskRows] += (or =, when first) P panels of expanded units at w[p] times T tokens.
template <class Math, int P, int T>
void MicroKernel(const std::byte* const* w, const std::byte* x, int64_t units, bool first,
                 Ahead ahead, float* tile) noexcept {
  F acc[P * T];
  if (first) {
    Clear(acc, ZeroF(), Count<P * T>());
  } else {
    LoadTile<P, T>(acc, tile, Count<P * T>());
  }
  const std::byte* w0 = w[0];
  const std::byte* w1 = w[P - 1];
  int64_t unit = 0;
  do {
    const F a = LoadF(w0);
    const F b = P == 2 ? LoadF(w1) : a;
    w0 += 64;
    w1 += 64;
    StepCell<Math, P>(acc, a, b, x, Count<T>());
    x += 4 * T;
    Fetch<P>(ahead, unit);
  } while (++unit != units);
  StoreToTile<P, T>(acc, tile, Count<P * T>());
}

// A run of activation groups of one token block; the last may be short (`units` in all).
struct I8Slice {
  const std::byte* w[2];       // per panel: units as DotI8 takes them
  const std::byte* scales[2];  // per panel: bf16 [group / per_scale][16]
  const std::byte* x;
  const float* x_scales;  // [group][T], and so are the corrections
  const int32_t* corrections;
  int64_t first_group;
  int64_t groups;
  int64_t group_units;
  int64_t units;
  int64_t per_scale;
};

template <int P, int T, int... i>
HARROW_INLINE void BeginGroups(I* acc, const int32_t* corrections, Ints<i...>) {
  ((acc[i] = Own(kOffsetWeights ? BroadcastI(corrections + i % T) : ZeroI())), ...);
}
template <int P, int T>
HARROW_INLINE void StepTokenI8(I* acc, int t, UnitI8 a, UnitI8 b, I cell) {
  acc[t] = DotI8(acc[t], a, cell);
  if constexpr (P == 2) acc[T + t] = DotI8(acc[T + t], b, cell);
}
template <int P, int... t>
HARROW_INLINE void StepCellI8(I* acc, UnitI8 a, UnitI8 b, const std::byte* x, Ints<t...>) {
  (StepTokenI8<P, sizeof...(t)>(acc, t, a, b, BroadcastI(x + 4 * t)), ...);
}
template <int... i>
HARROW_INLINE void StoreAll(const I* acc, I* sums, Ints<i...>) {
  ((sums[i] = acc[i]), ...);
}
HARROW_INLINE void AddScaled(float* y, bool first, I sum, F scale) {
  StoreF(y, Fma(ToF(sum), scale, first ? ZeroF() : LoadF(y)));
}
template <int P, int T, int... i>
HARROW_INLINE void EndGroups(const I* acc, F scale0, F scale1, const float* x_scales, bool first,
                             float* tile, Ints<i...>) {
  (AddScaled(tile + i % T * kTaskRows + i / T * kPanelRows, first, acc[i],
             Mul(i < T ? scale0 : scale1, BroadcastF(x_scales + i % T))),
   ...);
}

// The integer sums of one group; the inner loop, alone so that its sums stay in registers.
template <int P, int T>
HARROW_INLINE void GroupSums(const std::byte* w0, const std::byte* w1, const std::byte* x,
                             int64_t units, const int32_t* corrections, const Ahead& ahead,
                             int64_t first_unit, I* sums) noexcept {
  I acc[P * T];
  BeginGroups<P, T>(acc, corrections, Count<P * T>());
  int64_t unit = 0;
  do {
    const UnitI8 a = LoadExpandedI8(w0);
    const UnitI8 b = P == 2 ? LoadExpandedI8(w1) : a;
    w0 += 64;
    w1 += 64;
    StepCellI8<P>(acc, a, b, x, Count<T>());
    x += 4 * T;
    Fetch<P>(ahead, first_unit + unit);
  } while (++unit != units);
  StoreAll(acc, sums, Count<P * T>());
}

template <int P, int T>
void MicroKernelI8(const I8Slice& s, Ahead ahead, float* tile) noexcept {
  int64_t done = 0;
  for (int64_t group = s.first_group; group < s.first_group + s.groups; ++group) {
    const int64_t units = s.units - done < s.group_units ? s.units - done : s.group_units;
    I sums[P * T];
    GroupSums<P, T>(s.w[0] + 64 * done, s.w[P - 1] + 64 * done, s.x + 4 * T * done, units,
                    s.corrections + group * T, ahead, done, sums);
    done += units;
    const int64_t scale_at = group / s.per_scale * (2 * kPanelRows);
    EndGroups<P, T>(sums, LoadBf16(s.scales[0] + scale_at), LoadBf16(s.scales[P - 1] + scale_at),
                    s.x_scales + group * T, group == 0, tile, Count<P * T>());
  }
}

using MicroFn = void (*)(const std::byte* const*, const std::byte*, int64_t, bool, Ahead,
                         float*) noexcept;
using MicroI8Fn = void (*)(const I8Slice&, Ahead, float*) noexcept;

template <class Math, int P, int... kTokens>
HARROW_INLINE MicroFn MicroOf(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr MicroFn kTable[] = {&MicroKernel<Math, P, kTokens + 1>...};
  return kTable[tokens - 1];
}
template <int P, int... kTokens>
HARROW_INLINE MicroI8Fn MicroI8Of(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr MicroI8Fn kTable[] = {&MicroKernelI8<P, kTokens + 1>...};
  return kTable[tokens - 1];
}
using MicroTokens = std::make_integer_sequence<int, kMicroTokens>;

// Copies the finished tile of `lanes` rows from `row` on to y.
HARROW_INLINE void StoreTile(const LinearTask& task, const float* tile, int64_t row,
                             int64_t lanes) {
  for (int64_t t = 0; t < task.x->m; ++t) {
    __builtin_memcpy(task.y + t * task.y_stride + row, tile + t * kTaskRows,
                     static_cast<size_t>(lanes) * sizeof(float));
  }
}

// Expanded units of up to kMicroPanels panels, and the tile of their results.
struct ExpandScratch {
  std::byte* panels[2];
  float* tile;
};
HARROW_INLINE ExpandScratch SplitScratch(std::byte* scratch) {
  ExpandScratch s;
  s.panels[0] = scratch;
  s.panels[1] = scratch + kExpandUnits * 64;
  s.tile = reinterpret_cast<float*>(scratch + 2 * kExpandUnits * 64);
  return s;
}

// What follows in each of `panels` panels from `row` on, or in the next ones (at the end: the last
// one again) when this was their last slice.
template <class Decoder>
HARROW_INLINE Ahead PanelsAhead(const LinearWeight& weight, int64_t row, int panels,
                                bool last_slice, const Decoder* decoders) {
  const int64_t last = (weight.rows - 1) / kPanelRows;
  Ahead ahead;
  for (int p = 0; p < 2; ++p) {
    const int64_t next = row / kPanelRows + panels + p;
    ahead.line[p] = last_slice ? weight.data.data() + PanelOffset(weight, next < last ? next : last)
                               : decoders[p < panels ? p : 0].next;
  }
  ahead.step = 64;
  ahead.turn = 16 * 64;
  return ahead;
}

// Expanders of float units: Begin(task, row, panels), then for slice after slice Expand() for each
// panel, and Next(), which tells what the slice after that will read.

template <class Decoder, int... u>
HARROW_INLINE void ExpandBlock(Decoder* decoder, std::byte* out, Ints<u...>) {
  decoder->BeginBlock();
  (MathBf16::StoreExpanded(out + u * 64 * MathBf16::kCellsPerUnit, decoder->Next(u)), ...);
}
template <class Decoder, int... u>
HARROW_INLINE void ExpandBlockI8(Decoder* decoder, std::byte* out, Ints<u...>) {
  decoder->BeginBlock();
  (StoreExpandedI8(out + u * 64, decoder->Next(u)), ...);
}

template <class Decoder>
struct PanelExpander {
  Decoder decoders[2];

  void Begin(const LinearTask& task, int64_t row, int panels) {
    const LinearWeight& weight = *task.weight;
    for (int p = 0; p < panels; ++p) {
      decoders[p].Begin(weight.data.data() + PanelOffset(weight, row / kPanelRows + p),
                        BlockStride(weight.spec));
    }
  }
  void Expand(int panel, int64_t units, std::byte* out) {
    Decoder decoder = decoders[panel];
    constexpr int64_t kCells = Decoder::kUnits * MathBf16::kCellsPerUnit;
    for (int64_t b = 0; b < units / kCells; ++b) {
      ExpandBlock(&decoder, out, Count<Decoder::kUnits>());
      out += 64 * kCells;
    }
    decoders[panel] = decoder;
  }
  Ahead Next(const LinearTask& task, int64_t row, int panels, bool last_slice) const {
    return PanelsAhead(*task.weight, row, panels, last_slice, decoders);
  }
};

// Row-major weights, transposed 16 rows x 16 cells at a time.
template <class Loader>
struct RowsExpander {
  const std::byte* panels_begin;
  int64_t row_bytes;
  int64_t rows;     // from the first row of the first panel to the end of W
  int64_t done[2];  // bytes of each row consumed

  void Begin(const LinearTask& task, int64_t row, int) {
    const LinearWeight& weight = *task.weight;
    row_bytes = static_cast<int64_t>(weight.data.size()) / weight.rows;
    panels_begin = weight.data.data() + row * row_bytes;
    rows = weight.rows - row;
    done[0] = done[1] = 0;
  }
  void Expand(int panel, int64_t units, std::byte* out) {
    const std::byte* from[kPanelRows];
    for (int64_t i = 0; i < kPanelRows; ++i) {
      // Lanes past the end repeat the last row; their results are not stored.
      const int64_t row = panel * kPanelRows + i;
      from[i] = panels_begin + (row < rows ? row : rows - 1) * row_bytes + done[panel];
    }
    for (int64_t u = 0; u < units; u += kPanelRows) {
      const int64_t left = row_bytes - done[panel];
      if (left >= Loader::kBytes) {
        TransposeToUnits<Loader>(from, out);
      } else {
        std::byte last[kPanelRows][Loader::kBytes] = {};
        const std::byte* padded[kPanelRows];
        for (int64_t i = 0; i < kPanelRows; ++i) {
          if (left > 0) __builtin_memcpy(last[i], from[i], static_cast<size_t>(left));
          padded[i] = last[i];
        }
        TransposeToUnits<Loader>(padded, out);
      }
      const int64_t step = left < Loader::kBytes ? left : Loader::kBytes;
      for (int64_t i = 0; i < kPanelRows; ++i)
        from[i] += step;
      done[panel] += step;
      out += kPanelRows * 64;
    }
  }
  Ahead Next(const LinearTask&, int64_t, int, bool last_slice) const {
    Ahead ahead;
    const int64_t skipped = last_slice ? kMicroPanels * kPanelRows : 0;
    const bool more = rows >= skipped + kMicroPanels * kPanelRows;
    for (int p = 0; p < 2; ++p) {
      ahead.line[p] = panels_begin;
      if (more) {
        ahead.line[p] +=
            (skipped + p % kMicroPanels * kPanelRows) * row_bytes + (last_slice ? 0 : done[0]);
      }
    }
    ahead.step = more ? row_bytes : 0;
    ahead.turn = more ? 64 : 0;
    return ahead;
  }
};

template <class Math, class Expander>
void Expanded(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const ExpandScratch scratch = SplitScratch(task.scratch);
  for (int64_t row = task.row_begin; row < task.row_end; row += kMicroPanels * kPanelRows) {
    const int64_t lanes = task.row_end - row < kMicroPanels * kPanelRows
                              ? task.row_end - row
                              : kMicroPanels * kPanelRows;
    const int panels = lanes > kPanelRows ? 2 : 1;
    Expander expander;
    expander.Begin(task, row, panels);
    for (int64_t begin = 0; begin < x.units; begin += kExpandUnits) {
      const int64_t units = x.units - begin < kExpandUnits ? x.units - begin : kExpandUnits;
      for (int p = 0; p < panels; ++p)
        expander.Expand(p, units, scratch.panels[p]);
      Ahead ahead = expander.Next(task, row, panels, begin + units == x.units);
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        const MicroFn micro = panels == 1 ? MicroOf<Math, 1>(tokens, MicroTokens())
                                          : MicroOf<Math, kMicroPanels>(tokens, MicroTokens());
        micro(scratch.panels, x.values + (token * x.units + begin * tokens) * 4, units, begin == 0,
              ahead, scratch.tile + token * kTaskRows);
        ahead.step = ahead.turn = 0;
      }
    }
    StoreTile(task, scratch.tile, row, lanes);
  }
}

template <class Decoder>
void ExpandedI8(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  const ExpandScratch scratch = SplitScratch(task.scratch);
  I8Slice slice;
  slice.group_units = x.format.group / 4;
  slice.per_scale = weight.spec.group / x.format.group;
  const int64_t slice_groups = kExpandUnits / slice.group_units;
  for (int64_t row = task.row_begin; row < task.row_end; row += kMicroPanels * kPanelRows) {
    const int64_t lanes = task.row_end - row < kMicroPanels * kPanelRows
                              ? task.row_end - row
                              : kMicroPanels * kPanelRows;
    const int panels = lanes > kPanelRows ? 2 : 1;
    Decoder decoders[2];
    for (int p = 0; p < panels; ++p) {
      slice.scales[p] = weight.data.data() + PanelOffset(weight, row / kPanelRows + p);
      decoders[p].Begin(slice.scales[p] + g.scale_bytes, stride);
    }
    for (int64_t group = 0; group < x.groups; group += slice_groups) {
      const int64_t begin = group * slice.group_units;
      slice.first_group = group;
      slice.groups = x.groups - group < slice_groups ? x.groups - group : slice_groups;
      slice.units = x.units - begin < slice.groups * slice.group_units
                        ? x.units - begin
                        : slice.groups * slice.group_units;
      for (int p = 0; p < panels; ++p) {
        Decoder decoder = decoders[p];
        if constexpr (Decoder::kDirect) {
          slice.w[p] = decoder.next;
          decoder.next += slice.units * 64;
        } else {
          std::byte* out = scratch.panels[p];
          slice.w[p] = out;
          for (int64_t b = 0; b < slice.units / Decoder::kUnits; ++b) {
            ExpandBlockI8(&decoder, out, Count<Decoder::kUnits>());
            out += 64 * Decoder::kUnits;
          }
        }
        decoders[p] = decoder;
      }
      Ahead ahead = PanelsAhead(weight, row, panels, group + slice.groups == x.groups, decoders);
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        slice.x = x.values + (token * x.units + begin * tokens) * 4;
        slice.x_scales = x.scales + token * x.groups;
        slice.corrections = x.corrections + token * x.groups;
        const MicroI8Fn micro = panels == 1 ? MicroI8Of<1>(tokens, MicroTokens())
                                            : MicroI8Of<kMicroPanels>(tokens, MicroTokens());
        micro(slice, ahead, scratch.tile + token * kTaskRows);
        ahead.step = ahead.turn = 0;
      }
    }
    StoreTile(task, scratch.tile, row, lanes);
  }
}

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
using FusedTokens = std::make_integer_sequence<int, kFusedTokens>;

XFormat CellsX(XElement element, int32_t group, int64_t m, int few_tokens) {
  XFormat format;
  format.element = element;
  format.layout = XLayout::kCells;
  format.group = group;
  format.block_tokens = m <= few_tokens ? few_tokens : kMicroTokens;
  return format;
}

XFormat LinearDenseX(const WeightSpec& spec, int64_t m) {
  XFormat format;
  format.element = spec.values == ValueType::kBf16 ? MathBf16::kElement : XElement::kF32;
  if (m > kRowTokens) return CellsX(format.element, 0, m, 0);
  format.layout = XLayout::kRows;
  return format;
}

XFormat LinearBf16X(const WeightSpec&, int64_t m) {
  return CellsX(MathBf16::kElement, 0, m, kFusedTokens);
}

XFormat LinearI8X(const WeightSpec& spec, int64_t m) {
  return CellsX(XElement::kI8, static_cast<int32_t>(ActivationGroup(spec.group)), m, kFusedTokens);
}

template <class Math, class Loader>
HARROW_INLINE void DenseRun(const LinearTask& task) {
  if (task.x->m <= kRowTokens) {
    RowsOf<Math, Loader>(task.x->m, RowTokens())(task);
  } else {
    Expanded<Math, RowsExpander<Loader>>(task);
  }
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
  if (task.x->m <= kFusedTokens) {
    FusedBf16Of<Decoder>(task.x->m, FusedTokens())(task);
  } else {
    Expanded<MathBf16, PanelExpander<Decoder>>(task);
  }
}
void LinearBitmaskBf16(const LinearTask& task) noexcept {
  PanelBf16Run<MaskedBf16<false>>(task);
}
void LinearNmBf16(const LinearTask& task) noexcept {
  PanelBf16Run<MaskedBf16<true>>(task);
}

template <class Decoder>
HARROW_INLINE void PanelI8Run(const LinearTask& task) {
  if (task.x->m <= kFusedTokens) {
    FusedI8Of<Decoder>(task.x->m, FusedTokens())(task);
  } else {
    ExpandedI8<Decoder>(task);
  }
}
void LinearDensePanelI8(const LinearTask& task) noexcept {
  PanelI8Run<PlainI8>(task);
}
void LinearBitmaskI8(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI8<false>>(task);
}
void LinearNmI8(const LinearTask& task) noexcept {
  PanelI8Run<MaskedI8<true>>(task);
}
