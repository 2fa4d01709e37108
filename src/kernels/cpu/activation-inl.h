// Rounding of activations for one instruction-set tier; the scalar versions in activation.cc say
// what must come out, bit by bit. Included like linear-inl.h, before it.

// The first `count` (1 .. 16) floats at p, then zeros.
HARROW_INLINE F LoadPart(const float* p, int64_t count) {
  float all[16] = {};
  __builtin_memcpy(all, p, static_cast<size_t>(count) * sizeof(float));
  return LoadF(all);
}

void RoundToBf16Row(const float* x, int64_t count, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    StoreHigh16(out + i, RoundToBf16(LoadF(x + i)));
  if (i < count) {
    uint16_t last[16];
    StoreHigh16(last, RoundToBf16(LoadPart(x + i, count - i)));
    __builtin_memcpy(out + i, last, static_cast<size_t>(count - i) * sizeof(uint16_t));
  }
}

void RoundToBf16RowF32(const float* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    StoreI(out + i, RoundToBf16(LoadF(x + i)));
  if (i < count) {
    float last[16];
    StoreI(last, RoundToBf16(LoadPart(x + i, count - i)));
    __builtin_memcpy(out + i, last, static_cast<size_t>(count - i) * sizeof(float));
  }
}

float QuantizeRow(const float* x, int64_t count, int8_t* q, int32_t* sum) {
  I largest = ZeroI();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    largest = MaxMagnitude(largest, LoadF(x + i));
  if (i < count) largest = MaxMagnitude(largest, LoadPart(x + i, count - i));
  const QuantizeScale scale = QuantizeScaleOf(MaxLane(largest));
  const F inverse = BroadcastF(&scale.inverse);
  I total = ZeroI();
  if (scale.inverse == 0) {
    __builtin_memset(q, 0, static_cast<size_t>(count));
    *sum = 0;
    return scale.scale;
  }
  for (i = 0; i + 16 <= count; i += 16) {
    const I rounded = RoundToInt(Mul(LoadF(x + i), inverse));
    total = AddI(total, rounded);
    StoreLow8(q + i, rounded);
  }
  if (i < count) {
    const I rounded = RoundToInt(Mul(LoadPart(x + i, count - i), inverse));
    total = AddI(total, rounded);
    int8_t last[16];
    StoreLow8(last, rounded);
    __builtin_memcpy(q + i, last, static_cast<size_t>(count - i));
  }
  *sum = SumLanes(total);
  return scale.scale;
}

const RoundingOps& Rounding() {
  static constexpr RoundingOps kOps = {RoundToBf16Row, RoundToBf16RowF32, QuantizeRow};
  return kOps;
}
