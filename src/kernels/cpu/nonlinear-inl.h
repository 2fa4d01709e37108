// The body of every tier. No include guard: each tier's .cc defines the primitives in its anonymous
// namespace, inside its target region, and then includes this file once. Primitives:
//   V, kLanes;
//   Set, Load, Store, LoadPart, StorePart (first n lanes, the others read as 0), Add, Sub, Mul,
//   Div, Fma(a, b, c) = a * b + c, Min, Max (the second operand when either is NaN), RoundEven,
//   TimesPow2(x, n) = x * 2^n for integral n, KeepFrom(x, bound, value) = x < bound ? 0 : value,
//   ReduceAdd.

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

constexpr NonlinearKernels kThisTier = {RmsNormRows, GateArray, AddArray, ExpArray, RopeRows};

}  // namespace
}  // namespace harrow
