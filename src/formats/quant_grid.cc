#include "formats/quant_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"
#include "formats/linear_weight.h"

namespace harrow {
namespace {

// The smallest bf16 that is not below `value` (finite, >= 0).
float Bf16RoundedUp(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return Bf16ToF32(static_cast<uint16_t>((bits >> 16) + ((bits & 0xffffu) != 0 ? 1 : 0)));
}

float NearestBf16(double value) {
  return Bf16ToF32(F32ToBf16(static_cast<float>(value)));
}

}  // namespace

bool IsQuantized(ValueType values) {
  return values == ValueType::kI8 || values == ValueType::kI4 || values == ValueType::kU4;
}

CodeRange CodeRangeOf(ValueType values) {
  switch (values) {
    case ValueType::kI8: return {-127, 127};
    case ValueType::kI4: return {-8, 7};
    case ValueType::kU4: return {0, 15};
    default: break;
  }
  HARROW_CHECK(false);
  return {};
}

GroupGrid GridOfRange(ValueType values, float min, float max) {
  min = std::min(min, 0.0f);
  max = std::max(max, 0.0f);
  GroupGrid grid;
  switch (values) {
    case ValueType::kI8: grid.scale = Bf16RoundedUp(std::max(-min, max) / 127.0f); break;
    case ValueType::kI4:
      grid.scale = NearestBf16(static_cast<double>(max >= -min ? max : min) / -8);
      break;
    case ValueType::kU4:
      grid.scale = NearestBf16((static_cast<double>(max) - static_cast<double>(min)) / 15);
      if (grid.scale > 0) grid.zero = std::min(std::nearbyint(-min / grid.scale), 15.0f);
      break;
    default: HARROW_CHECK(false);
  }
  // No -0.0.
  grid.scale += 0.0f;
  return grid;
}

GroupGrid RtnGroupGrid(ValueType values, const float* w, int64_t count) {
  float min = 0;
  float max = 0;
  for (int64_t i = 0; i < count; ++i) {
    min = std::min(min, w[i]);
    max = std::max(max, w[i]);
  }
  return GridOfRange(values, min, max);
}

int32_t NearestCode(ValueType values, const GroupGrid& grid, float w) {
  const CodeRange range = CodeRangeOf(values);
  if (grid.scale == 0) return static_cast<int32_t>(grid.zero);
  const float code = std::nearbyint(w / grid.scale) + grid.zero;
  return static_cast<int32_t>(
      std::clamp(code, static_cast<float>(range.low), static_cast<float>(range.high)));
}

}  // namespace harrow
