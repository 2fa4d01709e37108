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

// Which weights (or blocks) compete with each other for a sparsity.
enum class ScoreGroup : uint8_t { kLayer, kRow };

// How much a pruner removes, where: the keys `sparsity`, `pattern` and, for pruners that leave the
// choice, `compare`. N:M says how much by itself; a block pattern needs a sparsity as well.
struct SparsityTarget {
  double sparsity = 0;  // 0 with N:M
  Pattern pattern;
  ScoreGroup group = ScoreGroup::kLayer;

  // `group`: the method's own choice of `compare`; none where the method fixes it.
  static SparsityTarget Read(OptionReader* options, std::optional<ScoreGroup> group);
  // N:M must divide the width, blocks both sizes.
  Status Check(int64_t rows, int64_t cols) const;
  // The target with what an allocator gave the layer: the sparsity, or for N:M the N that comes
  // nearest, at least 1 and less than M.
  SparsityTarget For(const LayerWork& layer) const;
  // Fraction of zeros asked for.
  double Requested() const;
  // Notes the request on the layer.
  void Record(LayerWork* layer) const;
  // Rows within which weights compete: all of them, those of a block, or one.
  int64_t StripeRows(int64_t rows) const;
};

// "2:4" with 1 <= N < M <= 256, or a block "16x1" with sides from 1 to 256; kInvalidArgument
// otherwise.
Result<Pattern> ParsePattern(const std::string& text);
// "keep 2 of 4", "blocks of 16x1", "unstructured"
std::string PatternText(const Pattern& pattern);

// int(count * sparsity), as the authors' Python computes it.
int64_t PrunedCount(int64_t count, double sparsity);

// Sets pruned[i] = 1 for exactly the `prune` smallest of scores[0, count), ties to the lower index,
// and 0 for the others; all scores of kPrunedScore are among them, even if they are more than
// `prune`. `scratch` is reused between calls.
void SelectSmallest(const double* scores, int64_t count, int64_t prune, uint8_t* pruned,
                    std::vector<double>* scratch);

struct SelectScratch {
  std::vector<double> sorted;
  std::vector<double> blocks;
  std::vector<uint8_t> block_mask;
};

// Sets mask [rows, cols] to what `target` prunes of weights with the scores [rows, cols], all of
// which compete: the smallest; in each group of an N:M row the smallest M - N; or the blocks with
// the smallest sums of scores. Weights of kPrunedScore are always among them.
void SelectMask(const SparsityTarget& target, int64_t rows, int64_t cols, const double* scores,
                uint8_t* mask, SelectScratch* scratch);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_SELECTION_H_
