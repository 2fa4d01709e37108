// The avx2 tier of the linear kernels: linear-inl.h over simd/avx2-inl.h.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "formats/panel.h"
#include "kernels/cpu/linear_cpu.h"
#include "kernels/cpu/simd/expand_tables.h"

#define HARROW_INLINE inline __attribute__((always_inline))
#define HARROW_NATIVE_BF16 0

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,popcnt")
#endif

namespace harrow::avx2 {
#include "kernels/cpu/simd/avx2-inl.h"
//
#include "kernels/cpu/linear-inl.h"
}  // namespace harrow::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
