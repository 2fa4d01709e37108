// The vector code behind attention.h and elementwise.h: one body (nonlinear-inl.h), compiled once
// per instruction-set tier over a handful of primitives, and picked at run time.
#ifndef HARROW_KERNELS_CPU_NONLINEAR_H_
#define HARROW_KERNELS_CPU_NONLINEAR_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace harrow {

// Keys that the online softmax takes at once. Blocks start at multiples of it in every tier.
inline constexpr int64_t kKeyBlock = 64;
// Most (token, head) rows that share one pass over a KV head.
inline constexpr int64_t kMaxQueryRows = 64;
// Vector width that scratch is padded to, in floats: that of the widest tier.
inline constexpr int64_t kMaxLanes = 16;

inline constexpr int64_t PadToLanes(int64_t n) {
  return (n + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
}

// Scratch of one attention tile, carved from one allocation; `dim` is PadToLanes(head_dim).
struct AttentionScratch {
  float* queries;  // [rows, dim], scaled
  float* keys;     // [dim, kKeyBlock], a transposed block
  float* scores;   // [rows, kKeyBlock]
  float* output;   // [rows, dim], not yet divided by `sums`
  float* maxima;   // [rows]
  float* sums;     // [rows]
  static int64_t Floats(int64_t rows, int64_t dim) {
    return rows * dim * 2 + dim * kKeyBlock + rows * kKeyBlock + 2 * PadToLanes(rows);
  }
  AttentionScratch(float* memory, int64_t rows, int64_t dim)
      : queries(memory),
        keys(queries + rows * dim),
        scores(keys + dim * kKeyBlock),
        output(scores + rows * kKeyBlock),
        maxima(output + rows * dim),
        sums(maxima + PadToLanes(rows)) {}
};

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
  // Tokens [begin, end) of all query heads of `kv_head`. (end - begin) * heads / kv_heads rows, of
  // any number, must fit `scratch`.
  void (*attention_tile)(const AttentionProblem& problem, int32_t kv_head, int64_t begin,
                         int64_t end, const AttentionScratch& scratch);
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
