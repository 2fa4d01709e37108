#include "compress/allocators/allocator.h"

#include <algorithm>
#include <set>

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

// Those of one side's caps that are at work, each once: "max 0.8, caps[0].max 0.3".
std::string CapsText(const AllocationProblem& problem,
                     std::optional<SparsityCap> AllocationLayer::*side) {
  std::string text;
  std::set<std::string> seen;
  for (const AllocationLayer& layer : problem.layers) {
    const std::optional<SparsityCap>& cap = layer.*side;
    if (cap && seen.insert(cap->text).second) text += (text.empty() ? "" : ", ") + cap->text;
  }
  return text;
}

// Caps between which the mean can be met.
Status CheckCaps(const AllocationProblem& problem) {
  std::vector<double> low;
  std::vector<double> high;
  double weights = 0;
  for (const AllocationLayer& layer : problem.layers) {
    if (layer.Low() > layer.High()) {
      return InvalidArgument("{}: no sparsity lies between its caps {} and {}", layer.name,
                             layer.min->text, layer.max->text);
    }
    low.push_back(layer.Low());
    high.push_back(layer.High());
    weights += static_cast<double>(layer.weights);
  }
  // Sums of many terms; a thousandth of a weight is no obstacle.
  const double slack = 1e-3 / weights;
  const double least = MeanOverWeights(problem, low);
  const double most = MeanOverWeights(problem, high);
  if (problem.sparsity < least - slack) {
    return InvalidArgument(
        "a mean sparsity of {} cannot be met: the caps ({}) ask for a mean of at least {:.4f}",
        problem.sparsity, CapsText(problem, &AllocationLayer::min), least);
  }
  if (problem.sparsity > most + slack) {
    return InvalidArgument(
        "a mean sparsity of {} cannot be met: the caps ({}) allow a mean of at most {:.4f}",
        problem.sparsity, CapsText(problem, &AllocationLayer::max), most);
  }
  return OkStatus();
}

// Values on a side without cap: at least 0, and less than all of the layer, to half a weight.
Status CheckUncapped(const AllocationProblem& problem, const std::vector<double>& values,
                     std::string_view when) {
  for (size_t i = 0; i < values.size(); ++i) {
    const AllocationLayer& layer = problem.layers[i];
    const double slack = 0.5 / static_cast<double>(layer.weights);
    if ((layer.min || values[i] >= -slack) && (layer.max || values[i] <= 1 - slack)) continue;
    return InvalidArgument(
        "{} would get a sparsity of {:.4f}{}, expected a value in [0, 1); lower the spread of the "
        "allocation or set `min` and `max`",
        layer.name, values[i], when);
  }
  return OkStatus();
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
  HARROW_RETURN_IF_ERROR(CheckCaps(problem));
  HARROW_RETURN_IF_ERROR(CheckUncapped(problem, *values, ""));
  bool fits = true;
  // The clipped mean is continuous, grows with the shift and reaches the target between these two.
  double left = 0;
  double right = 0;
  for (size_t i = 0; i < values->size(); ++i) {
    const AllocationLayer& layer = problem.layers[i];
    const double value = (*values)[i];
    fits = fits && value >= layer.Low() && value <= layer.High();
    left = std::min(left, layer.Low() - value);
    right = std::max(right, layer.High() - value);
  }
  if (fits) return OkStatus();

  std::vector<double> shifted(values->size());
  const auto shift_by = [&](double shift) {
    for (size_t i = 0; i < shifted.size(); ++i) {
      const AllocationLayer& layer = problem.layers[i];
      shifted[i] = (*values)[i] + shift;
      if (layer.min) shifted[i] = std::max(shifted[i], layer.min->value);
      if (layer.max) shifted[i] = std::min(shifted[i], layer.max->value);
    }
    return MeanOverWeights(problem, shifted);
  };
  // Halves the interval until its ends are neighbouring doubles.
  for (double middle = (left + right) / 2; left < middle && middle < right;
       middle = (left + right) / 2) {
    (shift_by(middle) < problem.sparsity ? left : right) = middle;
  }
  shift_by(right);
  HARROW_RETURN_IF_ERROR(CheckUncapped(problem, shifted, " once the others keep to their caps"));
  for (double& value : shifted)
    value = std::max(value, 0.0);  // not below it by a rounding
  *values = shifted;
  return OkStatus();
}

}  // namespace harrow
