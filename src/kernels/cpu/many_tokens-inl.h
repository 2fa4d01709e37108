// Products with many tokens, bound by arithmetic. Part of linear-inl.h.

// ---- many tokens: expand, then one micro-kernel
//
// Sums are indexed p * T + t for panel p and token t. `units` > 0; loops test at their end.

constexpr int64_t kMicroRows = kMicroPanels * kPanelRows;
static_assert(kTaskRows % kMicroRows == 0);
static_assert(kMicroPanels * kExpandUnits * 64 <= kExpandBytes);

// Float sums of T tokens, kPanelRows a panel and `stride` apart: what was summed up so far at
// `from`, what it becomes at `to`. The first slice of inputs begins at zeros, the last ends in y.
struct Sums {
  const float* from;
  float* to;
  int64_t from_stride;
  int64_t to_stride;

  HARROW_INLINE const float* From(int p, int t) const {
    return from + t * from_stride + p * kPanelRows;
  }
  HARROW_INLINE float* To(int p, int t) const { return to + t * to_stride + p * kPanelRows; }
};

template <int T, int... i>
HARROW_INLINE void BeginSums(F* acc, const Sums& sums, Ints<i...>) {
  ((acc[i] = LoadF(sums.From(i / T, i % T))), ...);
}
template <int T, int... i>
HARROW_INLINE void EndSums(const F* acc, const Sums& sums, Ints<i...>) {
  (StoreF(sums.To(i / T, i % T), acc[i]), ...);
}
// Asks for the lines that the sums go to, long before they do: in y they are in no cache.
template <int T, int... i>
HARROW_INLINE void FetchSums(const Sums& sums, Ints<i...>) {
  (__builtin_prefetch(sums.To(i / T, i % T), 1, 3), ...);
}
template <int... p>
HARROW_INLINE void LoadUnits(F* out, const std::byte* const* w, int64_t at, Ints<p...>) {
  ((out[p] = LoadF(w[p] + at)), ...);
}
template <class Math, int T, int... p>
HARROW_INLINE void StepPanels(F* acc, const F* w, F cell, Ints<p...>) {
  ((acc[p * T] = Math::Step(acc[p * T], w[p], cell)), ...);
}
template <class Math, int P, int... t>
HARROW_INLINE void StepCell(F* acc, const F* w, const std::byte* x, Ints<t...>) {
  (StepPanels<Math, sizeof...(t)>(acc + t, w, BroadcastF(x + 4 * t), Count<P>()), ...);
}

// Lines of the next slice of weights, fetched while the micro-kernel works on this one: without
// that, memory rests while the arithmetic runs and the other way round. One line per panel and
// cell: 16 lines `step` bytes apart, and again from `turn` bytes on. The first blocks of tokens ask
// for kFetchPanels panels each.
constexpr int kFetchPanels = kMicroPanels < 2 ? 1 : 2;
struct Ahead {
  const std::byte* line[kMicroPanels];
  int64_t step = 0;  // both 0: nothing more to fetch
  int64_t turn = 0;

  // What block b of tokens asks for: panels from here on.
  int Share(int64_t b) {
    const int first = b * kFetchPanels < kMicroPanels ? static_cast<int>(b) * kFetchPanels : 0;
    if (b > 0 && first == 0) step = turn = 0;
    return first;
  }
};
HARROW_INLINE void Fetch(const std::byte* const* line, int64_t step, int64_t turn, int64_t unit) {
  // No branch: a second way round the loop makes GCC copy all sums in it.
  const int64_t offset = (unit & 15) * step + (unit >> 4) * turn;
  __builtin_prefetch(line[0] + offset, 0, 2);
  if constexpr (kFetchPanels == 2) __builtin_prefetch(line[1] + offset, 0, 2);
}

// sums = sums + P panels of expanded units at w[p] times T tokens.
template <class Math, int P, int T>
void MicroKernel(const std::byte* const* w, const std::byte* x, int64_t units, Sums sums,
                 const Ahead& ahead, int first_line) noexcept {
  const std::byte* panels[P];
  for (int p = 0; p < P; ++p)
    panels[p] = w[p];
  const std::byte* lines[kFetchPanels];
  for (int i = 0; i < kFetchPanels; ++i)
    lines[i] = ahead.line[first_line + i];
  const int64_t step = ahead.step;
  const int64_t turn = ahead.turn;
  F acc[P * T];
  FetchSums<T>(sums, Count<P * T>());
  BeginSums<T>(acc, sums, Count<P * T>());
  int64_t unit = 0;
  do {
    F a[P];
    LoadUnits(a, panels, unit * 64, Count<P>());
    StepCell<Math, P>(acc, a, x, Count<T>());
    x += 4 * T;
    Fetch(lines, step, turn, unit);
  } while (++unit != units);
  EndSums<T>(acc, sums, Count<P * T>());
}

// A run of activation groups of one token block; the last may be short (`units` in all).
struct I8Slice {
  const std::byte* w[kMicroPanels];       // per panel: units as DotI8 takes them
  const std::byte* scales[kMicroPanels];  // per panel: bf16 [group / per_scale][16]
  const std::byte* zeros[kMicroPanels];   // per panel: bytes [group / per_scale][16]; null without
  float inverse;                          // the scales are too large by 1 / inverse
  const std::byte* x;
  const float* x_scales;  // [group][T], and so are the corrections
  const int32_t* corrections;
  int64_t first_group;
  int64_t groups;
  int64_t group_units;
  int64_t units;
  int64_t per_scale;
};

// Own(): else GCC 12 merges equal initial values, copies them back apart in the loop, and spills.
template <int T, int... i>
HARROW_INLINE void BeginGroups(I* acc, const int32_t* corrections, Ints<i...>) {
  ((acc[i] = Own(kOffsetWeights ? BroadcastI(corrections + i % T) : ZeroI())), ...);
}
template <int... p>
HARROW_INLINE void LoadUnits(UnitI8* out, const std::byte* const* w, int64_t at, Ints<p...>) {
  ((out[p] = LoadExpandedI8(w[p] + at)), ...);
}
template <int T, int... p>
HARROW_INLINE void StepPanels(I* acc, const UnitI8* w, I cell, Ints<p...>) {
  ((acc[p * T] = DotI8(acc[p * T], w[p], cell)), ...);
}
template <int P, int... t>
HARROW_INLINE void StepCell(I* acc, const UnitI8* w, const std::byte* x, Ints<t...>) {
  (StepPanels<sizeof...(t)>(acc + t, w, BroadcastI(x + 4 * t), Count<P>()), ...);
}
template <int T, int... i>
HARROW_INLINE void AddZeros(I* sums, const I* zero_shifts, const int32_t* corrections, Ints<i...>) {
  ((sums[i] = WithZeros(sums[i], zero_shifts[i / T], corrections + i % T)), ...);
}
template <int... p>
HARROW_INLINE void LoadZeroShifts(I* out, const std::byte* const* zeros, int64_t at, Ints<p...>) {
  ((out[p] = ZeroShift(LoadBytes(zeros[p] + at))), ...);
}
template <int... p>
HARROW_INLINE void LoadScales(F* out, const std::byte* const* scales, int64_t at, F inverse,
                              Ints<p...>) {
  ((out[p] = Mul(LoadBf16(scales[p] + at), inverse)), ...);
}
// sums of floats += integer sums * their scales; panel by panel for each token.
template <int P, int T, int... i>
HARROW_INLINE void EndGroups(const Sums& sums, const I* acc, const F* scales, const float* x_scales,
                             Ints<i...>) {
  (StoreF(sums.To(i % P, i / P),
          Fma(ToF(acc[i % P * T + i / P]), Mul(scales[i % P], BroadcastF(x_scales + i / P)),
              LoadF(sums.From(i % P, i / P)))),
   ...);
}

// The float sums are in memory between groups: the registers are the integer sums'.
template <int P, int T>
void MicroKernelI8(const I8Slice& s, Sums sums, const Ahead& ahead, int first_line) noexcept {
  const std::byte* panels[P];
  for (int p = 0; p < P; ++p)
    panels[p] = s.w[p];
  const std::byte* lines[kFetchPanels];
  for (int i = 0; i < kFetchPanels; ++i)
    lines[i] = ahead.line[first_line + i];
  const int64_t step = ahead.step;
  const int64_t turn = ahead.turn;
  const std::byte* x = s.x;
  FetchSums<T>(sums, Count<P * T>());
  int64_t unit = 0;
  for (int64_t group = s.first_group; group < s.first_group + s.groups; ++group) {
    const int64_t end = s.units - unit < s.group_units ? s.units : unit + s.group_units;
    I acc[P * T];
    BeginGroups<T>(acc, s.corrections + group * T, Count<P * T>());
    do {
      UnitI8 a[P];
      LoadUnits(a, panels, unit * 64, Count<P>());
      StepCell<P>(acc, a, x, Count<T>());
      x += 4 * T;
      Fetch(lines, step, turn, unit);
    } while (++unit != end);
    const int64_t lanes_at = group / s.per_scale * kPanelRows;
    if (s.zeros[0] != nullptr) {
      I shifts[P];
      LoadZeroShifts(shifts, s.zeros, lanes_at, Count<P>());
      AddZeros<T>(acc, shifts, s.corrections + group * T, Count<P * T>());
    }
    F scales[P];
    LoadScales(scales, s.scales, 2 * lanes_at, BroadcastF(&s.inverse), Count<P>());
    EndGroups<P, T>(sums, acc, scales, s.x_scales + group * T, Count<P * T>());
    sums.from = sums.to;
    sums.from_stride = sums.to_stride;
  }
}

using MicroFn = void (*)(const std::byte* const*, const std::byte*, int64_t, Sums, const Ahead&,
                         int) noexcept;
using MicroI8Fn = void (*)(const I8Slice&, Sums, const Ahead&, int) noexcept;

// The kernel for 1 .. kMicroPanels panels and 1 .. kMicroTokens tokens.
template <class Math, int... i>
HARROW_INLINE MicroFn MicroOf(int panels, int64_t tokens, Ints<i...>) {
  static constexpr MicroFn kTable[] = {
      &MicroKernel<Math, i / kMicroTokens + 1, i % kMicroTokens + 1>...};
  return kTable[(panels - 1) * kMicroTokens + tokens - 1];
}
template <int... i>
HARROW_INLINE MicroI8Fn MicroI8Of(int panels, int64_t tokens, Ints<i...>) {
  static constexpr MicroI8Fn kTable[] = {
      &MicroKernelI8<i / kMicroTokens + 1, i % kMicroTokens + 1>...};
  return kTable[(panels - 1) * kMicroTokens + tokens - 1];
}
using MicroShapes = std::make_integer_sequence<int, kMicroPanels * kMicroTokens>;

// Where the sums of up to kMicroRows rows from `row` on are from one slice to the next: in a tile,
// and at last in y, unless the last panel has lanes that y has not.
struct SumsOf {
  const LinearTask& task;
  int64_t row;
  int64_t lanes;
  float* tile;

  bool Whole() const { return lanes % kPanelRows == 0; }
  Sums At(int64_t token, bool first_slice, bool last_slice) const {
    alignas(64) static constexpr float kZeros[kMicroRows] = {};
    float* const in_tile = tile + token * kMicroRows;
    Sums sums = {in_tile, in_tile, kMicroRows, kMicroRows};
    if (first_slice) {
      sums.from = kZeros;
      sums.from_stride = 0;
    }
    if (last_slice && Whole()) {
      sums.to = task.y + token * task.y_stride + row;
      sums.to_stride = task.y_stride;
    }
    return sums;
  }
  void Finish() const {
    if (Whole()) return;
    for (int64_t t = 0; t < task.x->m; ++t) {
      __builtin_memcpy(task.y + t * task.y_stride + row, tile + t * kMicroRows,
                       static_cast<size_t>(lanes) * sizeof(float));
    }
  }
};

HARROW_INLINE SumsOf SumsOfRows(const LinearTask& task, int64_t row) {
  const int64_t left = task.row_end - row;
  float* const tile = reinterpret_cast<float*>(task.scratch + kExpandBytes);
  return {task, row, left < kMicroRows ? left : kMicroRows, tile};
}
// Expanded units of a panel in scratch.
HARROW_INLINE std::byte* ExpandedPanel(const LinearTask& task, int panel) {
  return task.scratch + panel * kExpandUnits * 64;
}

// What follows in each of `panels` panels from `row` on, or in the next ones (at the end: the last
// one again) when this was their last slice.
template <class Decoder>
HARROW_INLINE Ahead PanelsAhead(const LinearWeight& weight, int64_t row, int panels,
                                bool last_slice, const Decoder* decoders) {
  const int64_t last = (weight.rows - 1) / kPanelRows;
  Ahead ahead;
  for (int p = 0; p < kMicroPanels; ++p) {
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
  Decoder decoders[kMicroPanels];

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
  int64_t rows;                // from the first row of the first panel to the end of W
  int64_t done[kMicroPanels];  // bytes of each row consumed

  void Begin(const LinearTask& task, int64_t row, int) {
    const LinearWeight& weight = *task.weight;
    row_bytes = static_cast<int64_t>(weight.data.size()) / weight.rows;
    panels_begin = weight.data.data() + row * row_bytes;
    rows = weight.rows - row;
    for (int64_t& bytes : done)
      bytes = 0;
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
    const int64_t skipped = last_slice ? kMicroRows : 0;
    const bool more = rows >= skipped + kMicroRows;
    for (int p = 0; p < kMicroPanels; ++p) {
      ahead.line[p] = panels_begin;
      if (more)
        ahead.line[p] += (skipped + p * kPanelRows) * row_bytes + (last_slice ? 0 : done[0]);
    }
    ahead.step = more ? row_bytes : 0;
    ahead.turn = more ? 64 : 0;
    return ahead;
  }
};

template <class Math, class Expander>
void Expanded(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const std::byte* units_of[kMicroPanels];
  for (int p = 0; p < kMicroPanels; ++p)
    units_of[p] = ExpandedPanel(task, p);
  for (int64_t row = task.row_begin; row < task.row_end; row += kMicroRows) {
    const SumsOf sums = SumsOfRows(task, row);
    const int panels = static_cast<int>((sums.lanes + kPanelRows - 1) / kPanelRows);
    Expander expander;
    expander.Begin(task, row, panels);
    for (int64_t begin = 0; begin < x.units; begin += kExpandUnits) {
      const int64_t units = x.units - begin < kExpandUnits ? x.units - begin : kExpandUnits;
      for (int p = 0; p < panels; ++p)
        expander.Expand(p, units, ExpandedPanel(task, p));
      const bool last_slice = begin + units == x.units;
      Ahead ahead = expander.Next(task, row, panels, last_slice);
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        const int first_line = ahead.Share(b);
        MicroOf<Math>(panels, tokens, MicroShapes())(
            units_of, x.values + (token * x.units + begin * tokens) * 4, units,
            sums.At(token, begin == 0, last_slice), ahead, first_line);
      }
    }
    sums.Finish();
  }
}

template <class Decoder>
void ExpandedI8(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const int64_t stride = BlockStride(weight.spec);
  I8Slice slice;
  slice.group_units = x.format.group / 4;
  slice.per_scale = weight.spec.group / x.format.group;
  for (const std::byte*& zeros : slice.zeros)
    zeros = nullptr;
  slice.inverse = 1 / Decoder::kFactor;
  const int64_t group_blocks = slice.group_units / Decoder::kUnits;
  const int64_t slice_groups = kExpandUnits / slice.group_units;
  for (int64_t row = task.row_begin; row < task.row_end; row += kMicroRows) {
    const SumsOf sums = SumsOfRows(task, row);
    const int panels = static_cast<int>((sums.lanes + kPanelRows - 1) / kPanelRows);
    Decoder decoders[kMicroPanels];
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
          std::byte* out = ExpandedPanel(task, p);
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
      const bool last_slice = group + slice.groups == x.groups;
      Ahead ahead = PanelsAhead(weight, row, panels, last_slice, decoders);
      for (int64_t b = 0; b < x.blocks; ++b) {
        const int64_t token = x.BlockBegin(b);
        const int64_t tokens = x.BlockBegin(b + 1) - token;
        slice.x = x.values + (token * x.units + begin * tokens) * 4;
        slice.x_scales = x.scales + token * x.groups;
        slice.corrections = x.corrections + token * x.groups;
        const int first_line = ahead.Share(b);
        MicroI8Of(panels, tokens, MicroShapes())(slice, sums.At(token, group == 0, last_slice),
                                                 ahead, first_line);
      }
    }
    sums.Finish();
  }
}
