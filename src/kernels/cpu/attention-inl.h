// Attention kernels over the operations of simd/<isa>-inl.h. Included inside a tier's namespace and
// target region. Lanes are keys in a score and dimensions in a mixture (kv_block.h).
//
// A register block is kRows queries x kVecs vectors: a line of the cache is read once for kRows
// queries. Blocks of keys come from memory with few rows and from cache with many: the first group
// of rows asks for what comes next, values while keys are read and the next block while values are.

// Scores are logarithms to base 2 of weights. A row's weights are taken relative to a maximum that
// may lag behind the true one by this much, so that rows are seldom rescaled.
constexpr float kLag = 8;

// Lines asked for while one of `rows` rows' weights is computed: about what memory delivers
// meanwhile.
constexpr int FetchedByRow(int rows) {
  return rows < 3 ? 48 / rows : 16;
}

HARROW_INLINE F Constant(float value) {
  return BroadcastF(&value);
}

// 2^x for x <= 127, 0 far below and for -inf: 2^floor(x) times the polynomial that is nearest to
// 2^r, 0 <= r < 1, relative to it; of degree 5 (error 9e-8) or, where the result is rounded anyway,
// 4 (2.7e-6).
template <bool kExact>
HARROW_INLINE F Exp2(F x) {
  const F r = Fraction(x);
  F p;
  if constexpr (kExact) {
    p = Fma(r, Constant(1.8775767e-3f), Constant(8.9893397e-3f));
    p = Fma(p, r, Constant(5.5826318e-2f));
    p = Fma(p, r, Constant(2.4015361e-1f));
    p = Fma(p, r, Constant(6.9315308e-1f));
    p = Fma(p, r, Constant(0.99999994f));
  } else {
    p = Fma(r, Constant(1.35341678e-2f), Constant(5.2011460e-2f));
    p = Fma(p, r, Constant(2.41442755e-1f));
    p = Fma(p, r, Constant(6.9300383e-1f));
    p = Fma(p, r, Constant(1.0000026f));
  }
  return TimesPow2Floor(p, x);
}

// ---- the element types: Line is 64 bytes of cache, Cell the matching query or weight cell for all
// lanes, Sum 16 running sums. Queries hold kCellBytes a cell, one after the other; weights
// kWeightBytes a row, kWeightStep a cell.

struct F32Cache {
  using Line = F;
  using Cell = F;
  using Sum = F;
  static constexpr bool kExact = true;
  static constexpr int kSums = 1;
  static constexpr int kCellBytes = 4;
  static constexpr int kWeightBytes = 256, kWeightStep = 4;
  HARROW_INLINE static Line LoadLine(const std::byte* p) { return LoadF(p); }
  template <int>
  HARROW_INLINE static Cell LoadCell(const std::byte* p) {
    return BroadcastF(p);
  }
  HARROW_INLINE static void Dot(Sum* sum, const Line& line, const Cell& cell) {
    *sum = Fma(line, cell, *sum);
  }
};

#if HARROW_NATIVE_BF16
struct Bf16Cache {
  using Line = Unit;
  using Cell = Unit;
  using Sum = F;
  static constexpr bool kExact = false;
  static constexpr int kSums = 1;
  static constexpr int kCellBytes = 4;
  static constexpr int kWeightBytes = 128, kWeightStep = 4;
  HARROW_INLINE static Line LoadLine(const std::byte* p) { return LoadUnit(p); }
  template <int>
  HARROW_INLINE static Cell LoadCell(const std::byte* p) {
    return BroadcastI(p);
  }
  HARROW_INLINE static void Dot(Sum* sum, const Line& line, const Cell& cell) {
    *sum = DotBf16(*sum, line, cell);
  }
};
#else
struct Bf16Cache {
  struct Line {
    F even, odd;
  };
  using Cell = Line;
  using Sum = F;
  static constexpr bool kExact = true;
  static constexpr int kSums = 1;
  static constexpr int kCellBytes = 8;
  static constexpr int kWeightBytes = 256, kWeightStep = 8;
  HARROW_INLINE static Line LoadLine(const std::byte* p) {
    const Unit unit = LoadUnit(p);
    return {EvenBf16(unit), OddBf16(unit)};
  }
  template <int>
  HARROW_INLINE static Cell LoadCell(const std::byte* p) {
    return {BroadcastF(p), BroadcastF(p + 4)};
  }
  HARROW_INLINE static void Dot(Sum* sum, const Line& line, const Cell& cell) {
    *sum = Fma(line.odd, cell.odd, Fma(line.even, cell.even, *sum));
  }
};
#endif

// Queries and weights are integers of up to 127 * 128, as 128 * high + low with two signed bytes:
// two products, as many a token as BF16 takes.
constexpr int32_t kLargest15 = 127 * 128;
struct I8Cache {
  using Line = UnitI8;
  struct Cell {
    I high, low;
  };
  struct Sum {
    I high, low;
  };
  static constexpr bool kExact = false;
  static constexpr int kSums = 2;
  static constexpr int kCellBytes = 8;
  static constexpr int kWeightBytes = 128, kWeightStep = 4;
  HARROW_INLINE static Line LoadLine(const std::byte* p) { return LoadI8(p); }
  // The low bytes stand kApart bytes behind the high ones.
  template <int kApart>
  HARROW_INLINE static Cell LoadCell(const std::byte* p) {
    return {BroadcastI(p), BroadcastI(p + kApart)};
  }
  HARROW_INLINE static void Dot(Sum* sum, const Line& line, const Cell& cell) {
    sum->high = DotI8(sum->high, line, cell.high);
    sum->low = DotI8(sum->low, line, cell.low);
  }
  HARROW_INLINE static F Total(const Sum& sum) {
    return ToF(AddI(ShiftLeft<7>(sum.high), sum.low));
  }
};

template <class Cache>
constexpr bool kIsI8 = Cache::kSums == 2;

// Most rows of a register block, and vectors for that many rows.
template <class Cache>
constexpr int kGroupRows = kAttentionSums / Cache::kSums < static_cast<int>(kMaxGroupRows)
                               ? kAttentionSums / Cache::kSums
                               : static_cast<int>(kMaxGroupRows);
template <class Cache>
constexpr int Vecs(int rows, int most) {
  int vecs = most;
  while (vecs > 1 && vecs * rows * Cache::kSums > kAttentionSums)
    vecs /= 2;
  return vecs;
}

// ---- int8: a row of values as integers

struct Scale15 {
  float scale;
  float inverse;  // 0: all integers are 0
};
// From the bits of the largest magnitude, as QuantizeScaleOf.
static Scale15 Scale15Of(int32_t largest_bits) {
  const float largest = __builtin_bit_cast(float, largest_bits);
  if (!(largest < __builtin_inff())) return {__builtin_nanf(""), 0};
  if (largest < 0x1p-100f) return {0, 0};
  return {largest / kLargest15, kLargest15 / largest};
}
// Rounds 16 values to integers, stores their high bytes at `to` and the low ones at `to` + apart.
HARROW_INLINE I Store15(F values, F inverse, int64_t apart, std::byte* to) {
  const I rounded = RoundToInt(Mul(values, inverse));
  const int32_t half = 64;
  const I high = ShiftRight<7>(AddI(rounded, BroadcastI(&half)));
  StoreLow8(reinterpret_cast<int8_t*>(to), high);
  StoreLow8(reinterpret_cast<int8_t*>(to) + apart, SubI(rounded, ShiftLeft<7>(high)));
  return rounded;
}

// ---- queries

// Row `row` of the tile, scaled, into cells `step` bytes apart at `to`.
template <class Cache>
void PackQuery(const AttentionTile& tile, int64_t row, const AttentionScratch& scratch,
               int64_t step, std::byte* to) {
  const KvLayout& layout = tile.problem->kv.layout;
  constexpr float kLog2E = 1.44269504f;
  float* x = reinterpret_cast<float*>(scratch.row);
  std::byte* packed = scratch.row + layout.padded_dim * 4;
  __builtin_memcpy(x, tile.query(row), static_cast<size_t>(layout.head_dim) * sizeof(float));
  for (int64_t d = layout.head_dim; d < layout.padded_dim; ++d)
    x[d] = 0;
  const F factor = Constant(tile.problem->scale * kLog2E);
  I largest = ZeroI();
  for (int64_t d = 0; d < layout.padded_dim; d += 16) {
    const F scaled = Mul(LoadF(x + d), factor);
    StoreF(x + d, scaled);
    if constexpr (kIsI8<Cache>) largest = MaxMagnitude(largest, scaled);
  }
  if constexpr (kIsI8<Cache>) {
    const Scale15 scale = Scale15Of(MaxLane(largest));
    // NaN rounds to the least integer, whose sums overflow; the scale carries the NaN.
    for (int64_t d = 0; scale.inverse == 0 && d < layout.padded_dim; d += 16)
      StoreF(x + d, ZeroF());
    I sum = ZeroI();
    for (int64_t d = 0; d < layout.padded_dim; d += 16)
      sum =
          AddI(sum, Store15(LoadF(x + d), Constant(scale.inverse), layout.padded_dim, packed + d));
    scratch.query_scales[row] = scale.scale;
    scratch.corrections[row] = kOffsetWeights ? -128 * SumLanes(sum) : 0;
    for (int64_t cell = 0; cell < layout.key_cells; ++cell) {
      __builtin_memcpy(to + cell * step, packed + 4 * cell, 4);
      __builtin_memcpy(to + cell * step + 4, packed + layout.padded_dim + 4 * cell, 4);
    }
    return;
  }
  const std::byte* from = scratch.row;
#if HARROW_NATIVE_BF16
  if constexpr (!Cache::kExact) {
    for (int64_t d = 0; d < layout.padded_dim; d += 16)
      StoreHigh16(reinterpret_cast<uint16_t*>(packed) + d, RoundToBf16(LoadF(x + d)));
    from = packed;
  }
#endif
  for (int64_t cell = 0; cell < layout.key_cells; ++cell)
    __builtin_memcpy(to + cell * step, from + cell * Cache::kCellBytes, Cache::kCellBytes);
}

// ---- one block

// What software asks memory for while it reads a block, and into which level of cache.
enum class Fetch : uint8_t { kNothing, kFirstLevel, kSecondLevel };

template <Fetch kFetch>
HARROW_INLINE void FetchLine(const std::byte* p) {
  if constexpr (kFetch == Fetch::kFirstLevel) __builtin_prefetch(p, 0, 3);
  if constexpr (kFetch == Fetch::kSecondLevel) __builtin_prefetch(p, 0, 2);
}

// scores [kRows, 64] of `queries` [cells][kRows]. Asks for the 64-byte lines at `ahead`.
template <class Cache, int kRows, Fetch kFetch>
void ScoreRows(const std::byte* keys, int64_t cells, const std::byte* queries,
               const std::byte* ahead, const float* key_scales, const float* query_scales,
               const int32_t* corrections, float* scores) {
  constexpr int kVecs = Vecs<Cache>(kRows, 4);
  for (int64_t vec = 0; vec < 4; vec += kVecs) {
    typename Cache::Sum sum[kRows][kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) {
        if constexpr (kIsI8<Cache>) {
          sum[r][c] = {ZeroI(), BroadcastI(corrections + r)};
        } else {
          sum[r][c] = ZeroF();
        }
      }
    }
    const std::byte* x = queries;
    for (int64_t cell = 0; cell < cells; ++cell) {
      const int64_t at = (cell * 4 + vec) * 64;
      typename Cache::Line line[kVecs];
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) {
        line[c] = Cache::LoadLine(keys + at + c * 64);
        FetchLine<kFetch>(ahead + at + c * 64);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r, x += Cache::kCellBytes) {
        const typename Cache::Cell q = Cache::template LoadCell<4>(x);
#pragma GCC unroll 8
        for (int c = 0; c < kVecs; ++c)
          Cache::Dot(&sum[r][c], line[c], q);
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      F key_scale;
      if constexpr (kIsI8<Cache>) key_scale = LoadF(key_scales + (vec + c) * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        float* to = scores + r * kKvBlockTokens + (vec + c) * 16;
        if constexpr (kIsI8<Cache>) {
          StoreF(to, Mul(Mul(Cache::Total(sum[r][c]), Constant(query_scales[r])), key_scale));
        } else {
          StoreF(to, sum[r][c]);
        }
      }
    }
  }
}

// What a row's integer weights stand for.
struct MixScale {
  float scale;
  int32_t correction;
};

// Turns a row of scores into weights 2^(score - maximum), 0 from `visible` on, relative to which
// `output` and `lane_sums` are kept. int8: the weights include `value_scales`.
template <class Cache>
HARROW_INLINE MixScale WeighRow(const float* scores, int64_t visible, int64_t padded_dim,
                                const float* value_scales, float* maximum, float* lane_sums,
                                float* output, std::byte* weights) {
  F w[4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c)
    w[c] = LoadF(scores + 16 * c);
  if (visible < kKvBlockTokens) {
    for (int c = 0; c < 4; ++c)
      w[c] = KeepLanes(w[c], visible - 16 * c, Constant(-__builtin_inff()));
  }
  const F highest = Max(Max(w[0], w[1]), Max(w[2], w[3]));
  F total = LoadF(lane_sums);
  if (AnyAbove(highest, Constant(*maximum + kLag))) {
    const float before = *maximum;
    *maximum = MaxOfLanes(highest);
    const F keep = Exp2<true>(Constant(before - *maximum));  // 0 for the first block
    total = Mul(total, keep);
    for (int64_t d = 0; d < padded_dim; d += 16)
      StoreF(output + d, Mul(LoadF(output + d), keep));
  }
  const F reference = Constant(*maximum);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c)
    w[c] = Exp2<Cache::kExact>(Sub(w[c], reference));
  StoreF(lane_sums, Add(total, Add(Add(w[0], w[1]), Add(w[2], w[3]))));
  if constexpr (kIsI8<Cache>) {
    I largest = ZeroI();
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      w[c] = Mul(w[c], LoadF(value_scales + 16 * c));
      if (visible < kKvBlockTokens) w[c] = KeepLanes(w[c], visible - 16 * c, ZeroF());
      largest = MaxMagnitude(largest, w[c]);
    }
    const Scale15 scale = Scale15Of(MaxLane(largest));
    for (int c = 0; scale.inverse == 0 && c < 4; ++c)  // as in PackQuery
      w[c] = ZeroF();
    I sum = ZeroI();
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c)
      sum = AddI(sum, Store15(w[c], Constant(scale.inverse), kKvBlockTokens, weights + 16 * c));
    return {scale.scale, kOffsetWeights ? -128 * SumLanes(sum) : 0};
  }
#if HARROW_NATIVE_BF16
  if constexpr (!Cache::kExact) {
    StoreUnit(weights, PackBf16(w[0], w[1]));
    StoreUnit(weights + 64, PackBf16(w[2], w[3]));
    return {};
  }
#endif
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c)
    StoreF(reinterpret_cast<float*>(weights) + 16 * c, w[c]);
  return {};
}

// output [kRows, kVecs vectors] += weights [kRows] * values [cells, kVecs vectors].
template <class Cache, int kRows, int kVecs, Fetch kFetch>
HARROW_INLINE void MixTile(const std::byte* values, int64_t stride, int64_t cells,
                           const std::byte* weights, const MixScale* scales, const std::byte* ahead,
                           float* output, int64_t output_stride) {
  typename Cache::Sum sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      if constexpr (kIsI8<Cache>) {
        sum[r][c] = {ZeroI(), BroadcastI(&scales[r].correction)};
      } else {
        sum[r][c] = LoadF(output + r * output_stride + 16 * c);
      }
    }
  }
  for (int64_t cell = 0; cell < cells; ++cell) {
    typename Cache::Line line[kVecs];
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      line[c] = Cache::LoadLine(values + cell * stride + 64 * c);
      FetchLine<kFetch>(ahead + cell * stride + 64 * c);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename Cache::Cell w = Cache::template LoadCell<kKvBlockTokens>(
          weights + r * Cache::kWeightBytes + cell * Cache::kWeightStep);
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c)
        Cache::Dot(&sum[r][c], line[c], w);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      float* to = output + r * output_stride + 16 * c;
      if constexpr (kIsI8<Cache>) {
        StoreF(to, Fma(Cache::Total(sum[r][c]), Constant(scales[r].scale), LoadF(to)));
      } else {
        StoreF(to, sum[r][c]);
      }
    }
  }
}

// A block as its rows see it.
struct BlockView {
  const std::byte* block;
  const std::byte* next;  // the block after it
  Fetch fetch;            // what to ask for of this one's values and of the next one
  int64_t cells;          // of values that any row sees
  bool last;              // rows see AttentionTile::last_keys() of it
};

// Dimensions from d on of a tile of `dim`, kVecs vectors at a time and the rest by fewer.
template <class Cache, int kRows, int kVecs, Fetch kFetch>
void MixRows(const std::byte* values, int64_t d, int64_t dim, int64_t cells,
             const std::byte* weights, const MixScale* scales, const std::byte* ahead,
             float* output, int64_t output_stride) {
  for (; d + 16 * kVecs <= dim; d += 16 * kVecs) {
    MixTile<Cache, kRows, kVecs, kFetch>(values + 4 * d, 4 * dim, cells, weights, scales,
                                         ahead + 4 * d, output + d, output_stride);
  }
  if constexpr (kVecs > 1) {
    MixRows<Cache, kRows, kVecs / 2, kFetch>(values, d, dim, cells, weights, scales, ahead, output,
                                             output_stride);
  }
}

// The rows of a group, of which there are kRows or fewer.
template <class Cache, int kRows>
void ScoreGroup(int64_t rows, const KvLayout& layout, const BlockView& view, int64_t row,
                const AttentionScratch& scratch) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return ScoreGroup<Cache, kRows - 1>(rows, layout, view, row, scratch);
  }
  const std::byte* queries = scratch.queries + row * layout.key_cells * Cache::kCellBytes;
  const std::byte* values = view.block + layout.values_at;
  const auto* scales = reinterpret_cast<const float*>(view.block + layout.scales_at);
  using Score = decltype(&ScoreRows<Cache, kRows, Fetch::kNothing>);
  static constexpr Score kScores[] = {&ScoreRows<Cache, kRows, Fetch::kNothing>,
                                      &ScoreRows<Cache, kRows, Fetch::kFirstLevel>,
                                      &ScoreRows<Cache, kRows, Fetch::kSecondLevel>};
  const Score score = kScores[row == 0 ? static_cast<int>(view.fetch) : 0];
  score(view.block, layout.key_cells, queries, values, scales, scratch.query_scales + row,
        scratch.corrections + row, scratch.scores);
}

template <class Cache, int kRows>
void WeighGroup(int64_t rows, const AttentionTile& tile, const BlockView& view, int64_t row,
                const AttentionScratch& scratch, const AttentionState& state, MixScale* mix) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return WeighGroup<Cache, kRows - 1>(rows, tile, view, row, scratch, state, mix);
  }
  const KvLayout& layout = tile.problem->kv.layout;
  const auto* scales = reinterpret_cast<const float*>(view.block + layout.scales_at);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    constexpr int kLines = FetchedByRow(kRows);
    const std::byte* ahead = view.next + r * kLines * 64;
    if (row == 0 && view.fetch == Fetch::kFirstLevel) {
#pragma GCC unroll 48
      for (int line = 0; line < kLines; ++line)
        FetchLine<Fetch::kFirstLevel>(ahead + line * 64);
    } else if (row == 0 && view.fetch == Fetch::kSecondLevel) {
#pragma GCC unroll 48
      for (int line = 0; line < kLines; ++line)
        FetchLine<Fetch::kSecondLevel>(ahead + line * 64);
    }
    mix[r] = WeighRow<Cache>(
        scratch.scores + r * kKvBlockTokens, view.last ? tile.last_keys(row + r) : kKvBlockTokens,
        layout.padded_dim, scales + kKvBlockTokens, state.maxima + row + r,
        scratch.lane_sums + (row + r) * 16, state.output + (row + r) * layout.padded_dim,
        scratch.weights + r * Cache::kWeightBytes);
  }
}

template <class Cache, int kRows>
void MixGroup(int64_t rows, const KvLayout& layout, const BlockView& view, int64_t row,
              const std::byte* weights, const MixScale* scales, float* output) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return MixGroup<Cache, kRows - 1>(rows, layout, view, row, weights, scales, output);
    }
  }
  constexpr int kVecs = Vecs<Cache>(kRows, kValueTileDims / 16);
  using Mix = decltype(&MixRows<Cache, kRows, kVecs, Fetch::kNothing>);
  static constexpr Mix kMixes[] = {&MixRows<Cache, kRows, kVecs, Fetch::kNothing>,
                                   &MixRows<Cache, kRows, kVecs, Fetch::kFirstLevel>,
                                   &MixRows<Cache, kRows, kVecs, Fetch::kSecondLevel>};
  const Mix mix = kMixes[row == 0 ? static_cast<int>(view.fetch) : 0];
  const int64_t dim = layout.padded_dim;
  for (int64_t d = 0; d < dim; d += kValueTileDims) {
    const int64_t tile = d < dim - kValueTileDims ? kValueTileDims : dim - d;
    const int64_t at = layout.value_tile_bytes * (d / kValueTileDims);
    mix(view.block + layout.values_at + at, 0, tile, view.cells, weights, scales, view.next + at,
        output + d, dim);
  }
}

// A tile's rows in groups of equal size.
template <class Cache>
int64_t GroupBegin(int64_t group, int64_t rows) {
  const int64_t groups = (rows + kGroupRows<Cache> - 1) / kGroupRows<Cache>;
  return group < groups ? group * rows / groups : rows;
}

template <class Cache>
void AttendBlock(const AttentionTile& tile, const BlockView& view, const AttentionScratch& scratch,
                 const AttentionState& state) {
  const KvLayout& layout = tile.problem->kv.layout;
  const int64_t rows = tile.rows(), dim = layout.padded_dim;
  int64_t row = 0, end = GroupBegin<Cache>(1, rows);
  ScoreGroup<Cache, kGroupRows<Cache>>(end, layout, view, 0, scratch);
  for (int64_t group = 1; row < rows; ++group) {
    MixScale mix[kMaxGroupRows];
    WeighGroup<Cache, kGroupRows<Cache>>(end - row, tile, view, row, scratch, state, mix);
    // The next scores before this mixture: they do not wait for the last of these weights.
    const int64_t next = GroupBegin<Cache>(group + 1, rows);
    if (end < rows) ScoreGroup<Cache, kGroupRows<Cache>>(next - end, layout, view, end, scratch);
    MixGroup<Cache, kGroupRows<Cache>>(end - row, layout, view, row, scratch.weights, mix,
                                       state.output + row * dim);
    row = end;
    end = next;
  }
}

// ---- spans

// `all` and `one` to `all`. Never inlined, so that its arithmetic is the same wherever it is used.
__attribute__((noinline)) static void MergeRow(const AttentionState& all, const AttentionState& one,
                                               int64_t row, int64_t dim) {
  const float top = all.maxima[row] > one.maxima[row] ? all.maxima[row] : one.maxima[row];
  const F keep = Exp2<true>(Constant(all.maxima[row] - top));
  const F add = Exp2<true>(Constant(one.maxima[row] - top));
  float* to = all.output + row * dim;
  const float* from = one.output + row * dim;
  for (int64_t d = 0; d < dim; d += 16)
    StoreF(to + d, Fma(LoadF(from + d), add, Mul(LoadF(to + d), keep)));
  float lanes[2][16];
  StoreF(lanes[0], keep);
  StoreF(lanes[1], add);
  all.maxima[row] = top;
  all.sums[row] = all.sums[row] * lanes[0][0] + one.sums[row] * lanes[1][0];
}

static void WriteRows(const AttentionTile& tile, const AttentionState& state) {
  const KvLayout& layout = tile.problem->kv.layout;
  for (int64_t row = 0; row < tile.rows(); ++row) {
    const float inverse = 1.0f / state.sums[row];
    const float* from = state.output + row * layout.padded_dim;
    float* to = tile.out(row);
    for (int64_t d = 0; d < layout.head_dim; ++d)
      to[d] = from[d] * inverse;
  }
}

void MergeSpans(const AttentionTile& tile, float* states) noexcept {
  const int64_t rows = tile.rows(), dim = tile.problem->kv.layout.padded_dim;
  const AttentionState all(states, rows, dim);
  for (int64_t span = 1; span < tile.spans(); ++span) {
    const AttentionState one(states + span * AttentionState::Floats(rows, dim), rows, dim);
    for (int64_t row = 0; row < rows; ++row)
      MergeRow(all, one, row, dim);
  }
  WriteRows(tile, all);
}

// Where the CPU follows a stream by itself it does so best alone; what is read here and there it is
// to be asked for, and not into its first level, which has room for few misses
// (docs/decisions/040). int8 is not read front to back: its sums take two passes over the keys.
template <class Cache>
Fetch FetchOf(const KvLayout& layout, const std::byte* before, const BlockView& view) {
  if (!HardwarePrefetchSuffices()) return Fetch::kFirstLevel;
  const bool stream =
      view.block == before + layout.block_bytes && view.next == view.block + layout.block_bytes;
  return stream && !kIsI8<Cache> ? Fetch::kNothing : Fetch::kSecondLevel;
}

template <class Cache>
void AttendSpan(const AttentionTile& tile, int64_t span, const AttentionScratch& scratch,
                const AttentionState& state) {
  const KvView& kv = tile.problem->kv;
  const int64_t rows = tile.rows(), dim = kv.layout.padded_dim;
  for (int64_t i = 0; i < rows; ++i)
    state.maxima[i] = -__builtin_inff();
  for (int64_t i = 0; i < rows * 16; i += 16)
    StoreF(scratch.lane_sums + i, ZeroF());
  for (int64_t i = 0; i < rows * dim; i += 16)
    StoreF(state.output + i, ZeroF());
  const int64_t end = tile.count < (span + 1) * kSpanBlocks ? tile.count : (span + 1) * kSpanBlocks;
  for (int64_t i = span * kSpanBlocks; i < end; ++i) {
    const auto block = [&](int64_t at) { return kv.block(tile.kv_head, tile.block(at)); };
    BlockView view;
    view.block = block(i);
    view.next = i + 1 < tile.count ? block(i + 1) : view.block;
    view.fetch = FetchOf<Cache>(kv.layout, block(i > 0 ? i - 1 : i), view);
    view.last = i + 1 == tile.count;
    const int64_t seen = view.last ? tile.last_keys(rows - 1) : kKvBlockTokens;
    view.cells = (seen + kv.layout.cell_values - 1) / kv.layout.cell_values;
    AttendBlock<Cache>(tile, view, scratch, state);
  }
  for (int64_t row = 0; row < rows; ++row)
    state.sums[row] = Sum(LoadF(scratch.lane_sums + row * 16));
}

template <class Cache>
void AttendTile(const AttentionTile& tile, int64_t first, int64_t last, float* memory,
                float* states) {
  const KvLayout& layout = tile.problem->kv.layout;
  const int64_t rows = tile.rows(), dim = layout.padded_dim;
  const AttentionScratch scratch(memory, rows, layout);
  const int64_t row_bytes = layout.key_cells * Cache::kCellBytes;
  for (int64_t group = 0, begin = 0; begin < rows; ++group) {
    const int64_t end = GroupBegin<Cache>(group + 1, rows);
    for (int64_t row = begin; row < end; ++row) {
      PackQuery<Cache>(tile, row, scratch, (end - begin) * Cache::kCellBytes,
                       scratch.queries + begin * row_bytes + (row - begin) * Cache::kCellBytes);
    }
    begin = end;
  }
  for (int64_t span = first; span < last; ++span) {
    if (states != nullptr) {
      AttendSpan<Cache>(
          tile, span, scratch,
          AttentionState(states + span * AttentionState::Floats(rows, dim), rows, dim));
      continue;
    }
    AttendSpan<Cache>(tile, span, scratch, span == first ? scratch.all : scratch.span);
    for (int64_t row = 0; span > first && row < rows; ++row)
      MergeRow(scratch.all, scratch.span, row, dim);
  }
  if (states == nullptr) WriteRows(tile, scratch.all);
}

void AttendF32(const AttentionTile& tile, int64_t first, int64_t last, float* scratch,
               float* states) noexcept {
  AttendTile<F32Cache>(tile, first, last, scratch, states);
}
void AttendBf16(const AttentionTile& tile, int64_t first, int64_t last, float* scratch,
                float* states) noexcept {
  AttendTile<Bf16Cache>(tile, first, last, scratch, states);
}
void AttendI8(const AttentionTile& tile, int64_t first, int64_t last, float* scratch,
              float* states) noexcept {
  AttendTile<I8Cache>(tile, first, last, scratch, states);
}
