// The entries of each x86 tier, for linear_list.cc. Each tier has the same ones.
#ifndef HARROW_KERNELS_CPU_LINEAR_CPU_H_
#define HARROW_KERNELS_CPU_LINEAR_CPU_H_

#include "kernels/linear_kernel.h"

#define HARROW_DECLARE_TIER(tier)                               \
  namespace harrow::tier {                                      \
  XFormat LinearDenseX(const WeightSpec& spec, int64_t m);      \
  XFormat LinearBf16X(const WeightSpec& spec, int64_t m);       \
  XFormat LinearBlockBf16X(const WeightSpec& spec, int64_t m);  \
  XFormat LinearI8X(const WeightSpec& spec, int64_t m);         \
  XFormat LinearPanelI8X(const WeightSpec& spec, int64_t m);    \
  void LinearDenseF32(const LinearTask& task) noexcept;         \
  void LinearDenseF16(const LinearTask& task) noexcept;         \
  void LinearDenseBf16(const LinearTask& task) noexcept;        \
  void LinearDensePanelI8(const LinearTask& task) noexcept;     \
  void LinearBitmaskBf16(const LinearTask& task) noexcept;      \
  void LinearBitmaskI8(const LinearTask& task) noexcept;        \
  void LinearNmBf16(const LinearTask& task) noexcept;           \
  void LinearNmI8(const LinearTask& task) noexcept;             \
  void LinearBlockBf16(const LinearTask& task) noexcept;        \
  void LinearBlockI8(const LinearTask& task) noexcept;          \
  void LinearDensePanelI4(const LinearTask& task) noexcept;     \
  void LinearDensePanelU4(const LinearTask& task) noexcept;     \
  void LinearBitmaskI4(const LinearTask& task) noexcept;        \
  void LinearBitmaskU4(const LinearTask& task) noexcept;        \
  void LinearNmI4(const LinearTask& task) noexcept;             \
  void LinearNmU4(const LinearTask& task) noexcept;             \
  XFormat LinearSkipBf16X(const WeightSpec& spec, int64_t m);   \
  XFormat LinearSkipI8X(const WeightSpec& spec, int64_t m);     \
  int64_t SkipScratchBytes(int64_t m, int64_t k);               \
  void LinearSkipBitmaskBf16(const LinearTask& task) noexcept;  \
  void LinearSkipBitmaskI8(const LinearTask& task) noexcept;    \
  XFormat LinearIndexX(const WeightSpec& spec, int64_t m);      \
  void LinearIndexI8(const LinearTask& task) noexcept;          \
  XFormat LinearWeightOnlyX(const WeightSpec& spec, int64_t m); \
  void LinearWeightOnly(const LinearTask& task) noexcept;       \
  }

#if defined(__x86_64__)
HARROW_DECLARE_TIER(avx2)
HARROW_DECLARE_TIER(avx512)
HARROW_DECLARE_TIER(avx512bf16)
#endif

#undef HARROW_DECLARE_TIER

#endif  // HARROW_KERNELS_CPU_LINEAR_CPU_H_
