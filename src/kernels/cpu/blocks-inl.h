// Products with block weights, for any number of tokens. Part of linear-inl.h.
//
// A panel's stored units are listed once, with the place of each in x; then, token block by token
// block, only stored units are multiplied. Arithmetic is skipped along with the bytes, so there is
// no expanded form. For 16x1 the inputs of a unit are scattered: their x is first gathered into
// cells of its own.

struct StoredUnits {
  const std::byte* values;  // units, one behind the other
  const std::byte* scales;  // i8: bf16 [group][16]
  uint32_t* places;         // of each unit in x, in units; in the gathered x for 16x1
  uint32_t* run_ends;       // units up to the end of each run (formats/block.h)
  int64_t runs;
  int64_t runs_per_scale;
  // For 16x1; null otherwise.
  std::byte* gathered;  // room for x
  uint32_t* columns;    // the input of each slot of a unit; null with one token
  const std::byte* index;
  int64_t run;  // inputs of a run
  int64_t cols;
};

// One token block and where its results go.
struct BlockTokens {
  const std::byte* x;     // [unit][tokens]
  const float* x_scales;  // i8: [run][tokens]
  int64_t fetch;          // how far ahead to ask for weights
  float* y;
  int64_t y_stride;
  int64_t lanes;
};

HARROW_INLINE uint64_t IndexWord(const std::byte* index, int64_t i) {
  uint64_t word;
  __builtin_memcpy(&word, index + 8 * i, sizeof(word));
  return word;
}
// The bits of 16x1 blocks [col, col + 32).
HARROW_INLINE uint32_t IndexBits(const std::byte* index, int64_t col) {
  uint32_t bits;
  __builtin_memcpy(&bits, index + col / 8, sizeof(bits));
  return bits;
}

// For blocks of whole units, kUnits of them.
template <int kUnits>
void ListPlaces(const BlockGeometry& b, const std::byte* index, StoredUnits* s) noexcept {
  uint32_t* next = s->places;
  const int64_t run_blocks = b.run / b.block_cols;
  int64_t run_end = run_blocks;
  int64_t run = 0;
  for (int64_t w = 0; w * 64 < b.bits; ++w) {
    for (uint64_t bits = IndexWord(index, w); bits != 0; bits &= bits - 1) {
      const int64_t block = w * 64 + __builtin_ctzll(bits);
      for (; block >= run_end; run_end += run_blocks)
        s->run_ends[run++] = static_cast<uint32_t>(next - s->places);
      for (int i = 0; i < kUnits; ++i)
        next[i] = static_cast<uint32_t>(block * kUnits + i);
      next += kUnits;
    }
  }
  while (run < b.runs)
    s->run_ends[run++] = static_cast<uint32_t>(next - s->places);
}

// For 16x1: units of each run, and the input of each slot. Slots that fill up a unit repeat its
// last input; their weights are zero.
template <int kSlots>
void ListColumns(const BlockGeometry& b, const std::byte* index, StoredUnits* s) noexcept {
  uint32_t* next = s->columns;
  for (int64_t run = 0; run < b.runs; ++run) {
    const int64_t end = (run + 1) * b.run < b.bits ? (run + 1) * b.run : b.bits;
    for (int64_t col = run * b.run; col < end; col += kBlockCols)
      next = AppendSetBits(next, static_cast<uint32_t>(col), IndexBits(index, col));
    for (; (next - s->columns) % kSlots != 0; ++next)
      *next = next[-1];
    s->run_ends[run] = static_cast<uint32_t>(next - s->columns) / kSlots;
  }
}

// For 16x1 and one token: only the units of each run.
template <int kSlots>
void CountColumns(const BlockGeometry& b, const std::byte* index, StoredUnits* s) noexcept {
  uint32_t units = 0;
  for (int64_t run = 0; run < b.runs; ++run) {
    const int64_t end = (run + 1) * b.run < b.bits ? (run + 1) * b.run : b.bits;
    int columns = 0;
    for (int64_t col = run * b.run; col < end; col += kBlockCols)
      columns += __builtin_popcount(IndexBits(index, col));
    units += static_cast<uint32_t>((columns + kSlots - 1) / kSlots);
    s->run_ends[run] = units;
  }
}

// x of one token without the inputs that are not stored, `kInputBytes` each, and zeros where the
// last unit of a run is filled up.
template <int kInputBytes>
HARROW_INLINE void CompressX(const StoredUnits& s, const std::byte* x) {
  constexpr int64_t kUnitBytes = kInputBytes == 4 ? 8 : 4;
  int64_t begin = 0;
  for (int64_t run = 0; run < s.runs; ++run) {
    std::byte* out = s.gathered + begin * kUnitBytes;
    const int64_t end = (run + 1) * s.run < s.cols ? (run + 1) * s.run : s.cols;
    for (int64_t col = run * s.run; col < end; col += kBlockCols) {
      const uint32_t bits = IndexBits(s.index, col);
      CompressInputs<kInputBytes>(x + col * kInputBytes, bits, out);
      out += kInputBytes * __builtin_popcount(bits);
    }
    __builtin_memset(out, 0, kUnitBytes);
    begin = s.run_ends[run];
  }
}

// x of the slots of a unit, `kInputBytes` each: 4 (one input a cell), 2 or 1.
template <int kInputBytes, int T>
HARROW_INLINE void GatherUnit(const std::byte* x, const uint32_t* columns, std::byte* out) {
  constexpr int kPerCell = 4 / kInputBytes;
  if constexpr (kPerCell == 1) {
    __builtin_memcpy(out, x + int64_t{columns[0]} * (4 * T), 4 * T);
    __builtin_memcpy(out + 4 * T, x + int64_t{columns[1]} * (4 * T), 4 * T);
  } else {
    constexpr uint32_t kMask = (uint32_t{1} << (8 * kInputBytes)) - 1;
    uint32_t cells[T] = {};
    for (int i = 0; i < kPerCell; ++i) {
      const uint32_t shift = columns[i] % kPerCell * (8 * kInputBytes);
      const std::byte* from = x + int64_t{columns[i] / kPerCell} * (4 * T);
      for (int t = 0; t < T; ++t) {
        uint32_t cell;
        __builtin_memcpy(&cell, from + 4 * t, sizeof(cell));
        cells[t] |= (cell >> shift & kMask) << (8 * kInputBytes * i);
      }
    }
    __builtin_memcpy(out, cells, sizeof(cells));
  }
}
// Where the units of s find their x: for 16x1 gathered, else x itself.
template <int kInputBytes, int T>
HARROW_INLINE const std::byte* PlacedX(const StoredUnits& s, const std::byte* x) {
  constexpr int kSlots = kInputBytes == 4 ? 2 : 4 / kInputBytes;
  constexpr int64_t kXBytes = kInputBytes == 4 ? 8 * T : 4 * T;
  if (s.gathered == nullptr) return x;
  if constexpr (T == 1) {
    if (s.columns == nullptr) {
      CompressX<kInputBytes>(s, x);
      return s.gathered;
    }
  }
  const int64_t units = s.run_ends[s.runs - 1];
  for (int64_t u = 0; u < units; ++u)
    GatherUnit<kInputBytes, T>(x, s.columns + u * kSlots, s.gathered + u * kXBytes);
  return s.gathered;
}

template <int R, int... t>
HARROW_INLINE void StoreSumsOfLanes(const BlockTokens& in, const F* acc, Ints<t...>) {
  (StoreLanes(in.y + t * in.y_stride, SumPartials<R>(acc + t * R), in.lanes), ...);
}

template <int T, int R, int... r>
HARROW_INLINE void StepListed(F* acc, const std::byte* w, const uint32_t* places,
                              const std::byte* x, int64_t fetch, Ints<r...>) {
  constexpr int64_t kXBytes = 4 * MathBf16::kCellsPerUnit * T;
  ((__builtin_prefetch(w + 64 * r + fetch, 0, 3),
    StepUnit<R>(acc, r, LoadUnit(w + 64 * r), x + places[r] * kXBytes, Count<T>())),
   ...);
}

template <int T>
void BlocksBf16(const StoredUnits& s, const BlockTokens& in) noexcept {
  constexpr int R = Partials(T);
  const std::byte *x = PlacedX < MathBf16::kCellsPerUnit == 2 ? 4 : 2, T > (s, in.x);
  const int64_t units = s.run_ends[0];
  const std::byte* w = s.values;
  F acc[T * R];
  Clear(acc, ZeroF(), Count<T * R>());
  int64_t u = 0;
  if (units >= R) {
    do {
      StepListed<T, R>(acc, w, s.places + u, x, in.fetch, Count<R>());
      w += 64 * R;
      u += R;
    } while (u + R <= units);
  }
  if constexpr (R > 1) {
    for (; u < units; ++u) {
      StepListed<T, R>(acc, w, s.places + u, x, in.fetch, Count<1>());
      w += 64;
    }
  }
  StoreSumsOfLanes<R>(in, acc, Count<T>());
}

// What q + 128 adds to the products of a unit with T cells, lane t for token t.
template <int T, class V>
HARROW_INLINE V AddOffset(V offset, const std::byte* x) {
  if constexpr (kOffsetWeights) {
    return AddOffsets(offset, x, T);
  } else {
    return offset;
  }
}
template <int T, int R, int... r>
HARROW_INLINE void StepListedI8(I* acc, I* offset, const std::byte* w, const uint32_t* places,
                                const std::byte* x, int64_t fetch, Ints<r...>) {
  ((__builtin_prefetch(w + 64 * r + fetch, 0, 3),
    *offset = AddOffset<T>(*offset, x + places[r] * int64_t{4 * T}),
    StepUnit<R>(acc, r, LoadI8(w + 64 * r), x + places[r] * int64_t{4 * T}, Count<T>())),
   ...);
}
template <int R, int... t>
HARROW_INLINE void SubtractOffsets(I* acc, const int32_t* offsets, Ints<t...>) {
  ((acc[t * R] = SubI(acc[t * R], BroadcastI(offsets + t))), ...);
}
// The integer sums of one run of `units` > 0, a multiple of R; alone, so that its sums stay in
// registers.
template <int T, int R>
HARROW_INLINE void RunSums(const std::byte* w, const uint32_t* places, const std::byte* x,
                           int64_t units, int64_t fetch, I* sums) noexcept {
  I acc[T * R];
  Clear(acc, ZeroI(), Count<T * R>());
  I offset = ZeroI();
  int64_t u = 0;
  do {
    StepListedI8<T, R>(acc, &offset, w, places + u, x, fetch, Count<R>());
    w += 64 * R;
    u += R;
  } while (u != units);
  if constexpr (kOffsetWeights) {
    int32_t offsets[kPanelRows];
    StoreI(offsets, offset);
    SubtractOffsets<R>(acc, offsets, Count<T>());
  }
  StoreAll(acc, sums, Count<T * R>());
}

// R partial sums: 16x16 blocks have 4 units, so that 4, 2 or 1 come out even; all others take 1,
// where the sums of the next run start while this one's are under way.
template <int T, int R>
void BlocksI8(const StoredUnits& s, const BlockTokens& in) noexcept {
  const std::byte* x = PlacedX<1, T>(s, in.x);
  F out[T];
  Clear(out, ZeroF(), Count<T>());
  int64_t begin = 0;
  for (int64_t run = 0; run < s.runs; ++run) {
    const int64_t end = s.run_ends[run];
    if (begin == end) continue;
    I sums[T * R];
    RunSums<T, R>(s.values + 64 * begin, s.places + begin, x, end - begin, in.fetch, sums);
    const F scale = LoadBf16(s.scales + run / s.runs_per_scale * (2 * kPanelRows));
    EndGroup<R>(out, sums, scale, in.x_scales + run * T, Count<T>());
    begin = end;
  }
  StoreSumsOfLanes<1>(in, out, Count<T>());
}

using ListFn = void (*)(const BlockGeometry&, const std::byte*, StoredUnits*) noexcept;
using BlocksFn = void (*)(const StoredUnits&, const BlockTokens&) noexcept;

template <int... kTokens>
HARROW_INLINE BlocksFn BlocksBf16Of(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr BlocksFn kTable[] = {&BlocksBf16<kTokens + 1>...};
  return kTable[tokens - 1];
}
template <int... kTokens>
HARROW_INLINE BlocksFn BlocksI8Of(int64_t tokens, bool even,
                                  std::integer_sequence<int, kTokens...>) {
  static constexpr BlocksFn kEven[] = {&BlocksI8<kTokens + 1, Partials(kTokens + 1)>...};
  static constexpr BlocksFn kAny[] = {&BlocksI8<kTokens + 1, 1>...};
  return (even ? kEven : kAny)[tokens - 1];
}
constexpr int kBlockTokens = kMicroTokens > kFusedTokens ? kMicroTokens : kFusedTokens;
using BlockTokenCounts = std::make_integer_sequence<int, kBlockTokens>;

// The lists of a task lie where other kernels have unpacked rows, behind the expanded units: 2 k
// bytes of places, k / 8 of run ends, 4 k of columns and at most 48 k of gathered x.
HARROW_INLINE StoredUnits ListsIn(std::byte* scratch, const BlockGeometry& b, int64_t k,
                                  int64_t tokens) {
  const int64_t padded_k = (k + 63) / 64 * 64;
  std::byte* lists = scratch + 2 * kExpandUnits * 64;
  StoredUnits s = {};
  s.places = reinterpret_cast<uint32_t*>(lists);
  s.run_ends = reinterpret_cast<uint32_t*>(lists + 2 * padded_k);
  s.runs = b.runs;
  if (b.block_cols > 1) return s;
  if (tokens > 1) s.columns = reinterpret_cast<uint32_t*>(lists + 3 * padded_k);
  s.gathered = lists + 7 * padded_k;
  s.run = b.run;
  s.cols = k;
  for (int64_t i = 0; i < padded_k / 2; ++i)
    s.places[i] = static_cast<uint32_t>(i);
  return s;
}

template <int kSlots>
HARROW_INLINE ListFn ListOf(int64_t block_cols, int64_t tokens) {
  if (block_cols == 16) return &ListPlaces<16 / kSlots>;
  if (block_cols == 4) return &ListPlaces<4 / kSlots>;
  return tokens > 1 ? &ListColumns<kSlots> : &CountColumns<kSlots>;
}

// kSlots: inputs of a unit.
template <ValueType kValues, int kSlots>
HARROW_INLINE void RunBlocks(const LinearTask& task) {
  const LinearWeight& weight = *task.weight;
  const PackedX& x = *task.x;
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
  const BlockGeometry b = BlockGeometryOf(weight.spec, weight.cols);
  const ListFn list = ListOf<kSlots>(b.block_cols, x.m);
  const int64_t head_bytes = g.scale_bytes + b.index_bytes;
  StoredUnits s = ListsIn(task.scratch, b, weight.cols, x.m);
  s.runs_per_scale = weight.spec.group / b.run;
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows);
    for (int64_t i = 0; i < head_bytes; i += 64)
      FetchLater(panel + i);
    list(b, panel + g.scale_bytes, &s);
    s.scales = panel;
    s.index = panel + g.scale_bytes;
    s.values = panel + head_bytes;
    for (int64_t block = 0; block < x.blocks; ++block) {
      const int64_t token = x.BlockBegin(block);
      const int64_t tokens = x.BlockBegin(block + 1) - token;
      BlockTokens in;
      in.x = x.values + token * x.units * 4;
      in.x_scales = x.scales + token * x.groups;
      in.fetch = block == 0 ? kFetchDistance : 0;
      in.y = task.y + token * task.y_stride + row;
      in.y_stride = task.y_stride;
      in.lanes = task.row_end - row;
      const BlocksFn run = kValues == ValueType::kBf16
                               ? BlocksBf16Of(tokens, BlockTokenCounts())
                               : BlocksI8Of(tokens, b.block_cols == 16, BlockTokenCounts());
      run(s, in);
    }
  }
}
