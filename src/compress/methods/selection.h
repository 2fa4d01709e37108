// How many weights a pruner removes, and which, given their scores.
#ifndef HARROW_COMPRESS_METHODS_SELECTION_H_
#define HARROW_COMPRESS_METHODS_SELECTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"
#include "compress/option_reader.h"

namespace harrow {

// The score of a weight that an earlier step has pruned: removed before all others.
inline constexpr double kPrunedScore = -1;

// The keys `sparsity` and `pattern`, of which a pruner takes exactly one.
struct SparsityTarget {
  double sparsity = 0;
  std::optional<NmPattern> pattern;

  static SparsityTarget Read(OptionReader* options);
  // N:M must divide the width.
  Status Check(int64_t cols) const;
  // Fraction of zeros asked for.
  double Requested() const;
  // Notes the request on the layer.
  void Record(LayerWork* layer) const;
};

// "2:4" with 1 <= N < M <= 256; kInvalidArgument otherwise.
Result<NmPattern> ParseNmPattern(const std::string& text);
// "keep 2 of 4"
std::string PatternText(const NmPattern& pattern);

// int(count * sparsity), as the authors' Python computes it.
int64_t PrunedCount(int64_t count, double sparsity);

// Sets pruned[i] = 1 for exactly the `prune` smallest of scores[0, count), ties to the lower index,
// and 0 for the others; all scores of kPrunedScore are among them, even if they are more than
// `prune`. `scratch` is reused between calls.
void SelectSmallest(const double* scores, int64_t count, int64_t prune, uint8_t* pruned,
                    std::vector<double>* scratch);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_SELECTION_H_
