// One lane: what every other tier is compared with, and what runs where no other tier does.
#include <bit>
#include <cmath>

#include "kernels/cpu/nonlinear.h"

namespace harrow {
namespace {

using V = float;
constexpr int64_t kLanes = 1;

inline V Set(float x) {
  return x;
}
inline V Load(const float* p) {
  return *p;
}
inline void Store(float* p, V v) {
  *p = v;
}
inline V LoadPart(const float* p, int64_t) {
  return *p;
}
inline void StorePart(float* p, V v, int64_t) {
  *p = v;
}
inline V Add(V a, V b) {
  return a + b;
}
inline V Sub(V a, V b) {
  return a - b;
}
inline V Mul(V a, V b) {
  return a * b;
}
inline V Div(V a, V b) {
  return a / b;
}
inline V Fma(V a, V b, V c) {
  return a * b + c;
}
inline V Min(V a, V b) {
  return a < b ? a : b;
}
inline V Max(V a, V b) {
  return a > b ? a : b;
}
// Adding 1.5 * 2^23 pushes the fraction out of a float's 24 bits; |x| < 2^22 here.
inline V RoundEven(V x) {
  const float shifted = x + 12582912.0f;
  return shifted - 12582912.0f;
}
inline V TimesPow2(V x, V n) {
  if (!(n == n)) return x;  // NaN has no integer
  return x * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}
inline V KeepFrom(V x, float bound, V value) {
  return x < bound ? 0.0f : value;
}
inline float ReduceAdd(V v) {
  return v;
}

}  // namespace
}  // namespace harrow

#include "kernels/cpu/nonlinear-inl.h"

namespace harrow {
const NonlinearKernels kNonlinearScalar = kThisTier;
}  // namespace harrow
