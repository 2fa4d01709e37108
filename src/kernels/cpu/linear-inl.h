// The linear kernels of one instruction-set tier. Included inside the tier's namespace and target
// region after simd/<tier>-inl.h, which gives the vector operations; no lambdas here, because they
// would not inherit the target.
//
// Three loops do all the work:
// - RowsKernel: row-major weights, few tokens. One stream of weights a thread; x comes from cache.
// - Fused*: panel weights, few tokens. A decoder yields units straight into registers.
// - Expanded*: many tokens. A pair of panels is expanded, kExpandUnits cells at a time, into
//   first-level cache, and one micro-kernel runs over all token blocks, whatever the format was.

// ---- decoders: panel bytes to units

// The masked formats. A block is 64 bytes of masks, then codes; `stride` is the size of every block
// where that is fixed (nm), so that a block need not wait for the population counts of the last.
template <bool kFixedStride>
struct MaskedBf16 {
  static constexpr int kUnits = 16;
  const std::byte* block;
  const std::byte* next;
  int64_t stride;
  Background background;

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    next = in;
    stride = block_stride;
    background = MakeBackground(0);
  }
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + 64;
  }
  HARROW_INLINE Unit Next(int u) {
    uint32_t mask;
    __builtin_memcpy(&mask, block + 4 * u, sizeof(mask));
    const Unit unit = ExpandBf16(background, next, mask);
    next += 2 * static_cast<uint64_t>(__builtin_popcountll(mask));
    return unit;
  }
  HARROW_INLINE void EndBlock() {
    if constexpr (kFixedStride) next = block + stride;
  }
};

template <bool kFixedStride>
struct MaskedI8 {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = false;
  const std::byte* block;
  const std::byte* next;
  int64_t stride;
  Background background;

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    next = in;
    stride = block_stride;
    background = MakeBackground(128);
  }
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + 64;
  }
  HARROW_INLINE UnitI8 Next(int u) {
    uint64_t mask;
    __builtin_memcpy(&mask, block + 8 * u, sizeof(mask));
    const UnitI8 unit = ExpandI8(background, next, mask);
    next += static_cast<uint64_t>(__builtin_popcountll(mask));
    return unit;
  }
  HARROW_INLINE void EndBlock() {
    if constexpr (kFixedStride) next = block + stride;
  }
};

struct PlainI8 {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = kOffsetWeights;  // the stored form is what DotI8 takes
  const std::byte* next;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) { next = in; }
  HARROW_INLINE void BeginBlock() {}
  HARROW_INLINE UnitI8 Next(int u) { return LoadI8(next + 64 * u); }
  HARROW_INLINE void EndBlock() { next += kBlockWeights; }
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

// Independent partial sums per output: enough in total to hide the latency of the dot product.
constexpr int Partials(int tokens) {
  return tokens == 1 ? 4 : tokens <= 4 ? 2 : 1;
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

template <class Math, class Loader, int T>
void RowsKernel(const LinearTask& task) noexcept {
  constexpr int R = Partials(T);
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  const int64_t row_bytes = static_cast<int64_t>(weight.data.size()) / weight.rows;
  const int64_t whole = row_bytes / Loader::kBytes;
  const int64_t rest = row_bytes % Loader::kBytes;
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const std::byte* w = weight.data.data() + row * row_bytes;
    const std::byte* xs = x.values;
    F acc[T * R];
#pragma GCC unroll 48
    for (int i = 0; i < T * R; ++i)
      acc[i] = ZeroF();
    int64_t c = 0;
    for (; c + R <= whole; c += R) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const F wide = Loader::Load(w);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t)
          acc[t * R + r] = Math::Step(acc[t * R + r], wide, LoadF(xs + 64 * t));
        w += Loader::kBytes;
        xs += 64 * T;
      }
    }
    for (; c < whole; ++c) {
      const F wide = Loader::Load(w);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t)
        acc[t * R] = Math::Step(acc[t * R], wide, LoadF(xs + 64 * t));
      w += Loader::kBytes;
      xs += 64 * T;
    }
    if (rest > 0) {
      std::byte last[Loader::kBytes] = {};
      __builtin_memcpy(last, w, static_cast<size_t>(rest));
      const F wide = Loader::Load(last);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t)
        acc[t * R] = Math::Step(acc[t * R], wide, LoadF(xs + 64 * t));
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      F sum = acc[t * R];
#pragma GCC unroll 4
      for (int r = 1; r < R; ++r)
        sum = Add(sum, acc[t * R + r]);
      task.y[t * task.y_stride + row] = Sum(sum);
    }
  }
}

// ---- panels, few tokens

template <class Decoder, int T>
void FusedBf16(const LinearTask& task) noexcept {
  constexpr int R = Partials(T);
  constexpr int kXBytes = 4 * MathBf16::kCellsPerUnit * T;  // of x for one unit
  const LinearWeight& weight = *task.weight;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    Decoder decoder;
    decoder.Begin(weight.data.data() + PanelOffset(weight, row / kPanelRows), stride);
    const std::byte* x = task.x->values;
    F acc[T * R];
#pragma GCC unroll 16
    for (int i = 0; i < T * R; ++i)
      acc[i] = ZeroF();
    for (int64_t b = 0; b < g.blocks; ++b) {
      decoder.BeginBlock();
#pragma GCC unroll 16
      for (int u = 0; u < Decoder::kUnits; ++u) {
        const Unit w = decoder.Next(u);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t)
          acc[t * R + u % R] = MathBf16::StepUnit(acc[t * R + u % R], w, x, T, t);
        x += kXBytes;
      }
      decoder.EndBlock();
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      F sum = acc[t * R];
#pragma GCC unroll 4
      for (int r = 1; r < R; ++r)
        sum = Add(sum, acc[t * R + r]);
      StoreLanes(task.y + t * task.y_stride + row, sum, task.row_end - row);
    }
  }
}

template <class Decoder, int T>
void FusedI8(const LinearTask& task) noexcept {
  constexpr int R = Partials(T);
  const LinearWeight& weight = *task.weight;
  const PackedX& x = *task.x;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  const int64_t x_group_blocks = x.format.group / kBlockCols;
  const int64_t x_groups_per_scale = g.group_blocks / x_group_blocks;
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows);
    Decoder decoder;
    decoder.Begin(panel + g.scale_bytes, stride);
    const std::byte* xs = x.values;
    F out[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      out[t] = ZeroF();
    int64_t block = 0;
    for (int64_t group = 0; group < x.groups; ++group) {
      I acc[T * R];
#pragma GCC unroll 16
      for (int i = 0; i < T * R; ++i) {
        acc[i] =
            kOffsetWeights && i % R == 0 ? BroadcastI(x.corrections + group * T + i / R) : ZeroI();
      }
      const int64_t end = block + x_group_blocks < g.blocks ? block + x_group_blocks : g.blocks;
      for (; block < end; ++block) {
        decoder.BeginBlock();
#pragma GCC unroll 8
        for (int u = 0; u < Decoder::kUnits; ++u) {
          const UnitI8 w = decoder.Next(u);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t)
            acc[t * R + u % R] = DotI8(acc[t * R + u % R], w, BroadcastI(xs + 4 * t));
          xs += 4 * T;
        }
        decoder.EndBlock();
      }
      const F scale = LoadBf16(panel + group / x_groups_per_scale * (2 * kPanelRows));
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        I sum = acc[t * R];
#pragma GCC unroll 4
        for (int r = 1; r < R; ++r)
          sum = AddI(sum, acc[t * R + r]);
        out[t] = Fma(ToF(sum), Mul(scale, BroadcastF(x.scales + group * T + t)), out[t]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      StoreLanes(task.y + t * task.y_stride + row, out[t], task.row_end - row);
  }
}

// ---- many tokens: expand, then one micro-kernel

// tile [T][kTaskRows] += (or =, when first) P panels of expanded units at w[p] times T tokens.
template <class Math, int P, int T>
void MicroKernel(const std::byte* const* w, const std::byte* x, int64_t units, bool first,
                 float* tile) noexcept {
  F acc[P * T];
#pragma GCC unroll 24
  for (int i = 0; i < P * T; ++i)
    acc[i] = first ? ZeroF() : LoadF(tile + i % T * kTaskRows + i / T * kPanelRows);
  const std::byte* w0 = w[0];
  const std::byte* w1 = w[P - 1];
  for (int64_t u = 0; u < units; ++u) {
    const F a = LoadF(w0 + 64 * u);
    const F b = P == 2 ? LoadF(w1 + 64 * u) : a;
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      const F cell = BroadcastF(x + 4 * t);
      acc[t] = Math::Step(acc[t], a, cell);
      if constexpr (P == 2) acc[T + t] = Math::Step(acc[T + t], b, cell);
    }
    x += 4 * T;
  }
#pragma GCC unroll 24
  for (int i = 0; i < P * T; ++i)
    StoreF(tile + i % T * kTaskRows + i / T * kPanelRows, acc[i]);
}

// The same for `groups` activation groups of `group_units` units (the last may have fewer: `units`
// in all). scales[p]: bf16 [16] per weight group of `per_scale` activation groups, counted from
// `first_group`.
struct I8Slice {
  const std::byte* w[2];
  const std::byte* scales[2];
  const std::byte* x;
  const float* x_scales;
  const int32_t* corrections;
  int64_t first_group;
  int64_t groups;
  int64_t group_units;
  int64_t units;
  int64_t per_scale;
};

template <int P, int T>
void MicroKernelI8(const I8Slice& s, float* tile) noexcept {
  const std::byte* w0 = s.w[0];
  const std::byte* w1 = s.w[P - 1];
  const std::byte* x = s.x;
  int64_t left = s.units;
  for (int64_t group = s.first_group; group < s.first_group + s.groups; ++group) {
    I acc[P * T];
#pragma GCC unroll 24
    for (int i = 0; i < P * T; ++i)
      acc[i] = kOffsetWeights ? BroadcastI(s.corrections + group * T + i % T) : ZeroI();
    const int64_t units = left < s.group_units ? left : s.group_units;
    left -= units;
    for (int64_t u = 0; u < units; ++u) {
      const UnitI8 a = LoadExpandedI8(w0);
      const UnitI8 b = P == 2 ? LoadExpandedI8(w1) : a;
      w0 += 64;
      w1 += 64;
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const I cell = BroadcastI(x + 4 * t);
        acc[t] = DotI8(acc[t], a, cell);
        if constexpr (P == 2) acc[T + t] = DotI8(acc[T + t], b, cell);
      }
      x += 4 * T;
    }
    const int64_t scale_at = group / s.per_scale * (2 * kPanelRows);
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      const F scale = LoadBf16(s.scales[p] + scale_at);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        float* y = tile + t * kTaskRows + p * kPanelRows;
        const F product = Mul(scale, BroadcastF(s.x_scales + group * T + t));
        const F before = group == 0 ? ZeroF() : LoadF(y);
        StoreF(y, Fma(ToF(acc[p * T + t]), product, before));
      }
    }
  }
}

using MicroFn = void (*)(const std::byte* const*, const std::byte*, int64_t, bool, float*) noexcept;
using MicroI8Fn = void (*)(const I8Slice&, float*) noexcept;

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

// Expanders of float units: Begin(task, row, panels), then Expand(units, out) slice after slice.

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
      decoder.BeginBlock();
#pragma GCC unroll 16
      for (int u = 0; u < Decoder::kUnits; ++u) {
        MathBf16::StoreExpanded(out, decoder.Next(u));
        out += 64 * MathBf16::kCellsPerUnit;
      }
      decoder.EndBlock();
    }
    decoders[panel] = decoder;
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
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        const MicroFn micro = panels == 2 ? MicroOf<Math, 2>(tokens, MicroTokens())
                                          : MicroOf<Math, 1>(tokens, MicroTokens());
        micro(scratch.panels, x.values + (token * x.units + begin * tokens) * 4, units, begin == 0,
              scratch.tile + token * kTaskRows);
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
            decoder.BeginBlock();
#pragma GCC unroll 8
            for (int u = 0; u < Decoder::kUnits; ++u) {
              StoreExpandedI8(out, decoder.Next(u));
              out += 64;
            }
            decoder.EndBlock();
          }
        }
        decoders[p] = decoder;
      }
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        slice.x = x.values + (token * x.units + begin * tokens) * 4;
        slice.x_scales = x.scales + token * x.groups;
        slice.corrections = x.corrections + token * x.groups;
        const MicroI8Fn micro =
            panels == 2 ? MicroI8Of<2>(tokens, MicroTokens()) : MicroI8Of<1>(tokens, MicroTokens());
        micro(slice, scratch.tile + token * kTaskRows);
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
