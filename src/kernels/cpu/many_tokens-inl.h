// Products with many tokens, bound by arithmetic. Part of linear-inl.h.

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
template <int P, int T>
HARROW_INLINE void BeginSums(F* acc, bool first, const float* tile) {
  if (first) {
    Clear(acc, ZeroF(), Count<P * T>());
  } else {
    LoadTile<P, T>(acc, tile, Count<P * T>());
  }
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
  BeginSums<P, T>(acc, first, tile);
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
  const std::byte* zeros[2];   // per panel: bytes [group / per_scale][16]; null without
  float inverse;               // the scales are too large by 1 / inverse
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
template <int T, int... i>
HARROW_INLINE void AddZeros(I* sums, const I* zero_shifts, const int32_t* corrections, Ints<i...>) {
  ((sums[i] = WithZeros(sums[i], zero_shifts[i / T], corrections + i % T)), ...);
}
template <int... i>
HARROW_INLINE void StoreAll(const I* acc, I* sums, Ints<i...>) {
  ((sums[i] = acc[i]), ...);
}
// sums of floats += integer sums * their scales.
template <int P, int T, int... i>
HARROW_INLINE void EndGroups(F* out, const I* acc, F scale0, F scale1, const float* x_scales,
                             Ints<i...>) {
  ((out[i] = Fma(ToF(acc[i]), Mul(i < T ? scale0 : scale1, BroadcastF(x_scales + i % T)), out[i])),
   ...);
}

// Where there are registers enough (kFloatSumsStay) the float sums stay in them beside the integer
// ones, which is why blocks of tokens are smaller here; else they are in the tile between groups.
template <int P, int T>
void MicroKernelI8(const I8Slice& s, Ahead ahead, float* tile) noexcept {
  F out[P * T];
  BeginSums<P, T>(out, s.first_group == 0, tile);
  const std::byte* w0 = s.w[0];
  const std::byte* w1 = s.w[P - 1];
  const std::byte* x = s.x;
  int64_t unit = 0;
  for (int64_t group = s.first_group; group < s.first_group + s.groups; ++group) {
    const int64_t end = s.units - unit < s.group_units ? s.units : unit + s.group_units;
    I acc[P * T];
    BeginGroups<P, T>(acc, s.corrections + group * T, Count<P * T>());
    do {
      const UnitI8 a = LoadExpandedI8(w0);
      const UnitI8 b = P == 2 ? LoadExpandedI8(w1) : a;
      w0 += 64;
      w1 += 64;
      StepCellI8<P>(acc, a, b, x, Count<T>());
      x += 4 * T;
      Fetch<P>(ahead, unit);
    } while (++unit != end);
    const int64_t lanes_at = group / s.per_scale * kPanelRows;
    if (s.zeros[0] != nullptr) {
      const I shifts[2] = {ZeroShift(LoadBytes(s.zeros[0] + lanes_at)),
                           ZeroShift(LoadBytes(s.zeros[P - 1] + lanes_at))};
      AddZeros<T>(acc, shifts, s.corrections + group * T, Count<P * T>());
    }
    if constexpr (!kFloatSumsStay) BeginSums<P, T>(out, group == 0, tile);
    const F inverse = BroadcastF(&s.inverse);
    EndGroups<P, T>(out, acc, Mul(LoadBf16(s.scales[0] + 2 * lanes_at), inverse),
                    Mul(LoadBf16(s.scales[P - 1] + 2 * lanes_at), inverse), s.x_scales + group * T,
                    Count<P * T>());
    if constexpr (!kFloatSumsStay) StoreToTile<P, T>(out, tile, Count<P * T>());
  }
  if constexpr (kFloatSumsStay) StoreToTile<P, T>(out, tile, Count<P * T>());
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
using MicroTokensI8 = std::make_integer_sequence<int, kMicroTokensI8>;

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
  slice.zeros[0] = slice.zeros[1] = nullptr;
  slice.inverse = 1 / Decoder::kFactor;
  const int64_t group_blocks = slice.group_units / Decoder::kUnits;
  const int64_t slice_groups = kExpandUnits / slice.group_units;
  for (int64_t row = task.row_begin; row < task.row_end; row += kMicroPanels * kPanelRows) {
    const int64_t lanes = task.row_end - row < kMicroPanels * kPanelRows
                              ? task.row_end - row
                              : kMicroPanels * kPanelRows;
    const int panels = lanes > kPanelRows ? 2 : 1;
    Decoder decoders[2];
    for (int p = 0; p < panels; ++p) {
      slice.scales[p] = weight.data.data() + PanelOffset(weight, row / kPanelRows + p);
      if constexpr (Decoder::kZeros) slice.zeros[p] = slice.scales[p] + g.zeros_at();
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
            if constexpr (Decoder::kZeros) {
              if (b % group_blocks == 0) {
                const int64_t weight_group = (group + b / group_blocks) / slice.per_scale;
                decoder.BeginGroup(LoadBytes(slice.zeros[p] + weight_group * kPanelRows));
              }
            }
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
        const MicroI8Fn micro = panels == 1 ? MicroI8Of<1>(tokens, MicroTokensI8())
                                            : MicroI8Of<kMicroPanels>(tokens, MicroTokensI8());
        micro(slice, ahead, scratch.tile + token * kTaskRows);
        ahead.step = ahead.turn = 0;
      }
    }
    StoreTile(task, scratch.tile, row, lanes);
  }
}
