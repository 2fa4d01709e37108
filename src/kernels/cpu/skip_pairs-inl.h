// Products of very sparse bf16 weights with many tokens, with vdpbf16ps. Part of linear-inl.h,
// after skip_cells-inl.h, whose outer loops and slices it shares.
//
// The two inputs of a product need not be neighbours: the non-zeros of a row are listed one behind
// the other and taken two at a time, and the two inputs of x are interleaved in registers. With
// density d that is d / 2 products an input, where cells with a non-zero are nearly d of them.
//
// x is [input][tokens] (XLayout::kInputs). Interleaving 32 tokens leaves their order changed
// within 16 (TokenOfSlot); sums stay in that order until they are stored.

#if HARROW_NATIVE_BF16

constexpr int64_t kSkipInputs = 2 * kSkipUnits;
// Rows side by side, of nearly the same length: their sums are enough to wait for no product.
constexpr int64_t kPairRows = 3;
// How many entries are written at a time, wanted or not.
constexpr int64_t kPairPadding = 32;

// A row's slice: where its non-zeros' inputs stand in a tile of 32 tokens (64 * input), and the
// non-zeros. Behind them the last one's place with zeros, because rows side by side take the same
// number of steps: what x holds elsewhere, say NaN, must not matter.
struct PairList {
  uint16_t places[kSkipInputs + kPairPadding];
  uint16_t values[kSkipInputs + kPairPadding];
  int64_t steps;  // pairs
  int64_t Steps() const { return steps; }
};

// Lists a row's non-zeros among `units` (a multiple of 16) cells: unit i of 16 is at row + i *
// 1024.
HARROW_INLINE void ListNonzeros(const std::byte* row, int64_t units, PairList* list) {
  int64_t count = 0;
  for (int64_t unit = 0; unit < units; unit += 16) {
    count += AppendNonzeros(row + 64 * unit, static_cast<uint32_t>(2 * unit), list->places + count,
                            list->values + count);
  }
  list->steps = (count + 1) / 2;
  const uint16_t last = count == 0 ? 0 : list->places[count - 1];
  for (int64_t i = count; i < count + kPairPadding; ++i) {
    list->places[i] = last;
    list->values[i] = 0;
  }
}
// Fills a list up to `steps`. Nearly always it is long enough already.
HARROW_INLINE void ExtendList(PairList* list, int64_t steps) {
  const uint16_t last = list->places[2 * list->steps - 1];
  for (int64_t i = 2 * list->steps + kPairPadding - 1; i < 2 * steps; ++i) {
    list->places[i] = last;
    list->values[i] = 0;
  }
}

// sums[2 * n] += a pair of inputs of n * 32 tokens.
template <int n, int... v>
HARROW_INLINE void PairStep(F* sums, const PairList* list, int64_t step, const std::byte* x,
                            Ints<v...>) {
  uint32_t places;
  __builtin_memcpy(&places, list->places + 2 * step, sizeof(places));
  const I w = BroadcastI(list->values + 2 * step);
  const std::byte* even = x + n * (places & 0xffff);
  const std::byte* odd = x + n * (places >> 16);
  (DotPairs(sums + 2 * v, w, even + 64 * v, odd + 64 * v), ...);
}
template <int n, int... r>
HARROW_INLINE void PairRows(const SkipTask<PairList>& task, const uint8_t* order, Ints<r...>) {
  constexpr int kRows = sizeof...(r);
  const PairList* const lists[] = {task.scratch->lists + order[r]...};
  float* const at[] = {task.sums + order[r] * kSkipTile...};
  F sums[kRows * 2 * n];
  (LoadSums(sums + 2 * n * r, at[r], task.first, Count<2 * n>()), ...);
  const int64_t steps = lists[kRows - 1]->steps;
  for (int64_t i = 0; i < steps; ++i)
    (PairStep<n>(sums + 2 * n * r, lists[r], i, task.x, Count<n>()), ...);
  (StoreSums(sums + 2 * n * r, at[r], Count<2 * n>()), ...);
}
// n * 32 tokens.
template <int n>
void SkipTilePairs(const SkipTask<PairList>& task) noexcept {
  const uint8_t* order = task.scratch->order;
  int64_t i = 0;
  // Rows without a non-zero have no place to be filled up with.
  for (; i < task.rows && task.scratch->lists[order[i]].steps == 0; ++i) {
    FetchAhead(task, i);
    if (task.first) PairRows<n>(task, order + i, Count<1>());
  }
  for (; i + kPairRows <= task.rows; i += kPairRows) {
    for (int64_t row = 0; row < kPairRows; ++row)
      FetchAhead(task, i + row);
    PairRows<n>(task, order + i, Count<kPairRows>());
  }
  for (; i < task.rows; ++i)
    PairRows<n>(task, order + i, Count<1>());
}

template <class Decoder>
struct SkipPairs {
  using List = PairList;
  static constexpr int64_t kVectorTokens = 32;
  static constexpr void (*kRun[])(const SkipTask<List>&) noexcept = {&SkipTilePairs<1>,
                                                                     &SkipTilePairs<2>};
  Decoder decoder;

  static int64_t SliceUnits(const PackedX&) { return kSkipUnits; }
  static int64_t TokenOfSlot(int64_t slot) {
    return (slot & ~int64_t{31}) + slot % 16 / 4 * 8 + slot % 32 / 16 * 4 + slot % 4;
  }
  void Begin(const LinearWeight& weight, int64_t panel) {
    decoder.Begin(weight.data.data() + PanelOffset(weight, panel), BlockStride(weight.spec));
  }
  const std::byte* next() const { return decoder.next; }
  void MakeLists(const LinearWeight&, const PackedX&, int64_t, int64_t units, int64_t panel,
                 SkipScratch<List>* scratch) {
    static_assert(Decoder::kUnits == kPanelRows);
    alignas(64) std::byte turned[kSkipUnits * 64];
    for (int64_t unit = 0; unit < units; unit += kPanelRows) {
      ExpandBlock(&decoder, scratch->units, Count<Decoder::kUnits>());
      const std::byte* from[kPanelRows];
      for (int64_t i = 0; i < kPanelRows; ++i)
        from[i] = scratch->units + 64 * i;
      TransposeToUnits<RawLoader>(from, turned + 64 * unit);
    }
    for (int64_t row = 0; row < kPanelRows; ++row)
      ListNonzeros(turned + 64 * row, units, &scratch->lists[panel * kPanelRows + row]);
  }
  static void EndLists(int64_t rows, SkipScratch<List>* scratch) {
    int64_t i = 0;
    while (i < rows && scratch->lists[scratch->order[i]].steps == 0)
      ++i;
    for (; i + kPairRows <= rows; i += kPairRows) {
      const int64_t steps = scratch->lists[scratch->order[i + kPairRows - 1]].steps;
      for (int64_t row = i; row < i + kPairRows; ++row)
        ExtendList(&scratch->lists[scratch->order[row]], steps);
    }
  }
};

template <class Decoder>
using SkipBf16Of = SkipPairs<Decoder>;
constexpr bool kSkipsPairs = true;

#else

template <class Decoder>
using SkipBf16Of = SkipBf16<Decoder>;
constexpr bool kSkipsPairs = false;

#endif

int64_t SkipScratchBytes(int64_t, int64_t) {
  constexpr size_t kI8 = sizeof(SkipScratch<SkipList>);
  constexpr size_t kBf16 = sizeof(SkipScratch<typename SkipBf16Of<MaskedBf16<false>>::List>);
  return static_cast<int64_t>(kI8 > kBf16 ? kI8 : kBf16);
}
