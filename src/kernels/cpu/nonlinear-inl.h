// The body of every tier. No include guard: each tier's .cc defines the primitives in its anonymous
// namespace, inside its target region, and then includes this file once. Primitives:
//   V, kLanes, kTileVecs (vectors a row of a 4-row register tile);
//   Set, Load, Store, LoadPart, StorePart (first n lanes, the others read as 0), Add, Sub, Mul,
//   Div, Fma(a, b, c) = a * b + c, Min, Max (the second operand when either is NaN), RoundEven,
//   TimesPow2(x, n) = x * 2^n for integral n, KeepFrom(x, bound, value) = x < bound ? 0 : value,
//   ReduceAdd, ReduceMax, Transpose(V rows[kLanes]).

namespace harrow {
namespace {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; exp(r) by its series to the 7th
// power, whose truncation is 0.3466^8 / 8! = 5e-9 relative. ln 2 is split so that n * kLn2High is
// exact.
inline V ExpVec(V x) {
  constexpr float kLowest = -87.3f, kHighest = 88.3f;
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const V clamped = Max(Set(kLowest), Min(Set(kHighest), x));
  const V n = RoundEven(Mul(clamped, Set(kLog2E)));
  V r = Fma(n, Set(-kLn2High), clamped);
  r = Fma(n, Set(-kLn2Low), r);
  V p = Set(1.0f / 5040);
  p = Fma(p, r, Set(1.0f / 720));
  p = Fma(p, r, Set(1.0f / 120));
  p = Fma(p, r, Set(1.0f / 24));
  p = Fma(p, r, Set(1.0f / 6));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p, Mul(r, r), r);
  return KeepFrom(x, kLowest, TimesPow2(Add(p, Set(1.0f)), n));
}

void ExpArray(const float* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    Store(out + i, ExpVec(Load(x + i)));
  if (i < count) StorePart(out + i, ExpVec(LoadPart(x + i, count - i)), count - i);
}

void RmsNormRows(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                 float* out) {
  for (int64_t row = 0; row < rows; ++row, x += dim, out += dim) {
    V sum[4] = {Set(0), Set(0), Set(0), Set(0)};
    int64_t i = 0;
    for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
      for (int u = 0; u < 4; ++u) {
        const V a = Load(x + i + u * kLanes);
        sum[u] = Fma(a, a, sum[u]);
      }
    }
    for (; i < dim; i += kLanes) {
      const V a = LoadPart(x + i, dim - i);
      sum[0] = Fma(a, a, sum[0]);
    }
    const float squares = ReduceAdd(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
    const V scale = Set(1.0f / std::sqrt(squares / static_cast<float>(dim) + eps));
    for (i = 0; i + kLanes <= dim; i += kLanes)
      Store(out + i, Mul(Mul(Load(x + i), scale), Load(weight + i)));
    if (i < dim) {
      const int64_t n = dim - i;
      StorePart(out + i, Mul(Mul(LoadPart(x + i, n), scale), LoadPart(weight + i, n)), n);
    }
  }
}

// x * sigmoid(t); where exp(-t) saturates (at 2e38) the result is x / 2e38 instead of 0.
inline V TimesSigmoid(V x, V t) {
  return Div(x, Add(Set(1.0f), ExpVec(Sub(Set(0.0f), t))));
}

template <GateActivation kAct>
inline V Activate(V x) {
  if constexpr (kAct == GateActivation::kRelu) {
    return Max(Set(0.0f), x);
  } else if constexpr (kAct == GateActivation::kSilu) {
    return TimesSigmoid(x, x);
  } else {
    // 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
    constexpr float kTwiceRoot = 1.59576912f;
    const V inner = Fma(Mul(Mul(x, x), Set(0.044715f)), x, x);
    return TimesSigmoid(x, Mul(Set(kTwiceRoot), inner));
  }
}

template <GateActivation kAct>
void GateRow(const float* gate, const float* up, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    Store(out + i, Mul(Activate<kAct>(Load(gate + i)), Load(up + i)));
  if (i < count) {
    const int64_t n = count - i;
    StorePart(out + i, Mul(Activate<kAct>(LoadPart(gate + i, n)), LoadPart(up + i, n)), n);
  }
}

void GateArray(GateActivation act, const float* gate, const float* up, int64_t count, float* out) {
  switch (act) {
    case GateActivation::kSilu: return GateRow<GateActivation::kSilu>(gate, up, count, out);
    case GateActivation::kRelu: return GateRow<GateActivation::kRelu>(gate, up, count, out);
    case GateActivation::kGeluTanh: return GateRow<GateActivation::kGeluTanh>(gate, up, count, out);
  }
}

void AddArray(float* x, const float* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    Store(x + i, Add(Load(x + i), Load(y + i)));
  if (i < count)
    StorePart(x + i, Add(LoadPart(x + i, count - i), LoadPart(y + i, count - i)), count - i);
}

void RopeRows(float* x, int64_t m, int32_t heads, int32_t head_dim, const float* cosines,
              const float* sines) {
  const int64_t half = head_dim / 2;
  for (int64_t token = 0; token < m; ++token, cosines += half, sines += half) {
    for (int32_t head = 0; head < heads; ++head, x += head_dim) {
      for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t n = half - i < kLanes ? half - i : kLanes;
        const V a = LoadPart(x + i, n), b = LoadPart(x + half + i, n);
        const V c = LoadPart(cosines + i, n), s = LoadPart(sines + i, n);
        StorePart(x + i, Sub(Mul(a, c), Mul(b, s)), n);
        StorePart(x + half + i, Fma(a, s, Mul(b, c)), n);
      }
    }
  }
}

// keys [count, head_dim] -> transposed [head_dim, kKeyBlock]; columns past `count` become 0.
// Costs about a shuffle an element and spares a horizontal sum for every score. Asks for this block
// of `values` and for the next block of keys on the way: in decode every block comes from memory,
// and the tiles jump too much for the hardware to see a stream.
void TransposeKeys(const float* keys, const float* values, int64_t count, int64_t head_dim,
                   float* transposed) {
  for (int64_t key = 0; key < kKeyBlock; key += kLanes) {
    if (key >= count && key % (kTileVecs * kLanes) == 0) return;  // no tile reads further
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      V tile[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        __builtin_prefetch(values + (key + i) * head_dim + d, 0, 2);
        __builtin_prefetch(keys + (kKeyBlock + key + i) * head_dim + d, 0, 2);
        tile[i] =
            key + i < count ? LoadPart(keys + (key + i) * head_dim + d, head_dim - d) : Set(0);
      }
      Transpose(tile);
      for (int64_t i = 0; i < kLanes; ++i)
        Store(transposed + (d + i) * kKeyBlock + key, tile[i]);
    }
  }
}

// scores [kRows, kKeyBlock] = q [kRows, dim] * transposed keys, in columns [0, count) rounded up to
// whole register tiles.
template <int kRows>
void ScoreRows(const float* q, int64_t q_stride, const float* keys, int64_t head_dim, int64_t count,
               float* scores) {
  for (int64_t key = 0; key < count; key += kTileVecs * kLanes) {
    V sum[kRows][kTileVecs];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kTileVecs; ++c)
        sum[r][c] = Set(0);
    for (int64_t d = 0; d < head_dim; ++d) {
      V k[kTileVecs];
      for (int c = 0; c < kTileVecs; ++c)
        k[c] = Load(keys + d * kKeyBlock + key + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const V a = Set(q[r * q_stride + d]);
        for (int c = 0; c < kTileVecs; ++c)
          sum[r][c] = Fma(a, k[c], sum[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kTileVecs; ++c)
        Store(scores + r * kKeyBlock + key + c * kLanes, sum[r][c]);
  }
}

// output [kRows, kVecs vectors] += weights [kRows, count] * values [count, kVecs vectors], of which
// the last holds `last` lanes.
template <int kRows, int kVecs>
void MixTile(const float* weights, const float* values, int64_t value_stride, int64_t count,
             int64_t last, float* output, int64_t output_stride) {
  V sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVecs; ++c)
      sum[r][c] = Load(output + r * output_stride + c * kLanes);
  for (int64_t key = 0; key < count; ++key) {
    V v[kVecs];
    for (int c = 0; c + 1 < kVecs; ++c)
      v[c] = Load(values + key * value_stride + c * kLanes);
    v[kVecs - 1] = LoadPart(values + key * value_stride + (kVecs - 1) * kLanes, last);
    for (int r = 0; r < kRows; ++r) {
      const V a = Set(weights[r * kKeyBlock + key]);
      for (int c = 0; c < kVecs; ++c)
        sum[r][c] = Fma(a, v[c], sum[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVecs; ++c)
      Store(output + r * output_stride + c * kLanes, sum[r][c]);
}

template <int kRows>
void MixRows(const float* weights, const float* values, int64_t count, int64_t head_dim,
             float* output, int64_t output_stride) {
  int64_t d = 0;
  for (; d + kTileVecs * kLanes <= head_dim; d += kTileVecs * kLanes) {
    MixTile<kRows, kTileVecs>(weights, values + d, head_dim, count, kLanes, output + d,
                              output_stride);
  }
  for (; d < head_dim; d += kLanes) {
    const int64_t last = head_dim - d < kLanes ? head_dim - d : kLanes;
    MixTile<kRows, 1>(weights, values + d, head_dim, count, last, output + d, output_stride);
  }
}

// Turns one row of scores into weights exp(score - maximum), exactly 0 past `visible`, and rescales
// what the row has gathered so far.
void SoftmaxRow(float* scores, int64_t visible, int64_t count, int64_t dim, float* maximum,
                float* sum, float* output) {
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = visible; i < padded; ++i)
    scores[i] = -std::numeric_limits<float>::infinity();
  V highest = Load(scores);
  for (int64_t i = kLanes; i < padded; i += kLanes)
    highest = Max(highest, Load(scores + i));
  const float before = *maximum;
  const float now = ReduceMax(highest);
  *maximum = now > before ? now : before;
  V total = Set(0);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const V weight = ExpVec(Sub(Load(scores + i), Set(*maximum)));
    Store(scores + i, weight);
    total = Add(total, weight);
  }
  if (*maximum == before) {
    *sum += ReduceAdd(total);
    return;
  }
  const float keep = std::exp(before - *maximum);  // 0 for the first block
  *sum = *sum * keep + ReduceAdd(total);
  for (int64_t d = 0; d < dim; d += kLanes)
    Store(output + d, Mul(Load(output + d), Set(keep)));
}

void AttentionTile(const AttentionProblem& p, int32_t kv_head, int64_t begin, int64_t end,
                   const AttentionScratch& scratch) {
  const int64_t head_dim = p.head_dim;
  const int64_t dim = PadToLanes(head_dim);
  const int64_t group = p.heads / p.kv_heads;
  const int64_t rows = (end - begin) * group;
  const int64_t token_stride = p.heads * head_dim;
  const float* k = p.k + kv_head * p.capacity * head_dim;
  const float* v = p.v + kv_head * p.capacity * head_dim;

  for (int64_t row = 0; row < rows; ++row) {
    const float* q =
        p.q + (begin + row / group) * token_stride + (kv_head * group + row % group) * head_dim;
    for (int64_t d = 0; d < head_dim; ++d)
      scratch.queries[row * dim + d] = q[d] * p.scale;
    for (int64_t d = 0; d < dim; ++d)
      scratch.output[row * dim + d] = 0;
    scratch.maxima[row] = -std::numeric_limits<float>::infinity();
    scratch.sums[row] = 0;
  }
  const int64_t keys = p.start + end;
  for (int64_t first = 0; first < keys; first += kKeyBlock) {
    const int64_t count = keys - first < kKeyBlock ? keys - first : kKeyBlock;
    TransposeKeys(k + first * head_dim, v + first * head_dim, count, head_dim, scratch.keys);
    // Rows of the first tokens may end before this block.
    const int64_t blind = first - p.start - begin > 0 ? first - p.start - begin : 0;
    int64_t row = blind * group;
    for (; row + 4 <= rows; row += 4) {
      ScoreRows<4>(scratch.queries + row * dim, dim, scratch.keys, head_dim, count,
                   scratch.scores + row * kKeyBlock);
    }
    for (; row < rows; ++row) {
      ScoreRows<1>(scratch.queries + row * dim, dim, scratch.keys, head_dim, count,
                   scratch.scores + row * kKeyBlock);
    }
    for (row = blind * group; row < rows; ++row) {
      const int64_t seen = p.start + begin + row / group + 1 - first;
      SoftmaxRow(scratch.scores + row * kKeyBlock, seen < count ? seen : count, count, dim,
                 scratch.maxima + row, scratch.sums + row, scratch.output + row * dim);
    }
    for (row = blind * group; row + 4 <= rows; row += 4) {
      MixRows<4>(scratch.scores + row * kKeyBlock, v + first * head_dim, count, head_dim,
                 scratch.output + row * dim, dim);
    }
    for (; row < rows; ++row) {
      MixRows<1>(scratch.scores + row * kKeyBlock, v + first * head_dim, count, head_dim,
                 scratch.output + row * dim, dim);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    float* out =
        p.out + (begin + row / group) * token_stride + (kv_head * group + row % group) * head_dim;
    const float inverse = 1.0f / scratch.sums[row];
    for (int64_t d = 0; d < head_dim; ++d)
      out[d] = scratch.output[row * dim + d] * inverse;
  }
}

constexpr NonlinearKernels kThisTier = {RmsNormRows, GateArray, AddArray,
                                        ExpArray,    RopeRows,  AttentionTile};

}  // namespace
}  // namespace harrow
