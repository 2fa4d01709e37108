#include "compress/allocators/allocator.h"

#include <algorithm>

#include "base/check.h"

namespace harrow {

#define HARROW_ALLOCATOR(name, make) std::unique_ptr<Allocator> make(OptionReader*, bool);
#include "compress/allocators.def"
#undef HARROW_ALLOCATOR

namespace {

constexpr AllocatorInfo kAllocators[] = {
#define HARROW_ALLOCATOR(name, make) {name, make},
#include "compress/allocators.def"
#undef HARROW_ALLOCATOR
};

double Clipped(const AllocationProblem& problem, double value) {
  return std::clamp(value, problem.min.value_or(0.0), problem.max.value_or(1.0));
}

}  // namespace

std::span<const AllocatorInfo> AllAllocators() {
  return kAllocators;
}

const AllocatorInfo* FindAllocator(std::string_view name) {
  for (const AllocatorInfo& allocator : kAllocators) {
    if (allocator.name == name) return &allocator;
  }
  return nullptr;
}

Result<double> Allocator::Score(std::span<const DenseWeight>) const {
  HARROW_CHECK(false && "an allocator without needs has no scores");
  return 0.0;
}

double MeanOverWeights(const AllocationProblem& problem, std::span<const double> values) {
  double sum = 0;
  double weights = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i] * static_cast<double>(problem.layers[i].weights);
    weights += static_cast<double>(problem.layers[i].weights);
  }
  return sum / weights;
}

std::vector<double> KeepMoreOfHighScores(const AllocationProblem& problem, double span) {
  const auto [low, high] = std::minmax_element(problem.scores.begin(), problem.scores.end());
  const double scale = *high > *low ? span / (*high - *low) : 0.0;
  std::vector<double> keep;
  for (const AllocationLayer& layer : problem.layers) {
    keep.push_back((problem.scores[layer.unit] - *low) * scale);
  }
  const double mean = MeanOverWeights(problem, keep);
  for (double& value : keep)
    value = problem.sparsity + mean - value;
  return keep;
}

Status ApplyCaps(const AllocationProblem& problem, std::vector<double>* values) {
  const double low = problem.min.value_or(0.0);
  const double high = problem.max.value_or(1.0);
  if (problem.sparsity < low || problem.sparsity > high) {
    return InvalidArgument(
        "a mean sparsity of {} cannot be met by layers between min {} and max {}", problem.sparsity,
        low, high);
  }
  bool fits = true;
  for (size_t i = 0; i < values->size(); ++i) {
    const double value = (*values)[i];
    if ((!problem.min && value < 0) || (!problem.max && value >= 1)) {
      return InvalidArgument(
          "{} would get a sparsity of {:.4f}, expected a value in [0, 1); lower the spread of the "
          "allocation or set `min` and `max`",
          problem.layers[i].name, value);
    }
    fits = fits && value >= low && value <= high;
  }
  if (fits) return OkStatus();

  // The clipped mean is continuous, grows with the shift and reaches the target between these two.
  const auto [smallest, largest] = std::minmax_element(values->begin(), values->end());
  double left = low - *largest;
  double right = high - *smallest;
  std::vector<double> shifted(values->size());
  const auto shift_by = [&](double shift) {
    for (size_t i = 0; i < shifted.size(); ++i)
      shifted[i] = Clipped(problem, (*values)[i] + shift);
    return MeanOverWeights(problem, shifted);
  };
  // Halves the interval until its ends are neighbouring doubles.
  for (double middle = (left + right) / 2; left < middle && middle < right;
       middle = (left + right) / 2) {
    (shift_by(middle) < problem.sparsity ? left : right) = middle;
  }
  shift_by(right);
  *values = shifted;
  return OkStatus();
}

}  // namespace harrow
