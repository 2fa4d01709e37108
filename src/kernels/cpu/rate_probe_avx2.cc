// The avx2 tier of the rate probes: rate_probe-inl.h over simd/avx2-inl.h.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "formats/panel.h"
#include "kernels/cpu/rate_probe.h"
#include "kernels/cpu/simd/expand_tables.h"
#include "kernels/cpu/target_region.h"

#define HARROW_INLINE inline __attribute__((always_inline))
#define HARROW_NATIVE_BF16 0

HARROW_TARGET_BEGIN("avx2,fma,f16c,bmi,bmi2,popcnt")

namespace harrow::avx2 {
#include "kernels/cpu/simd/avx2-inl.h"
//
#include "kernels/cpu/rate_probe-inl.h"
}  // namespace harrow::avx2

HARROW_TARGET_END

#endif  // __x86_64__
