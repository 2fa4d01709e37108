// Eight lanes: AVX2 and FMA.
#include "kernels/cpu/nonlinear.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>

#include "kernels/cpu/target_region.h"

HARROW_TARGET_BEGIN("avx2,fma")
namespace harrow {
namespace {

using V = __m256;
constexpr int64_t kLanes = 8;

inline V Set(float x) {
  return _mm256_set1_ps(x);
}
inline V Load(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void Store(float* p, V v) {
  _mm256_storeu_ps(p, v);
}
inline __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < kLanes ? n : kLanes)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V LoadPart(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, FirstLanes(n));
}
inline void StorePart(float* p, V v, int64_t n) {
  _mm256_maskstore_ps(p, FirstLanes(n), v);
}
inline V Add(V a, V b) {
  return _mm256_add_ps(a, b);
}
inline V Sub(V a, V b) {
  return _mm256_sub_ps(a, b);
}
inline V Mul(V a, V b) {
  return _mm256_mul_ps(a, b);
}
inline V Div(V a, V b) {
  return _mm256_div_ps(a, b);
}
inline V Fma(V a, V b, V c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline V Min(V a, V b) {
  return _mm256_min_ps(a, b);
}
inline V Max(V a, V b) {
  return _mm256_max_ps(a, b);
}
inline V RoundEven(V x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V TimesPow2(V x, V n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline V KeepFrom(V x, float bound, V value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_NLT_UQ), value);
}
inline float ReduceAdd(V v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

}  // namespace
}  // namespace harrow

#include "kernels/cpu/nonlinear-inl.h"
HARROW_TARGET_END

namespace harrow {
const NonlinearKernels kNonlinearAvx2 = kThisTier;
}  // namespace harrow
#endif  // defined(__x86_64__)
