// y[M,N] = x[M,K] * W[N,K]^T for every weight format: the entry point, the kernel list, and what a
// kernel is.
#ifndef HARROW_KERNELS_LINEAR_H_
#define HARROW_KERNELS_LINEAR_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "formats/linear_weight.h"
#include "kernels/isa.h"

namespace harrow {

// One product over the shared x of a call.
struct LinearOp {
  const LinearWeight* weight = nullptr;
  float* y = nullptr;  // [M, N], row stride `y_stride` elements; overwritten
  int64_t y_stride = 0;
};

// Reusable scratch for Linear(); one per thread of control. Grows to the largest call and stays.
class LinearScratch;

struct LinearContext {
  ThreadPool* pool = nullptr;
  LinearScratch* scratch = nullptr;
};

// Computes all `ops`, which share x [M, K] float32 (row stride `x_stride` elements) and K, in one
// fork-join: q, k and v of a layer, or gate and up, cost one hand-off and one packing of x. Threads
// share the work by bytes of weight. Where a format's kernels want BF16 or INT8 activations they
// round x themselves: BF16 to nearest even; INT8 symmetric per token and group of the weight's
// group size (at most 128 inputs). Each output is computed by one thread in an order that does not
// depend on the number of threads. A weight with a low-rank product costs two more products: x A^T
// [M, rank] beside the others, then that times B^T, rounded as an x by B's kernel.
void Linear(const LinearContext& context, std::span<const LinearOp> ops, const float* x,
            int64_t x_stride, int64_t m, int64_t k);

// Name of the kernel that Linear() would run for this weight and M on this machine, under
// HARROW_ISA and HARROW_KERNEL: "linear.bitmask_i8.avx512". For reports and `harrow doctor
// --kernels`. Of the residual or one factor, not of a weight that has factors.
std::string_view LinearKernelName(const LinearWeight& weight, int64_t m);

// Every listed kernel, fastest first, for listings and for tests that force each in turn.
struct LinearKernelInfo {
  std::string_view name;
  Isa isa;
  bool runs_here;
};
std::vector<LinearKernelInfo> ListLinearKernels();

// Forces kernels whose name starts with `prefix` (empty: automatic choice). Fails when no listed
// kernel that runs here has it. The environment variable HARROW_KERNEL does the same at start-up. A
// forced prefix applies to the weights that some such kernel supports; all others choose as usual.
// Not thread safe.
Status ForceLinearKernel(std::string_view prefix);
// The prefix in force, from either source; empty: automatic choice.
std::string_view ForcedLinearKernel();

LinearScratch* NewLinearScratch();
void DeleteLinearScratch(LinearScratch* scratch);
struct LinearScratchDeleter {
  void operator()(LinearScratch* scratch) const { DeleteLinearScratch(scratch); }
};

}  // namespace harrow

#endif  // HARROW_KERNELS_LINEAR_H_
