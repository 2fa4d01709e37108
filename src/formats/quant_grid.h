// Grids of quantized weights: the values that codes stand for, and the one definition of
// round-to-nearest.
//
// A group of inputs of one output row shares a scale and a zero point; weight = (code - zero) *
// scale. All scales are bf16 values, so that products are exact in float32.
//
//   i8  codes -127 .. 127, zero point 0, scale >= 0
//   i4  codes -8 .. 7, zero point 0, scale of either sign: the sign puts -8 on the side of the
//       largest weight, so that all 16 codes are used
//   u4  codes 0 .. 15, an integer zero point 0 .. 15, scale >= 0
#ifndef HARROW_FORMATS_QUANT_GRID_H_
#define HARROW_FORMATS_QUANT_GRID_H_

#include <cstdint>
#include <vector>

namespace harrow {

enum class ValueType : uint8_t;

// The grid of a weight [rows, cols] that a quantizer has chosen.
struct QuantGrid {
  int32_t group = 0;          // inputs that share a scale: the group of the WeightSpec
  std::vector<float> scales;  // [rows, ceil(cols / group)], bf16 values
  std::vector<float> zeros;   // the same shape for u4; empty otherwise
};

// The grid of one group.
struct GroupGrid {
  float scale = 0;  // 0: all weights of the group are 0
  float zero = 0;
};

struct CodeRange {
  int32_t low = 0;
  int32_t high = 0;
};

// Whether values of the type are codes under scales (i8, i4, u4).
bool IsQuantized(ValueType values);
// Of a quantized type.
CodeRange CodeRangeOf(ValueType values);

// Round to nearest of a group whose weights lie in [min, max]. 0 is taken to be in the range.
// Finite.
//   i8  scale = largest magnitude / 127, rounded up
//   i4  scale = the end of larger magnitude / -8, to nearest (the positive one where they tie)
//   u4  scale = (max - min) / 15 to nearest, zero = -min / scale to nearest
GroupGrid GridOfRange(ValueType values, float min, float max);
// The same for `count` finite weights.
GroupGrid RtnGroupGrid(ValueType values, const float* w, int64_t count);

// The nearest code in range; ties go to even multiples of the scale.
int32_t NearestCode(ValueType values, const GroupGrid& grid, float w);
inline float ValueOfCode(const GroupGrid& grid, int32_t code) {
  // Adding zero turns -0.0 into 0.0.
  return (static_cast<float>(code) - grid.zero) * grid.scale + 0.0f;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_QUANT_GRID_H_
