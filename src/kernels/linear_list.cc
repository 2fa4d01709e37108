// Every linear kernel, fastest first. One line a kernel.
#include "kernels/linear_kernel.h"

namespace harrow {
namespace {

bool Always(const WeightSpec&) {
  return true;
}

constexpr LinearKernel kLinear[] = {
    {"linear.ref", Isa::kScalar, Always, ref::LinearX, ref::Linear},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() {
  return kLinear;
}

}  // namespace harrow
