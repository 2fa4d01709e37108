// The vector code behind elementwise.h and ApplyRope: one body (nonlinear-inl.h), compiled once
// per instruction-set tier over a handful of primitives, and picked at run time.
#ifndef HARROW_KERNELS_CPU_NONLINEAR_H_
#define HARROW_KERNELS_CPU_NONLINEAR_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace harrow {

// One tier's functions; contracts as in attention.h and elementwise.h.
struct NonlinearKernels {
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                   float* out);
  void (*gated_activation)(GateActivation act, const float* gate, const float* up, int64_t count,
                           float* out);
  void (*add)(float* x, const float* y, int64_t count);
  void (*exp)(const float* x, int64_t count, float* out);
  void (*rope)(float* x, int64_t m, int32_t heads, int32_t head_dim, const float* cosines,
               const float* sines);
};

extern const NonlinearKernels kNonlinearScalar;
#if defined(__x86_64__)
extern const NonlinearKernels kNonlinearAvx2;
extern const NonlinearKernels kNonlinearAvx512;
#endif

// The tier of ActiveIsa().
const NonlinearKernels& ActiveNonlinear();

}  // namespace harrow

#endif  // HARROW_KERNELS_CPU_NONLINEAR_H_
