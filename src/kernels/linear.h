// y[M,N] = x[M,K] * W[N,K]^T for every weight format: the entry point, the kernel list, and what a
// kernel is.
#ifndef HARROW_KERNELS_LINEAR_H_
#define HARROW_KERNELS_LINEAR_H_

#include <cstdint>
#include <limits>
#include <optional>
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
// group size (at most 128 inputs), for quantized weights unless SetQuantizedActivations() says
// otherwise. Each output is computed by one thread in an order that does not
// depend on the number of threads. A weight with a low-rank product costs two more products: x A^T
// [M, rank] beside the others, then that times B^T, rounded as an x by B's kernel.
void Linear(const LinearContext& context, std::span<const LinearOp> ops, const float* x,
            int64_t x_stride, int64_t m, int64_t k);

// ---- Activations of quantized weights
//
// kInt8 is fast; kBf16 keeps x as it is for BF16 weights, for models that INT8 does not suit and to
// tell its effect from that of the weights (decision 007).
enum class Activations : uint8_t { kInt8, kBf16 };
std::string_view ActivationsName(Activations activations);  // "int8" "bf16"
std::optional<Activations> ParseActivations(std::string_view name);
// For the whole process; kInt8, or HARROW_ACTIVATIONS, at start-up. Not thread safe against
// Linear().
void SetQuantizedActivations(Activations activations);
Activations QuantizedActivations();

// ---- Which kernel runs
//
// Several listed kernels may take the same weight. Linear() chooses one per weight and call, in
// this order, among those whose activations are as QuantizedActivations() says: a forced kernel;
// the first installed KernelChoice that applies; the kernel's own rule of densities and M, sound on
// most machines; and of what is left the first listed. The number of threads has no part in it, so
// results do not depend on it. Two kernels of one format agree to the rounding of float32 sums, not
// to the bit: where the choice changes (with M, a new table, another tier) so may the last bits.

// The fraction of weights that are stored, told from the number of bytes (no scan): 1 for dense
// formats, N / M for N:M. Of the residual. Exact to a panel's padding where bytes grow by a
// constant for each weight stored; index, which has one kernel, comes out up to 0.2 higher.
double StoredDensity(const LinearWeight& weight);

// One row of a table of choices: `kernel` (a name in full) runs weights of the format, value type
// and block shape of `spec` (groups and N:M are not compared) for densities and M in the given
// ranges, ends included.
struct KernelChoice {
  WeightSpec spec;
  double min_density = 0;
  double max_density = 1;
  int64_t min_m = 1;
  int64_t max_m = std::numeric_limits<int64_t>::max();
  std::string kernel;
};
// Installs the table of this machine for the whole process, in place of the last one (empty: none).
// Where several rows apply the first counts; rows whose kernel needs a higher tier than ActiveIsa()
// are passed over. Fails, and changes nothing, on a kernel that is not listed or does not take the
// row's spec with activations as QuantizedActivations() says, and on an empty range. Not thread
// safe against Linear().
Status SetKernelChoices(std::span<const KernelChoice> choices);
// The table in force.
std::vector<KernelChoice> InstalledKernelChoices();

// The kernel that Linear() would run for this weight and M on this machine, under HARROW_ISA and
// HARROW_KERNEL, and what decided. Of the residual or one factor, not of a weight that has factors.
enum class ChosenBy : uint8_t { kForce, kTable, kRule };
struct LinearKernelChosen {
  std::string_view name;  // "linear.bitmask_i8.avx512"
  ChosenBy by;
};
LinearKernelChosen ChooseLinearKernel(const LinearWeight& weight, int64_t m);
// Its name alone.
std::string_view LinearKernelName(const LinearWeight& weight, int64_t m);

// Every listed kernel, fastest first, for listings and for tests that force each in turn; or those
// that take weights of `spec` with activations as QuantizedActivations() says.
struct LinearKernelInfo {
  std::string_view name;
  Isa isa;
  bool runs_here;
};
std::vector<LinearKernelInfo> ListLinearKernels();
std::vector<LinearKernelInfo> ListLinearKernels(const WeightSpec& spec);

// Forces kernels whose name starts with `prefix` (empty: automatic choice). Fails when no listed
// kernel that runs here has it. The environment variable HARROW_KERNEL does the same at start-up. A
// forced prefix applies to the weights that some such kernel supports: a full name means that
// kernel, whatever its activations; several that share the prefix are chosen among as usual. All
// other weights choose as usual. Not thread safe.
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
