// Scalar conversions between float32 and the two 16-bit formats. Rounding is to nearest, ties to
// even.
#ifndef HARROW_BASE_FLOAT16_H_
#define HARROW_BASE_FLOAT16_H_

#include <bit>
#include <cstdint>

namespace harrow {

inline float Bf16ToF32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

inline uint16_t F32ToBf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>((u >> 16) | 0x40u);  // quiet NaN
  u += 0x7fffu + ((u >> 16) & 1u);
  return static_cast<uint16_t>(u >> 16);
}

// IEEE binary16, subnormals included.
float F16ToF32(uint16_t h);
uint16_t F32ToF16(float f);

}  // namespace harrow

#endif  // HARROW_BASE_FLOAT16_H_
