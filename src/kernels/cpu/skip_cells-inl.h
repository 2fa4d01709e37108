// Products with many tokens and very sparse weights: cells without a non-zero are passed over. Part
// of linear-inl.h.
//
// Lanes are tokens here, not rows: the cells of a row that have a non-zero are listed, and each is
// broadcast and multiplied with the same cell of 64 tokens. The lists are made from the expanded
// units, kSkipUnits cells of kSkipPanels panels at a time, and serve kSkipTokens tokens: the packed
// form is the one that all kernels read. With sparsity s a pair of bf16 is empty with probability
// s^2, a quad of int8 with s^4.
//
// 128 cells of a tile of x are 32 KiB and stay in first-level cache while all listed rows pass;
// what else a slice needs is in second-level cache. The exits of the loops over lists depend on
// integers alone and are known long before the sums, so a wrong guess of the predictor is mostly
// hidden.

constexpr int64_t kSkipUnits = 128;
constexpr int64_t kSkipPanels = 8;
constexpr int64_t kSkipTokens = 512;
constexpr int64_t kSkipTile = 64;                // tokens
constexpr int64_t kSkipGroups = kSkipUnits / 8;  // the most groups of a slice

// A slice of a panel.
struct SkipPanel {
  alignas(64) std::byte units[kSkipUnits * 64];
  alignas(64) float scales[kSkipGroups][kPanelRows];         // int8
  alignas(64) int32_t corrections[kSkipGroups][kPanelRows];  // int8: -128 * the sum of codes
  // Row r's listed cells, those of group g before ends[r][g]. AppendSetBits writes 64 bytes more.
  uint32_t cells[kPanelRows][kSkipUnits + 16];
  int32_t ends[kPanelRows][kSkipGroups];
};
struct SkipScratch {
  SkipPanel panels[kSkipPanels];
  alignas(64) float sums[kSkipPanels * kPanelRows * kSkipTokens];  // [row][token]
};

int64_t SkipScratchBytes(int64_t, int64_t) {
  return static_cast<int64_t>(sizeof(SkipScratch));
}

// Lists the cells [begin, end) of every row, as the next group.
HARROW_INLINE void ListGroup(SkipPanel* panel, int64_t group, int64_t begin, int64_t end) {
  uint16_t rows_of[kSkipUnits + 32];  // the rows that have a non-zero in a cell
  for (int64_t unit = begin; unit < end; ++unit)
    rows_of[unit - begin] = NonzeroLanes(panel->units + 64 * unit);
  __builtin_memset(rows_of + (end - begin), 0, 64);
  for (int row = 0; row < kPanelRows; ++row) {
    uint32_t* out = panel->cells[row] + (group == 0 ? 0 : panel->ends[row][group - 1]);
    for (int64_t unit = begin; unit < end; unit += 32) {
      out = AppendSetBits(out, static_cast<uint32_t>(unit),
                          BitOfWords(rows_of + (unit - begin), row));
    }
    panel->ends[row][group] = static_cast<int32_t>(out - panel->cells[row]);
  }
}

template <class V, int... v>
HARROW_INLINE void AddSets(V* acc, int other, Ints<v...>) {
  ((acc[v] = Plus(acc[v], acc[other + v])), ...);
}
// acc[0 .. n) = the sum of S sets of n.
template <int S, int n, class V>
HARROW_INLINE void SumSets(V* acc) {
  if constexpr (S > 1) {
    AddSets(acc, S / 2 * n, Count<S / 2 * n>());
    SumSets<S / 2, n>(acc);
  }
}

// acc[v] += cell w of a row times the same cell of 16 tokens.
template <class Math, int... v>
HARROW_INLINE void SkipCell(F* acc, const std::byte* w, const std::byte* x, Ints<v...>) {
  const F weight = BroadcastF(w);
  ((acc[v] = Math::Step(acc[v], weight, LoadF(x + 64 * v))), ...);
}
template <class Math, int... v>
HARROW_INLINE void SkipCell(I* acc, const std::byte* w, const std::byte* x, Ints<v...>) {
  const I weight = BroadcastI(w);
  ((acc[v] = DotTokens(acc[v], x + 64 * v, weight)), ...);
}
// One cell for each of S sets of sums: a single set would wait for its last product.
template <class Math, int n, class V, int... s>
HARROW_INLINE void SkipCells(V* acc, const uint32_t* cells, const std::byte* w, const std::byte* x,
                             Ints<s...>) {
  (SkipCell<Math>(acc + s * n, w + int64_t{64} * cells[s], x + int64_t{64} * n * cells[s],
                  Count<n>()),
   ...);
}
// acc[0 .. n) += the listed cells; the other sets are 0 before and undefined after.
template <class Math, int S, int n, class V>
HARROW_INLINE void SkipList(V* acc, const uint32_t* cells, const uint32_t* end, const std::byte* w,
                            const std::byte* x) {
  const uint32_t* const whole = cells + (end - cells) / S * S;
  if (cells != whole) {
    do {
      SkipCells<Math, n>(acc, cells, w, x, Count<S>());
      cells += S;
    } while (cells != whole);
  }
  SumSets<S, n>(acc);
  if (cells != end) {
    do {
      SkipCells<Math, n>(acc, cells, w, x, Count<1>());
    } while (++cells != end);
  }
}

template <int... v>
HARROW_INLINE void LoadSums(F* acc, const float* sums, bool first, Ints<v...>) {
  ((acc[v] = first ? ZeroF() : LoadF(sums + kPanelRows * v)), ...);
}
template <int... v>
HARROW_INLINE void StoreSums(const F* acc, float* sums, Ints<v...>) {
  (StoreF(sums + kPanelRows * v, acc[v]), ...);
}

// A panel's slice times a tile of x.
struct SkipTask {
  const SkipPanel* panel;
  const std::byte* x;
  const float* x_scales;  // int8: [group][tokens of the tile], from the slice's first group
  int64_t groups;
  bool first;
  const std::byte* ahead;  // 4 KiB of the next tile, to be fetched meanwhile
  float* sums;             // row stride kSkipTokens
};
HARROW_INLINE void FetchAhead(const SkipTask& task, int row) {
  for (int line = 0; line < 4; ++line)
    __builtin_prefetch(task.ahead + (4 * row + line) * 64, 0, 2);
}

// n vectors of 16 tokens.
template <int n>
void SkipPanelBf16(const SkipTask& task) noexcept {
  for (int row = 0; row < kPanelRows; ++row) {
    FetchAhead(task, row);
    const uint32_t* cells = task.panel->cells[row];
    float* sums = task.sums + row * kSkipTokens;
    F acc[kSkipSets * n];
    Clear(acc, ZeroF(), Count<kSkipSets * n>());
    LoadSums(acc, sums, task.first, Count<n>());
    SkipList<MathBf16, kSkipSets, n>(acc, cells, cells + task.panel->ends[row][0],
                                     task.panel->units + 4 * row, task.x);
    StoreSums(acc, sums, Count<n>());
  }
}

template <int... v>
HARROW_INLINE void EndSkipGroup(F* out, const I* acc, F scale, const float* x_scales, Ints<v...>) {
  ((out[v] = Fma(ToF(acc[v]), Mul(scale, LoadF(x_scales + kPanelRows * v)), out[v])), ...);
}
template <int n>
void SkipPanelI8(const SkipTask& task) noexcept {
  constexpr int kSets = kSkipSets > 1 ? 2 : 1;
  const SkipPanel& panel = *task.panel;
  for (int row = 0; row < kPanelRows; ++row) {
    FetchAhead(task, row);
    const uint32_t* cells = panel.cells[row];
    float* sums = task.sums + row * kSkipTokens;
    F out[n];
    LoadSums(out, sums, task.first, Count<n>());
    for (int64_t group = 0; group < task.groups; ++group) {
      I acc[kSets * n];
      Clear(acc, ZeroI(), Count<kSets * n>());
      if constexpr (kOffsetWeights)
        Clear(acc, BroadcastI(&panel.corrections[group][row]), Count<n>());
      const uint32_t* end = panel.cells[row] + panel.ends[row][group];
      SkipList<MathBf16, kSets, n>(acc, cells, end, panel.units + 4 * row, task.x);
      cells = end;
      EndSkipGroup(out, acc, BroadcastF(&panel.scales[group][row]),
                   task.x_scales + group * n * kPanelRows, Count<n>());
    }
    StoreSums(out, sums, Count<n>());
  }
}

// How slices are expanded and multiplied: Begin(weight, panel), then Expand() slice after slice.
template <class Decoder>
struct SkipBf16 {
  static constexpr int64_t kBlockUnits = Decoder::kUnits * MathBf16::kCellsPerUnit;
  static constexpr void (*kRun[])(const SkipTask&) noexcept = {
      &SkipPanelBf16<1>, &SkipPanelBf16<2>, &SkipPanelBf16<3>, &SkipPanelBf16<4>};
  Decoder decoder;

  static int64_t SliceUnits(const PackedX&) { return kSkipUnits; }
  void Begin(const LinearWeight& weight, int64_t panel) {
    decoder.Begin(weight.data.data() + PanelOffset(weight, panel), BlockStride(weight.spec));
  }
  const std::byte* next() const { return decoder.next; }
  void Expand(const LinearWeight&, const PackedX&, int64_t, int64_t units, SkipPanel* panel) {
    for (int64_t unit = 0; unit < units; unit += kBlockUnits)
      ExpandBlock(&decoder, panel->units + 64 * unit, Count<Decoder::kUnits>());
    ListGroup(panel, 0, 0, units);
  }
};

template <class Decoder, int... u>
HARROW_INLINE void ExpandSignedBlock(Decoder* decoder, std::byte* out, Ints<u...>) {
  decoder->BeginBlock();
  (StoreSignedI8(out + u * 64, decoder->Next(u)), ...);
}
template <class Decoder>
struct SkipI8 {
  static_assert(!Decoder::kZeros);  // what is not stored must be 0
  static constexpr void (*kRun[])(const SkipTask&) noexcept = {&SkipPanelI8<1>, &SkipPanelI8<2>,
                                                               &SkipPanelI8<3>, &SkipPanelI8<4>};
  Decoder decoder;
  const std::byte* scales;

  static int64_t SliceUnits(const PackedX& x) {
    const int64_t group_units = x.format.group / 4;
    return kSkipUnits / group_units * group_units;
  }
  void Begin(const LinearWeight& weight, int64_t panel) {
    scales = weight.data.data() + PanelOffset(weight, panel);
    decoder.Begin(scales + GeometryOf(weight.spec, weight.rows, weight.cols).scale_bytes,
                  BlockStride(weight.spec));
  }
  const std::byte* next() const { return decoder.next; }
  void Expand(const LinearWeight& weight, const PackedX& x, int64_t begin, int64_t units,
              SkipPanel* panel) {
    for (int64_t unit = 0; unit < units; unit += Decoder::kUnits)
      ExpandSignedBlock(&decoder, panel->units + 64 * unit, Count<Decoder::kUnits>());
    const int64_t group_units = x.format.group / 4;
    const int64_t per_scale = weight.spec.group / x.format.group;
    const float inverse = 1 / Decoder::kFactor;
    for (int64_t group = 0; group * group_units < units; ++group) {
      const int64_t first = group * group_units;
      const int64_t end = first + group_units < units ? first + group_units : units;
      ListGroup(panel, group, first, end);
      const int64_t weight_group = (begin / group_units + group) / per_scale;
      StoreF(panel->scales[group],
             Mul(LoadBf16(scales + weight_group * (2 * kPanelRows)), BroadcastF(&inverse)));
      if constexpr (kOffsetWeights) {
        I sum = ZeroI();
        for (int64_t unit = first; unit < end; ++unit)
          sum = SubCellOffsets(sum, panel->units + 64 * unit);
        StoreI(panel->corrections[group], sum);
      }
    }
  }
};

// The finished sums of a panel's `lanes` rows for x's tokens [begin, end).
HARROW_INLINE void StoreSkipped(const LinearTask& task, const float* sums, int64_t row,
                                int64_t lanes, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; token += kPanelRows) {
    const std::byte* rows[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r)
      rows[r] = reinterpret_cast<const std::byte*>(sums + r * kSkipTokens + (token - begin));
    alignas(64) float turned[kPanelRows][kPanelRows];
    TransposeToUnits<RawLoader>(rows, reinterpret_cast<std::byte*>(turned));
    for (int64_t t = 0; t < kPanelRows && token + t < end; ++t) {
      __builtin_memcpy(task.y + (token + t) * task.y_stride + row, turned[t],
                       static_cast<size_t>(lanes) * sizeof(float));
    }
  }
}

template <class Kind>
void SkipCellsRun(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  SkipScratch& scratch = *reinterpret_cast<SkipScratch*>(task.scratch);
  const int64_t slice_units = Kind::SliceUnits(x);
  constexpr int64_t kTiles = kSkipTokens / kSkipTile;
  for (int64_t first_tile = 0; first_tile < x.blocks; first_tile += kTiles) {
    const int64_t last_tile = first_tile + kTiles < x.blocks ? first_tile + kTiles : x.blocks;
    const int64_t first_token = x.BlockBegin(first_tile);
    for (int64_t row = task.row_begin; row < task.row_end; row += kSkipPanels * kPanelRows) {
      const int64_t left = (task.row_end - row + kPanelRows - 1) / kPanelRows;
      const int64_t panels = left < kSkipPanels ? left : kSkipPanels;
      Kind kinds[kSkipPanels];
      for (int64_t p = 0; p < panels; ++p)
        kinds[p].Begin(weight, row / kPanelRows + p);
      int64_t group = 0;
      for (int64_t begin = 0; begin < x.units; begin += slice_units) {
        const int64_t units = x.units - begin < slice_units ? x.units - begin : slice_units;
        for (int64_t p = 0; p < panels; ++p) {
          const std::byte* from = kinds[p].next();
          kinds[p].Expand(weight, x, begin, units, &scratch.panels[p]);
          // What follows will be as long, about, and is wanted when this slice is done.
          const std::byte* next = kinds[p].next();
          for (const std::byte* line = next; line < next + (next - from) + 128; line += 64)
            __builtin_prefetch(line, 0, 2);
        }
        const int64_t groups =
            x.groups == 0 ? 0 : (units * 4 + x.format.group - 1) / x.format.group;
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
          const int64_t token = x.BlockBegin(tile);
          const int64_t tokens = x.BlockStride(tile);
          SkipTask skip;
          skip.x = x.values + (token * x.units + begin * tokens) * 4;
          skip.x_scales = x.scales + token * x.groups + group * tokens;
          skip.groups = groups;
          skip.first = begin == 0;
          const int64_t next = tile + 1 < last_tile ? tile + 1 : first_tile;
          const int64_t next_begin = tile + 1 < last_tile ? begin : begin + units;
          const std::byte* ahead =
              x.values + (x.BlockBegin(next) * x.units + next_begin * x.BlockStride(next)) * 4;
          for (int64_t p = 0; p < panels; ++p) {
            skip.panel = &scratch.panels[p];
            skip.ahead = ahead + p * 4096;
            skip.sums = scratch.sums + p * kPanelRows * kSkipTokens + (token - first_token);
            Kind::kRun[tokens / kPanelRows - 1](skip);
          }
        }
        group += groups;
      }
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t begin = row + p * kPanelRows;
        const int64_t lanes = task.row_end - begin < kPanelRows ? task.row_end - begin : kPanelRows;
        const int64_t end = last_tile < x.blocks ? x.BlockBegin(last_tile) : x.m;
        StoreSkipped(task, scratch.sums + p * kPanelRows * kSkipTokens, begin, lanes, first_token,
                     end);
      }
    }
  }
}
