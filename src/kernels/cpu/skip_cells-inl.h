// Products with many tokens and very sparse weights: cells without a non-zero are passed over. Part
// of linear-inl.h.
//
// Lanes are tokens here, not rows: the cells of a row that have a non-zero are listed, and each is
// broadcast and multiplied with the same cell of 64 tokens. The lists are made from the expanded
// units, kSkipUnits cells of kSkipRows rows at a time, and serve kSkipTokens tokens: the packed
// form is the one that all kernels read. With sparsity s a pair of bf16 is empty with probability
// s^2, a quad of int8 with s^4.
//
// 128 cells of a tile of x are 32 KiB and stay in first-level cache while all rows pass; lists and
// sums come from second-level cache. Lists are filled up with zeros to whole steps, and rows pass
// in the order of their lists' lengths: else the processor would guess the end of each list wrong.

constexpr int64_t kSkipUnits = 128;
constexpr int64_t kSkipRows = 128;
constexpr int64_t kSkipTokens = 512;
constexpr int64_t kSkipTile = 64;                // tokens
constexpr int64_t kSkipGroups = kSkipUnits / 8;  // the most groups of a slice
constexpr int64_t kSkipPanels = kSkipRows / kPanelRows;

// The cells of a row's slice that have a non-zero: where they stand in a panel of units (64 * cell)
// and what they hold. Those of group g end at step ends[g]; int8 alone has several groups.
struct SkipList {
  uint16_t places[kSkipUnits + 64];  // AppendPlaces writes 64 bytes more; groups are filled up
  uint32_t values[kSkipUnits + 32];
  int32_t ends[kSkipGroups];
  int64_t Steps() const { return ends[0]; }
};
template <class List>
struct SkipScratch {
  List lists[kSkipRows];
  alignas(64) float scales[kSkipPanels][kSkipGroups][kPanelRows];         // int8
  alignas(64) int32_t corrections[kSkipPanels][kSkipGroups][kPanelRows];  // -128 * sum of codes
  alignas(64) std::byte units[kSkipUnits * 64];  // of the panel that is being listed
  uint8_t order[kSkipRows];
  alignas(64) float sums[kSkipTokens / kSkipTile][kSkipRows][kSkipTile];
};

template <int... i>
HARROW_INLINE void CopyValues(const std::byte* units, const uint16_t* places, uint32_t* values,
                              Ints<i...>) {
  uint64_t packed;  // one load for four places: loads are what these loops are short of
  __builtin_memcpy(&packed, places, sizeof(packed));
  (__builtin_memcpy(values + i, units + (packed >> (16 * i) & 0xffff), 4), ...);
}
// Lists the cells [begin, end) of 16 rows as the next group, in steps of S cells.
template <int S>
HARROW_INLINE void ListGroup(const std::byte* units, int64_t group, int64_t begin, int64_t end,
                             SkipList* lists) {
  uint16_t rows_of[kSkipUnits + 32];  // the rows that have a non-zero in a cell
  int32_t filled[kPanelRows];
  for (int64_t unit = begin; unit < end; ++unit)
    rows_of[unit - begin] = NonzeroLanes(units + 64 * unit);
  __builtin_memset(rows_of + (end - begin), 0, 64);
  for (int row = 0; row < kPanelRows; ++row) {
    SkipList& list = lists[row];
    int64_t count = group == 0 ? 0 : S * int64_t{list.ends[group - 1]};
    const int64_t first = count;
    for (int64_t unit = begin; unit < end; unit += 32) {
      const uint32_t bits = BitOfWords(rows_of + (unit - begin), row);
      AppendPlaces(list.places + count, static_cast<uint32_t>(unit), bits);
      count += __builtin_popcount(bits);
    }
    // Filled up with a place that is listed anyway: what x holds elsewhere, say NaN, must not
    // matter.
    const int64_t listed = count;
    for (; (count - first) % S != 0; ++count)
      list.places[count] = list.places[listed - 1];
    list.ends[group] = static_cast<int32_t>(count / S);
    filled[row] = static_cast<int32_t>(count - listed);
  }
  // Not in the same loop: reading back what has just been stored in 64 bytes would wait for it.
  for (int row = 0; row < kPanelRows; ++row) {
    SkipList& list = lists[row];
    const int64_t end = S * int64_t{list.ends[group]};
    int64_t i = group == 0 ? 0 : S * int64_t{list.ends[group - 1]};
    for (; i != end; i += S)
      CopyValues(units + 4 * row, list.places + i, list.values + i, Count<S>());
    __builtin_memset(list.values + end - filled[row], 0, 4 * static_cast<size_t>(filled[row]));
  }
}

// Rows by the number of steps.
template <class List>
HARROW_INLINE void OrderRows(const List* lists, int64_t rows, uint8_t* order) {
  int32_t begins[kSkipUnits + 2] = {};
  for (int64_t row = 0; row < rows; ++row)
    ++begins[lists[row].Steps() + 1];
  for (int64_t steps = 0; steps < kSkipUnits; ++steps)
    begins[steps + 1] += begins[steps];
  for (int64_t row = 0; row < rows; ++row)
    order[begins[lists[row].Steps()]++] = static_cast<uint8_t>(row);
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

// acc[v] += a row's cell `w` times the same cell of 16 tokens.
template <int... v>
HARROW_INLINE void SkipCell(F* acc, I w, const std::byte* x, Ints<v...>) {
  ((acc[v] = MathBf16::Step(acc[v], AsF(w), LoadF(x + 64 * v))), ...);
}
template <int... v>
HARROW_INLINE void SkipCell(I* acc, I w, const std::byte* x, Ints<v...>) {
  ((acc[v] = DotTokens(acc[v], x + 64 * v, w)), ...);
}
// One cell for each of S sets of n sums: a single set would wait for its last product.
template <int n, class V, int... s>
HARROW_INLINE void SkipStep(V* acc, const uint16_t* places, const uint32_t* values,
                            const std::byte* x, Ints<s...>) {
  uint64_t packed;
  __builtin_memcpy(&packed, places, sizeof(packed));
  (SkipCell(acc + s * n, ValueOf<s>(values), x + n * (packed >> (16 * s) & 0xffff), Count<n>()),
   ...);
}
// acc[0 .. n) += the listed cells; the other sets are 0 before and undefined after.
template <int S, int n, class V>
HARROW_INLINE void SkipSteps(V* acc, const SkipList& list, int64_t begin, int64_t end,
                             const std::byte* x) {
  const uint16_t* places = list.places + S * begin;
  const uint32_t* values = list.values + S * begin;
  int64_t steps = end - begin;
  if (steps != 0) {
    do {
      SkipStep<n>(acc, places, values, x, Count<S>());
      places += S;
      values += S;
    } while (--steps != 0);
  }
  SumSets<S, n>(acc);
}

template <int... v>
HARROW_INLINE void LoadSums(F* acc, const float* sums, bool first, Ints<v...>) {
  ((acc[v] = first ? ZeroF() : LoadF(sums + kPanelRows * v)), ...);
}
template <int... v>
HARROW_INLINE void StoreSums(const F* acc, float* sums, Ints<v...>) {
  (StoreF(sums + kPanelRows * v, acc[v]), ...);
}

// A slice of `rows` rows times a tile of x.
template <class List>
struct SkipTask {
  SkipScratch<List>* scratch;
  int64_t rows;
  const std::byte* x;
  const float* x_scales;  // int8: [group][tokens of the tile], from the slice's first group
  int64_t groups;
  bool first;
  const std::byte* ahead;  // the next tile, to be fetched meanwhile
  float* sums;             // [kSkipRows][kSkipTile]
};
template <class List>
HARROW_INLINE void FetchAhead(const SkipTask<List>& task, int64_t row) {
  constexpr int64_t kLines = kSkipUnits * kSkipTile * 4 / 64 / kSkipRows;
  for (int64_t line = 0; line < kLines; ++line)
    __builtin_prefetch(task.ahead + (kLines * row + line) * 64, 0, 2);
}

#if !HARROW_NATIVE_BF16
// n vectors of 16 tokens.
template <int n>
void SkipTileBf16(const SkipTask<SkipList>& task) noexcept {
  for (int64_t i = 0; i < task.rows; ++i) {
    FetchAhead(task, i);
    const int64_t row = task.scratch->order[i];
    const SkipList& list = task.scratch->lists[row];
    float* sums = task.sums + row * kSkipTile;
    F acc[kSkipSets * n];
    Clear(acc, ZeroF(), Count<kSkipSets * n>());
    LoadSums(acc, sums, task.first, Count<n>());
    SkipSteps<kSkipSets, n>(acc, list, 0, list.ends[0], task.x);
    StoreSums(acc, sums, Count<n>());
  }
}
#endif

template <int... v>
HARROW_INLINE void EndSkipGroup(F* out, const I* acc, F scale, const float* x_scales, Ints<v...>) {
  ((out[v] = Fma(ToF(acc[v]), Mul(scale, LoadF(x_scales + kPanelRows * v)), out[v])), ...);
}
constexpr int kSkipSetsI8 = kSkipSets > 1 ? 2 : 1;
template <int n>
void SkipTileI8(const SkipTask<SkipList>& task) noexcept {
  for (int64_t row = 0; row < task.rows; ++row) {
    FetchAhead(task, row);
    const SkipList& list = task.scratch->lists[row];
    const int64_t panel = row / kPanelRows;
    const int64_t lane = row % kPanelRows;
    float* sums = task.sums + row * kSkipTile;
    F out[n];
    LoadSums(out, sums, task.first, Count<n>());
    int64_t step = 0;
    for (int64_t group = 0; group < task.groups; ++group) {
      I acc[kSkipSetsI8 * n];
      Clear(acc, ZeroI(), Count<kSkipSetsI8 * n>());
      if constexpr (kOffsetWeights)
        Clear(acc, BroadcastI(&task.scratch->corrections[panel][group][lane]), Count<n>());
      SkipSteps<kSkipSetsI8, n>(acc, list, step, list.ends[group], task.x);
      step = list.ends[group];
      EndSkipGroup(out, acc, BroadcastF(&task.scratch->scales[panel][group][lane]),
                   task.x_scales + group * n * kPanelRows, Count<n>());
    }
    StoreSums(out, sums, Count<n>());
  }
}

// How slices are expanded and multiplied: Begin(weight, panel), then MakeLists() slice after slice;
// EndLists() when all rows of a slice have theirs and are in order. kRun[n] takes tiles of
// (n + 1) * kVectorTokens tokens; token TokenOfSlot(i) of a tile has its sum at i.
// What the kinds of cells have in common.
struct SkipCellLists {
  using List = SkipList;
  static constexpr int64_t kVectorTokens = kPanelRows;
  static int64_t TokenOfSlot(int64_t slot) { return slot; }
  static void EndLists(int64_t, SkipScratch<List>*) {}
};

#if !HARROW_NATIVE_BF16
template <class Decoder>
struct SkipBf16 : SkipCellLists {
  static constexpr int64_t kBlockUnits = Decoder::kUnits * MathBf16::kCellsPerUnit;
  static constexpr void (*kRun[])(const SkipTask<List>&) noexcept = {
      &SkipTileBf16<1>, &SkipTileBf16<2>, &SkipTileBf16<3>, &SkipTileBf16<4>};
  Decoder decoder;

  static int64_t SliceUnits(const PackedX&) { return kSkipUnits; }
  void Begin(const LinearWeight& weight, int64_t panel) {
    decoder.Begin(weight.data.data() + PanelOffset(weight, panel), BlockStride(weight.spec));
  }
  const std::byte* next() const { return decoder.next; }
  void MakeLists(const LinearWeight&, const PackedX&, int64_t, int64_t units, int64_t panel,
                 SkipScratch<List>* scratch) {
    for (int64_t unit = 0; unit < units; unit += kBlockUnits)
      ExpandBlock(&decoder, scratch->units + 64 * unit, Count<Decoder::kUnits>());
    ListGroup<kSkipSets>(scratch->units, 0, 0, units, scratch->lists + panel * kPanelRows);
  }
};
#endif

template <class Decoder, int... u>
HARROW_INLINE void ExpandSignedBlock(Decoder* decoder, std::byte* out, Ints<u...>) {
  decoder->BeginBlock();
  (StoreSignedI8(out + u * 64, decoder->Next(u)), ...);
}
template <class Decoder>
struct SkipI8 : SkipCellLists {
  static_assert(!Decoder::kZeros);  // what is not stored must be 0
  static constexpr void (*kRun[])(const SkipTask<List>&) noexcept = {
      &SkipTileI8<1>, &SkipTileI8<2>, &SkipTileI8<3>, &SkipTileI8<4>};
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
  void MakeLists(const LinearWeight& weight, const PackedX& x, int64_t begin, int64_t units,
                 int64_t panel, SkipScratch<List>* scratch) {
    for (int64_t unit = 0; unit < units; unit += Decoder::kUnits)
      ExpandSignedBlock(&decoder, scratch->units + 64 * unit, Count<Decoder::kUnits>());
    const int64_t group_units = x.format.group / 4;
    const int64_t per_scale = weight.spec.group / x.format.group;
    const float inverse = 1 / Decoder::kFactor;
    for (int64_t group = 0; group * group_units < units; ++group) {
      const int64_t first = group * group_units;
      const int64_t end = first + group_units < units ? first + group_units : units;
      ListGroup<kSkipSetsI8>(scratch->units, group, first, end,
                             scratch->lists + panel * kPanelRows);
      const int64_t weight_group = (begin / group_units + group) / per_scale;
      StoreF(scratch->scales[panel][group],
             Mul(LoadBf16(scales + weight_group * (2 * kPanelRows)), BroadcastF(&inverse)));
      if constexpr (kOffsetWeights) {
        I sum = ZeroI();
        for (int64_t unit = first; unit < end; ++unit)
          sum = SubCellOffsets(sum, scratch->units + 64 * unit);
        StoreI(scratch->corrections[panel][group], sum);
      }
    }
  }
};

// The finished sums of a tile's `rows` rows from `row` on, for x's tokens [begin, end) in `slots`
// of them. All rows of 16 tokens, then the next tokens, whose lines of y are fetched meanwhile: 64
// bytes here and there are what memory is slowest at.
template <class Kind>
HARROW_INLINE void StoreSkipped(const LinearTask& task, const float* sums, int64_t row,
                                int64_t rows, int64_t begin, int64_t end, int64_t slots) {
  for (int64_t slot = 0; slot < slots; slot += kPanelRows) {
    for (int64_t first = 0; first < rows; first += kPanelRows) {
      const size_t lanes =
          static_cast<size_t>(rows - first < kPanelRows ? rows - first : kPanelRows);
      float* y = task.y + row + first;
      const std::byte* from[kPanelRows];
      for (int64_t i = 0; i < kPanelRows; ++i) {
        from[i] = reinterpret_cast<const std::byte*>(sums + (first + i) * kSkipTile + slot);
        const int64_t next = begin + slot + kPanelRows + i;
        if (next < end) __builtin_prefetch(y + next * task.y_stride, 1, 3);
      }
      alignas(64) float turned[kPanelRows][kPanelRows];
      TransposeToUnits<RawLoader>(from, reinterpret_cast<std::byte*>(turned));
      for (int64_t i = 0; i < kPanelRows; ++i) {
        const int64_t token = begin + Kind::TokenOfSlot(slot + i);
        if (token >= end) continue;
        __builtin_memcpy(y + token * task.y_stride, turned[i], lanes * sizeof(float));
      }
    }
  }
}

template <class Kind>
void SkipCellsRun(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  using List = typename Kind::List;
  SkipScratch<List>& scratch = *reinterpret_cast<SkipScratch<List>*>(task.scratch);
  const int64_t slice_units = Kind::SliceUnits(x);
  constexpr int64_t kTiles = kSkipTokens / kSkipTile;
  for (int64_t first_tile = 0; first_tile < x.blocks; first_tile += kTiles) {
    const int64_t last_tile = first_tile + kTiles < x.blocks ? first_tile + kTiles : x.blocks;
    for (int64_t row = task.row_begin; row < task.row_end; row += kSkipRows) {
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
          kinds[p].MakeLists(weight, x, begin, units, p, &scratch);
          // What follows will be as long, about, and is wanted when this slice is done.
          const std::byte* next = kinds[p].next();
          for (const std::byte* line = next; line < next + (next - from) + 128; line += 64)
            __builtin_prefetch(line, 0, 2);
        }
        OrderRows(scratch.lists, panels * kPanelRows, scratch.order);
        Kind::EndLists(panels * kPanelRows, &scratch);
        const int64_t groups =
            x.groups == 0 ? 0 : (units * 4 + x.format.group - 1) / x.format.group;
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
          const int64_t token = x.BlockBegin(tile);
          const int64_t tokens = x.BlockStride(tile);
          SkipTask<List> skip;
          skip.scratch = &scratch;
          skip.rows = panels * kPanelRows;
          skip.x = x.values + (token * x.units + begin * tokens) * 4;
          skip.x_scales = x.scales + token * x.groups + group * tokens;
          skip.groups = groups;
          skip.first = begin == 0;
          const int64_t next = tile + 1 < last_tile ? tile + 1 : first_tile;
          const int64_t next_begin = tile + 1 < last_tile ? begin : begin + units;
          skip.ahead =
              x.values + (x.BlockBegin(next) * x.units + next_begin * x.BlockStride(next)) * 4;
          skip.sums = scratch.sums[tile - first_tile][0];
          Kind::kRun[tokens / Kind::kVectorTokens - 1](skip);
        }
        group += groups;
      }
      for (int64_t tile = first_tile; tile < last_tile; ++tile) {
        const int64_t rows = task.row_end - row < kSkipRows ? task.row_end - row : kSkipRows;
        StoreSkipped<Kind>(task, scratch.sums[tile - first_tile][0], row, rows, x.BlockBegin(tile),
                           x.BlockBegin(tile + 1), x.BlockStride(tile));
      }
    }
  }
}
