// Sixteen lanes: AVX-512 F and DQ.
#include "kernels/cpu/nonlinear.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>

#include "kernels/cpu/target_region.h"

HARROW_TARGET_BEGIN("avx2,fma,bmi2,avx512f,avx512dq,avx512vl,avx512bw")
namespace harrow {
namespace {

using V = __m512;
constexpr int64_t kLanes = 16;

inline V Set(float x) {
  return _mm512_set1_ps(x);
}
inline V Load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void Store(float* p, V v) {
  _mm512_storeu_ps(p, v);
}
inline __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>(n < kLanes ? (1u << n) - 1u : 0xffffu);
}
inline V LoadPart(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
}
inline void StorePart(float* p, V v, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
inline V Add(V a, V b) {
  return _mm512_add_ps(a, b);
}
inline V Sub(V a, V b) {
  return _mm512_sub_ps(a, b);
}
inline V Mul(V a, V b) {
  return _mm512_mul_ps(a, b);
}
inline V Div(V a, V b) {
  return _mm512_div_ps(a, b);
}
inline V Fma(V a, V b, V c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline V Min(V a, V b) {
  return _mm512_min_ps(a, b);
}
inline V Max(V a, V b) {
  return _mm512_max_ps(a, b);
}
inline V RoundEven(V x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V TimesPow2(V x, V n) {
  return _mm512_scalef_ps(x, n);
}
inline V KeepFrom(V x, float bound, V value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_NLT_UQ), value);
}
inline float ReduceAdd(V v) {
  return _mm512_reduce_add_ps(v);
}

}  // namespace
}  // namespace harrow

#include "kernels/cpu/nonlinear-inl.h"
HARROW_TARGET_END

namespace harrow {
const NonlinearKernels kNonlinearAvx512 = kThisTier;
}  // namespace harrow
#endif  // defined(__x86_64__)
