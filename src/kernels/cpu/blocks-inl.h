// Products with block weights, for any number of tokens. Part of linear-inl.h.
//
// A panel's stored units are listed once, with the place of each in x; then, token block by token
// block, only stored units are multiplied. Arithmetic is skipped along with the bytes, so there is
// no expanded form. For 16x1 the inputs of a unit are scattered: their x is first gathered into
// cells of its own, from a layout in which the tokens of an input are neighbours.
//
// With many tokens x is larger than second-level cache, and each panel would read it again from
// beyond. So tokens are taken in chunks that fit there, and weights are read once a chunk.

// Bytes of x of a chunk: half of a second-level cache of 1 MiB.
constexpr int64_t kChunkBytes = 512 << 10;

struct StoredUnits {
  const std::byte* values;  // units, one behind the other
  const std::byte* scales;  // i8: bf16 [group][16]
  uint32_t* places;         // of each unit in x, in units; in the gathered x for 16x1
  uint32_t* run_ends;       // units up to the end of each run (formats/block.h)
  I* offsets;  // i8: minus what x + 128 adds to the sums of each run; kOffsetWeights only
  int64_t runs;
  int64_t runs_per_scale;
  // For 16x1; null otherwise.
  std::byte* gathered;  // room for x
  uint32_t* columns;    // the input of each slot of a unit; null with one token
  const std::byte* index;
  int64_t run;  // inputs of a run
  int64_t cols;
};

// A register block of tokens and where its results go.
struct BlockTokens {
  const std::byte* x;     // [cell][x_tokens]
  int64_t x_tokens;       // tokens between one cell and the next
  const float* x_scales;  // i8: [run][x_tokens]
  bool offsets_known;     // i8: s.offsets were found with an earlier block
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
// The bits of blocks [col, col + 32); col is a multiple of 8.
HARROW_INLINE uint32_t IndexBits(const std::byte* index, int64_t col) {
  uint32_t bits;
  __builtin_memcpy(&bits, index + col / 8, sizeof(bits));
  return bits;
}

// For blocks of one unit. Runs are whole bytes of the index.
void ListUnits(const BlockGeometry& b, const std::byte* index, StoredUnits* s) noexcept {
  uint32_t* next = s->places;
  const int64_t run_blocks = b.run / b.block_cols;
  for (int64_t run = 0; run < b.runs; ++run) {
    const int64_t end = (run + 1) * run_blocks < b.bits ? (run + 1) * run_blocks : b.bits;
    for (int64_t block = run * run_blocks; block < end; block += 32) {
      uint32_t bits = IndexBits(index, block);
      if (end - block < 32) bits &= (1u << (end - block)) - 1;
      next = AppendSetBits(next, static_cast<uint32_t>(block), bits);
    }
    s->run_ends[run] = static_cast<uint32_t>(next - s->places);
  }
}

// For blocks of several units, kUnits of them.
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

// x of the slots of a unit for kTokens tokens (8, 16 or 32), from [input][token], `kInputBytes`
// each: 4 (one input a cell), 2 or 1.
template <int kInputBytes, int kTokens>
HARROW_INLINE void GatherUnit(const std::byte* x, const uint32_t* columns, std::byte* out) {
  constexpr int64_t kStride = kTokens * kInputBytes;
  if constexpr (kInputBytes == 4) {
    __builtin_memcpy(out, x + columns[0] * kStride, kStride);
    __builtin_memcpy(out + kStride, x + columns[1] * kStride, kStride);
  } else if constexpr (kInputBytes == 2) {
    InterleaveWords<kTokens>(x + columns[0] * kStride, x + columns[1] * kStride, out);
  } else {
    InterleaveBytes<kTokens>(x + columns[0] * kStride, x + columns[1] * kStride,
                             x + columns[2] * kStride, x + columns[3] * kStride, out);
  }
}
template <int kInputBytes, int kTokens>
void GatherX(const StoredUnits& s, const std::byte* x) noexcept {
  constexpr int kSlots = kInputBytes == 1 ? 4 : 2;
  constexpr int64_t kXBytes = kSlots * kInputBytes * kTokens;
  const int64_t units = s.run_ends[s.runs - 1];
  for (int64_t u = 0; u < units; ++u)
    GatherUnit<kInputBytes, kTokens>(x, s.columns + u * kSlots, s.gathered + u * kXBytes);
}
// For 16x1: fills s.gathered with what the units of s need of x, whose inputs have `tokens` tokens.
template <int kInputBytes>
HARROW_INLINE void Gather(const StoredUnits& s, const std::byte* x, int64_t tokens) {
  if (tokens == 1) {
    CompressX<kInputBytes>(s, x);
  } else if (tokens == 8) {
    GatherX<kInputBytes, 8>(s, x);
  } else if (tokens == 16) {
    GatherX<kInputBytes, 16>(s, x);
  } else {
    GatherX<kInputBytes, 32>(s, x);
  }
}

template <int R, int... t>
HARROW_INLINE void StoreTokens(const F* acc, float* y, int64_t stride, Ints<t...>) {
  (StoreF(y + t * stride, SumPartials<R>(acc + t * R)), ...);
}
// Part of a panel: rows of kPanelRows to y.
__attribute__((noinline)) void CopyLanes(const BlockTokens& in, const float* rows, int tokens) {
  for (int t = 0; t < tokens; ++t)
    __builtin_memcpy(in.y + t * in.y_stride, rows + t * kPanelRows,
                     static_cast<size_t>(in.lanes) * sizeof(float));
}
// Sums that are alive across a call, as the copying of part of a panel is, GCC keeps in memory
// throughout. So that call is one, and the last.
template <int T, int R>
HARROW_INLINE void StoreSumsOfLanes(const BlockTokens& in, const F* acc) {
  if (in.lanes >= kPanelRows) {
    StoreTokens<R>(acc, in.y, in.y_stride, Count<T>());
    return;
  }
  float rows[T * kPanelRows];
  StoreTokens<R>(acc, rows, kPanelRows, Count<T>());
  CopyLanes(in, rows, T);
}

template <int R, int... t>
HARROW_INLINE void StepBlockUnit(F* acc, int r, Unit w, const std::byte* x, int x_tokens,
                                 Ints<t...>) {
  ((acc[t * R + r] = MathBf16::StepUnit(acc[t * R + r], w, x, x_tokens, t)), ...);
}
template <int T, int R, int... r>
HARROW_INLINE void StepListed(F* acc, const std::byte* w, const uint32_t* places,
                              const std::byte* x, int64_t x_tokens, int64_t fetch, Ints<r...>) {
  const int64_t unit_bytes = 4 * MathBf16::kCellsPerUnit * x_tokens;
  ((__builtin_prefetch(w + 64 * r + fetch, 0, 3),
    StepBlockUnit<R>(acc, r, LoadUnit(w + 64 * r), x + places[r] * unit_bytes,
                     static_cast<int>(x_tokens), Count<T>())),
   ...);
}

template <int T>
void BlocksBf16(const StoredUnits& s, const BlockTokens& in) noexcept {
  constexpr int R = Partials(T);
  const std::byte* x = in.x;
  const int64_t x_tokens = in.x_tokens;
  const int64_t units = s.run_ends[0];
  const std::byte* w = s.values;
  F acc[T * R];
  Clear(acc, ZeroF(), Count<T * R>());
  int64_t u = 0;
  if (units >= R) {
    do {
      StepListed<T, R>(acc, w, s.places + u, x, x_tokens, in.fetch, Count<R>());
      w += 64 * R;
      u += R;
    } while (u + R <= units);
  }
  if constexpr (R > 1) {
    for (; u < units; ++u) {
      StepListed<T, R>(acc, w, s.places + u, x, x_tokens, in.fetch, Count<1>());
      w += 64;
    }
  }
  StoreSumsOfLanes<T, R>(in, acc);
}

template <int R, int... t>
HARROW_INLINE void StepBlockUnit(I* acc, int r, SignedI8 w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = DotSignedI8(acc[t * R + r], w, BroadcastI(x + 4 * t))), ...);
}
template <int T, int R, bool kFindOffset, int... r>
HARROW_INLINE void StepListedI8(I* acc, I* offset, const std::byte* w, const uint32_t* places,
                                const std::byte* x, int64_t x_tokens, int64_t fetch, Ints<r...>) {
  if constexpr (kFindOffset) ((*offset = AddSignedOffset(*offset, LoadSignedI8(w + 64 * r))), ...);
  ((__builtin_prefetch(w + 64 * r + fetch, 0, 3),
    StepBlockUnit<R>(acc, r, LoadSignedI8(w + 64 * r), x + places[r] * (4 * x_tokens), Count<T>())),
   ...);
}
template <int R, int... t>
HARROW_INLINE void AddOffset(I* acc, I offset, Ints<t...>) {
  ((acc[t * R] = AddI(acc[t * R], offset)), ...);
}
template <int R, int... t>
HARROW_INLINE void BeginAtOffset(I* acc, I offset, Ints<t...>) {
  ((acc[t * R] = Own(offset)), ...);
}
template <int... i>
HARROW_INLINE void StoreAll(const I* acc, I* sums, Ints<i...>) {
  ((sums[i] = acc[i]), ...);
}
// The integer sums of one run of `units` > 0, a multiple of R; alone, so that its sums stay in
// registers.
template <int T, int R, bool kFindOffset>
HARROW_INLINE void RunSums(const std::byte* w, const uint32_t* places, const BlockTokens& in,
                           int64_t units, I* offset, I* sums) noexcept {
  const std::byte* x = in.x;
  const int64_t x_tokens = in.x_tokens;
  I acc[T * R];
  Clear(acc, ZeroI(), Count<T * R>());
  if constexpr (kOffsetWeights && !kFindOffset) BeginAtOffset<R>(acc, *offset, Count<T>());
  I found = ZeroI();
  int64_t u = 0;
  do {
    StepListedI8<T, R, kFindOffset>(acc, &found, w, places + u, x, x_tokens, in.fetch, Count<R>());
    w += 64 * R;
    u += R;
  } while (u != units);
  if constexpr (kFindOffset) {
    *offset = SubI(ZeroI(), found);
    AddOffset<R>(acc, *offset, Count<T>());
  }
  StoreAll(acc, sums, Count<T * R>());
}

// R partial sums: 16x16 blocks have 4 units, so that 4, 2 or 1 come out even; all others take 1,
// where the sums of the next run start while this one's are under way.
template <int T, int R, bool kFindOffset>
void BlocksI8(const StoredUnits& s, const BlockTokens& in) noexcept {
  F out[T];
  Clear(out, ZeroF(), Count<T>());
  int64_t begin = 0;
  for (int64_t run = 0; run < s.runs; ++run) {
    const int64_t end = s.run_ends[run];
    if (begin == end) continue;
    I sums[T * R];
    RunSums<T, R, kFindOffset>(s.values + 64 * begin, s.places + begin, in, end - begin,
                               s.offsets + run, sums);
    const int64_t group = static_cast<uint32_t>(run) / static_cast<uint32_t>(s.runs_per_scale);
    const F scale = LoadBf16(s.scales + group * (2 * kPanelRows));
    EndGroup<R>(out, sums, scale, in.x_scales + run * in.x_tokens, Count<T>());
    begin = end;
  }
  StoreSumsOfLanes<T, 1>(in, out);
}

using ListFn = void (*)(const BlockGeometry&, const std::byte*, StoredUnits*) noexcept;
using BlocksFn = void (*)(const StoredUnits&, const BlockTokens&) noexcept;

template <int... kTokens>
HARROW_INLINE BlocksFn BlocksBf16Of(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr BlocksFn kTable[] = {&BlocksBf16<kTokens + 1>...};
  return kTable[tokens - 1];
}
template <bool kFindOffset, int... kTokens>
HARROW_INLINE BlocksFn BlocksI8Of(int64_t tokens, bool even,
                                  std::integer_sequence<int, kTokens...>) {
  static constexpr BlocksFn kEven[] = {
      &BlocksI8<kTokens + 1, Partials(kTokens + 1), kFindOffset>...};
  static constexpr BlocksFn kAny[] = {&BlocksI8<kTokens + 1, 1, kFindOffset>...};
  return (even ? kEven : kAny)[tokens - 1];
}
template <ValueType kValues>
HARROW_INLINE BlocksFn BlocksOf(int64_t tokens, bool even, bool offsets_known) {
  if constexpr (kValues == ValueType::kBf16) {
    return BlocksBf16Of(tokens, Count<kBlockTokens>());
  } else if (kOffsetWeights && !offsets_known) {
    return BlocksI8Of<kOffsetWeights>(tokens, even, Count<kBlockTokensI8>());
  } else {
    return BlocksI8Of<false>(tokens, even, Count<kBlockTokensI8>());
  }
}

// The most tokens of a tile of 16x1: what one gathering serves. Tiles are of 8, 16 or 32: with few
// tokens gathering is most of the work, and x and what is gathered of it should stay in first-level
// cache.
constexpr int kGatherTokens = 32;

// x for block weights: of 16x1 by inputs, so that gathering copies whole vectors of tokens.
XFormat BlocksX(XElement element, int32_t group, int32_t block_cols, int64_t m, int tokens) {
  XFormat format;
  format.element = element;
  format.group = group;
  const bool gathers = block_cols == 1 && m > 1;
  format.layout = gathers ? XLayout::kInputs : XLayout::kCells;
  format.block_tokens = tokens;
  if (gathers) {
    format.tile_multiple = m <= 8 ? 8 : 16;
    format.block_tokens = m <= 16 ? format.tile_multiple : kGatherTokens;
  }
  return format;
}
XFormat LinearBlockBf16X(const WeightSpec& spec, int64_t m) {
  return BlocksX(MathBf16::kElement, 0, spec.block_cols, m, kBlockTokens);
}
XFormat LinearBlockI8X(const WeightSpec& spec, int64_t m) {
  return BlocksX(kOffsetWeights ? XElement::kU8 : XElement::kI8,
                 static_cast<int32_t>(ActivationGroup(spec.group)), spec.block_cols, m,
                 kBlockTokensI8);
}

// Bytes a padded input of each list in a task's scratch.
constexpr int64_t kPlaceBytes = 2;   // a unit of 4 bytes for 2 inputs at least
constexpr int64_t kRunBytes = 1;     // 4 bytes for 32 inputs at least
constexpr int64_t kOffsetBytes = 2;  // 64 bytes for 32 inputs at least
constexpr int64_t kColumnBytes = 4;
constexpr int64_t kGatheredBytes = 4 * kGatherTokens;

int64_t BlockScratchBytes(int64_t, int64_t k) {
  const int64_t padded_k = (k + 63) / 64 * 64;
  // AppendSetBits and CompressX write past their ends.
  return padded_k * (kPlaceBytes + kRunBytes + kOffsetBytes + kColumnBytes + kGatheredBytes) + 128;
}

HARROW_INLINE StoredUnits ListsIn(std::byte* scratch, const BlockGeometry& b, int64_t k,
                                  int64_t tokens) {
  const int64_t padded_k = (k + 63) / 64 * 64;
  StoredUnits s = {};
  s.offsets = reinterpret_cast<I*>(scratch);
  scratch += kOffsetBytes * padded_k;
  s.places = reinterpret_cast<uint32_t*>(scratch);
  scratch += kPlaceBytes * padded_k;
  s.run_ends = reinterpret_cast<uint32_t*>(scratch);
  scratch += kRunBytes * padded_k;
  s.runs = b.runs;
  if (b.block_cols > 1) return s;
  s.gathered = scratch;
  scratch += kGatheredBytes * padded_k + 64;
  if (tokens > 1) s.columns = reinterpret_cast<uint32_t*>(scratch);
  s.run = b.run;
  s.cols = k;
  for (int64_t i = 0; i < padded_k / 2; ++i)
    s.places[i] = static_cast<uint32_t>(i);
  return s;
}

template <int kSlots>
HARROW_INLINE ListFn ListOf(int64_t block_cols, int64_t tokens) {
  if (block_cols == 16) return &ListPlaces<16 / kSlots>;
  if (block_cols == 4) return kSlots == 4 ? &ListUnits : &ListPlaces<4 / kSlots>;
  return tokens > 1 ? &ListColumns<kSlots> : &CountColumns<kSlots>;
}

// A block of x times a panel, whose results begin at `row`; `known` is BlockTokens::offsets_known.
template <ValueType kValues>
HARROW_INLINE void RunTokenBlock(const LinearTask& task, const StoredUnits& s, int64_t block,
                                 int64_t row, bool even, bool known) {
  constexpr bool kBf16 = kValues == ValueType::kBf16;
  constexpr int64_t kMost = kBf16 ? kBlockTokens : kBlockTokensI8;
  const PackedX& x = *task.x;
  const int64_t token = x.BlockBegin(block);
  const int64_t tokens = x.BlockBegin(block + 1) - token;
  const std::byte* values = x.values + token * x.units * 4;
  BlockTokens in;
  in.x_tokens = x.BlockStride(block);
  if (s.gathered != nullptr) {
    Gather<kBf16 ? 2 * MathBf16::kCellsPerUnit : 1>(s, values, in.x_tokens);
    values = s.gathered;
  }
  in.lanes = task.row_end - row;
  in.y_stride = task.y_stride;
  const int64_t parts = (tokens + kMost - 1) / kMost;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * tokens / parts;
    in.x = values + 4 * first;
    in.x_scales = x.scales + token * x.groups + first;
    in.offsets_known = known || part > 0;
    in.fetch = in.offsets_known ? 0 : task.fetch_distance;
    in.y = task.y + (token + first) * task.y_stride + row;
    BlocksOf<kValues>((part + 1) * tokens / parts - first, even, in.offsets_known)(s, in);
  }
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
  const int64_t fitting = kChunkBytes / (x.format.block_tokens * x.units * 4);
  const int64_t chunk = fitting < 1 ? 1 : fitting;
  for (int64_t begin = 0; begin < x.blocks; begin += chunk) {
    const int64_t end = begin + chunk < x.blocks ? begin + chunk : x.blocks;
    for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
      const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows);
      for (int64_t i = 0; i < head_bytes; i += 64)
        FetchLater(panel + i, task.fetch_distance);
      list(b, panel + g.scale_bytes, &s);
      s.scales = panel;
      s.index = panel + g.scale_bytes;
      s.values = panel + head_bytes;
      for (int64_t block = begin; block < end; ++block)
        RunTokenBlock<kValues>(task, s, block, row, b.block_cols == 16, block != begin);
    }
  }
}
