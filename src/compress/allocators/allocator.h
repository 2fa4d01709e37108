// What an allocator is: it shares one step's sparsity out among the layers that the step prunes. It
// knows nothing of models or files of weights: scores of the dense model reach it as numbers.
#ifndef HARROW_COMPRESS_ALLOCATORS_ALLOCATOR_H_
#define HARROW_COMPRESS_ALLOCATORS_ALLOCATOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"
#include "compress/option_reader.h"
#include "formats/linear_weight.h"

namespace harrow {

// What an allocator sees of the dense model, in a pass before anything is compressed.
enum class DenseNeed : uint8_t { kNothing, kWeights, kActivations };

// A weight of the dense model.
struct DenseWeight {
  std::string name;
  const LinearWeight* weight = nullptr;
  // With kActivations: sqrt of (sum over tokens of x_j^2) / sequences, [cols].
  std::vector<double> norms;
};

// A bound of a layer's sparsity, and what gave it, for messages: "caps[1].max 0.8".
struct SparsityCap {
  double value = 0;
  std::string text;
};

struct AllocationLayer {
  std::string name;
  int64_t weights = 0;                  // rows * cols
  size_t unit = 0;                      // layers of one unit (the block) are scored together
  std::optional<SparsityCap> min = {};  // values in [0, 1)
  std::optional<SparsityCap> max = {};

  double Low() const { return min ? min->value : 0.0; }
  double High() const { return max ? max->value : 1.0; }
};

// One pruning step over its layers.
struct AllocationProblem {
  double sparsity = 0;          // wanted as the mean over the weights
  std::optional<NmPattern> nm;  // the step's pattern, which can only do multiples of 1 / M
  std::vector<AllocationLayer> layers;
  std::vector<double> scores;  // [units], from Allocator::Score; empty with kNothing
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // A file whose content decides the result; empty: none.
  virtual std::string file() const { return ""; }
  virtual DenseNeed needs() const { return DenseNeed::kNothing; }
  // The score of one unit. Called only where needs() is not kNothing. Weights are checked to be
  // finite here (kNumerical).
  virtual Result<double> Score(std::span<const DenseWeight> unit) const;
  // A sparsity for each layer, whose mean over the weights is the one asked for. The values may
  // break the caps (the caller applies them) and leave (0, 1) (the caller refuses them).
  virtual Result<std::vector<double>> Allocate(const AllocationProblem& problem) const = 0;
};

struct AllocatorInfo {
  std::string_view name;
  // Reads the allocator's own keys; mistakes are left in the reader. `nm`: the steps prune to N:M.
  std::unique_ptr<Allocator> (*make)(OptionReader* options, bool nm);
};
std::span<const AllocatorInfo> AllAllocators();
const AllocatorInfo* FindAllocator(std::string_view name);  // null when there is none

// The mean of `values` [layers] over the weights.
double MeanOverWeights(const AllocationProblem& problem, std::span<const double> values);

// Sparsities whose kept fractions differ by `span` between the units of the lowest and the highest
// score, linear in between. All equal where all scores are. Source: OWL, lib/prune_all.py; its mean
// is over blocks of equal size, here over the weights, which is then the same.
std::vector<double> KeepMoreOfHighScores(const AllocationProblem& problem, double span);

// Moves values by the common amount after which, clipped to the caps, their mean over the weights
// is the sparsity asked for; leaves them alone when they keep to the caps already. kInvalidArgument
// where no amount does, naming the caps, and for values outside [0, 1) on a side without cap.
Status ApplyCaps(const AllocationProblem& problem, std::vector<double>* values);

}  // namespace harrow

#endif  // HARROW_COMPRESS_ALLOCATORS_ALLOCATOR_H_
