// The same sparsity for every layer: what a recipe without `allocation` does.
#include "compress/allocators/allocator.h"

namespace harrow {
namespace {

class Uniform final : public Allocator {
 public:
  Result<std::vector<double>> Allocate(const AllocationProblem& problem) const override {
    return std::vector<double>(problem.layers.size(), problem.sparsity);
  }
};

}  // namespace

std::unique_ptr<Allocator> MakeUniform(OptionReader*, bool) {
  return std::make_unique<Uniform>();
}

}  // namespace harrow
