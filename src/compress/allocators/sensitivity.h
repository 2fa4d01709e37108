// Allocation by measured sensitivity: the file that `harrow sensitivity -o json` writes, and the
// sparsities that lose the least.
#ifndef HARROW_COMPRESS_ALLOCATORS_SENSITIVITY_H_
#define HARROW_COMPRESS_ALLOCATORS_SENSITIVITY_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace harrow {

// What pruning one weight alone cost.
struct SensitivityPoint {
  double sparsity = 0;       // in (0, 1)
  double loss_increase = 0;  // nats a token; noise may make it negative
  std::optional<double> kl;  // nats a token from the dense model
};

struct SensitivityCurve {
  std::string name;                      // weight, with or without ".weight"
  std::vector<SensitivityPoint> points;  // at least one, by ascending sparsity
};

// {"layers": [{"name": ..., "points": [{"sparsity": s, "loss_increase": d, "kl": k}]}]}; other keys
// are skipped. Untrusted: kCorruption, naming `where`, layer and field, for anything else, numbers
// that are not finite, sparsities outside (0, 1) or given twice, and layers given twice.
Result<std::vector<SensitivityCurve>> ParseSensitivity(std::string_view text,
                                                       std::string_view where);

// The loss of one layer as a function of its sparsity: points (sparsity, loss) of ascending
// sparsity, the first at sparsity 0.
struct LossCurve {
  double weights = 0;  // > 0
  std::vector<std::pair<double, double>> points;
  double min = 0;  // bounds of its sparsity
  double max = 1;
  std::string name = {};  // for messages
};

// The sparsities that minimize the sum of the lower convex hulls of the curves, under
// sum weights * sparsity = mean * sum weights and each layer's min <= sparsity <= max. Exact:
// segments of hulls are bought in the order of their loss per weight, which is the sweep over
// Lagrange's multiplier. A layer goes no further than its last point. kInvalidArgument when the
// mean cannot be met.
Result<std::vector<double>> MinimizeLoss(std::span<const LossCurve> curves, double mean);

}  // namespace harrow

#endif  // HARROW_COMPRESS_ALLOCATORS_SENSITIVITY_H_
