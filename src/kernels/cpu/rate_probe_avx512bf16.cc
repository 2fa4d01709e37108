// The avx512bf16 tier of the rate probes: rate_probe-inl.h over simd/avx512-inl.h.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "formats/panel.h"
#include "kernels/cpu/rate_probe.h"
#include "kernels/cpu/target_region.h"

#define HARROW_INLINE inline __attribute__((always_inline))
#define HARROW_NATIVE_BF16 1

// clang-format off: a pragma takes one string
HARROW_TARGET_BEGIN(
    "avx2,fma,f16c,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,"
    "avx512vnni,avx512bf16")
// clang-format on

namespace harrow::avx512bf16 {
#include "kernels/cpu/simd/avx512-inl.h"
//
#include "kernels/cpu/rate_probe-inl.h"
}  // namespace harrow::avx512bf16

HARROW_TARGET_END

#endif  // __x86_64__
