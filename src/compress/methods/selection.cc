#include "compress/methods/selection.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace harrow {

Result<Pattern> ParsePattern(const std::string& text) {
  int32_t first = 0;
  int32_t second = 0;
  const char* const end = text.data() + text.size();
  const auto head = std::from_chars(text.data(), end, first);
  if (head.ec == std::errc() && head.ptr != end) {
    const auto tail = std::from_chars(head.ptr + 1, end, second);
    if (tail.ec == std::errc() && tail.ptr == end && first >= 1 && second <= 256) {
      Pattern pattern;
      if (*head.ptr == ':' && first < second) {
        pattern.nm = NmPattern{first, second};
        return pattern;
      }
      if (*head.ptr == 'x' && second >= 1 && first <= 256 && first * second > 1) {
        pattern.block = BlockShape{first, second};
        return pattern;
      }
    }
  }
  return InvalidArgument(
      "expected N:M, keep N of every M consecutive inputs, with 1 <= N < M <= 256, or a block "
      "RxC of outputs x inputs with sides of at most 256, such as 16x1; found \"{}\"",
      text.substr(0, 60));
}

std::string PatternText(const Pattern& pattern) {
  if (pattern.nm) return fmt::format("keep {} of {}", pattern.nm->keep, pattern.nm->of);
  if (pattern.block) {
    return fmt::format("blocks of {}x{}", pattern.block->rows, pattern.block->cols);
  }
  return "unstructured";
}

SparsityTarget SparsityTarget::Read(OptionReader* options, std::optional<ScoreGroup> group) {
  SparsityTarget target;
  if (options->Has("pattern")) {
    Result<Pattern> pattern = ParsePattern(options->String("pattern", ""));
    if (!pattern.ok()) {
      options->Fail("pattern", pattern.status().message());
      return target;
    }
    target.pattern = *pattern;
  }
  const bool has_sparsity = options->Has("sparsity");
  if (target.pattern.nm && has_sparsity) {
    options->Fail("pattern", fmt::format("give either sparsity or pattern, not both: {} is a "
                                         "sparsity already",
                                         PatternText(target.pattern)));
  } else if (!target.pattern.nm && !has_sparsity) {
    options->Fail("sparsity", target.pattern.block
                                  ? "missing; a block pattern needs the fraction of blocks to zero"
                                  : "missing; give a sparsity (0.5) or a pattern (\"2:4\")");
  } else if (has_sparsity) {
    target.sparsity = options->Fraction("sparsity", 0);
  }
  if (group) {
    target.group = *group;
    if (options->Has("compare")) {
      if (target.pattern.nm) {
        options->Fail("compare", "N:M compares the weights of each group of M; leave it out");
      }
      target.group = options->Choice("compare", "row", {"layer", "row"}) == "row"
                         ? ScoreGroup::kRow
                         : ScoreGroup::kLayer;
    }
  }
  return target;
}

Status SparsityTarget::Check(int64_t rows, int64_t cols) const {
  if (pattern.nm && cols % pattern.nm->of != 0) {
    return InvalidArgument("{} needs a width that {} divides; the width is {}",
                           PatternText(pattern), pattern.nm->of, cols);
  }
  if (pattern.block && (rows % pattern.block->rows != 0 || cols % pattern.block->cols != 0)) {
    return InvalidArgument("{} do not divide the {} x {} weight", PatternText(pattern), rows, cols);
  }
  return OkStatus();
}

SparsityTarget SparsityTarget::For(const LayerWork& layer) const {
  SparsityTarget target = *this;
  if (!layer.allocated_sparsity) return target;
  if (target.pattern.nm) {
    NmPattern& nm = *target.pattern.nm;
    const double keep = std::nearbyint((1.0 - *layer.allocated_sparsity) * nm.of);
    nm.keep = std::clamp(static_cast<int32_t>(keep), 1, nm.of - 1);
  } else {
    target.sparsity = *layer.allocated_sparsity;
  }
  return target;
}

double SparsityTarget::Requested() const {
  return pattern.nm ? 1.0 - static_cast<double>(pattern.nm->keep) / pattern.nm->of : sparsity;
}

void SparsityTarget::Record(LayerWork* layer) const {
  layer->requested_sparsity = Requested();
  if (pattern != Pattern()) layer->pattern = pattern;
}

int64_t SparsityTarget::StripeRows(int64_t rows) const {
  if (pattern.nm) return 1;
  if (group == ScoreGroup::kLayer) return rows;
  return pattern.block ? pattern.block->rows : 1;
}

int64_t PrunedCount(int64_t count, double sparsity) {
  return static_cast<int64_t>(static_cast<double>(count) * sparsity);
}

void SelectSmallest(const double* scores, int64_t count, int64_t prune, uint8_t* pruned,
                    std::vector<double>* scratch) {
  int64_t before = 0;
  for (int64_t i = 0; i < count; ++i)
    before += scores[i] == kPrunedScore;
  prune = std::max(prune, before);
  if (prune <= 0) {
    std::fill_n(pruned, count, uint8_t{0});
    return;
  }
  if (prune >= count) {
    std::fill_n(pruned, count, uint8_t{1});
    return;
  }
  scratch->assign(scores, scores + count);
  std::nth_element(scratch->begin(), scratch->begin() + (prune - 1), scratch->end());
  const double threshold = (*scratch)[static_cast<size_t>(prune - 1)];
  int64_t below = 0;
  for (int64_t i = 0; i < count; ++i)
    below += scores[i] < threshold;
  int64_t ties = prune - below;
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] < threshold) {
      pruned[i] = 1;
    } else if (scores[i] == threshold && ties > 0) {
      pruned[i] = 1;
      --ties;
    } else {
      pruned[i] = 0;
    }
  }
}

void SelectMask(const SparsityTarget& target, int64_t rows, int64_t cols, const double* scores,
                uint8_t* mask, SelectScratch* scratch) {
  if (target.pattern.nm) {
    const int64_t of = target.pattern.nm->of;
    for (int64_t i = 0; i < rows * cols; i += of) {
      SelectSmallest(scores + i, of, of - target.pattern.nm->keep, mask + i, &scratch->sorted);
    }
    return;
  }
  if (!target.pattern.block) {
    SelectSmallest(scores, rows * cols, PrunedCount(rows * cols, target.sparsity), mask,
                   &scratch->sorted);
    return;
  }
  const int64_t block_rows = target.pattern.block->rows;
  const int64_t block_cols = target.pattern.block->cols;
  const int64_t across = cols / block_cols;
  const auto block_of = [&](int64_t row, int64_t col) {
    return static_cast<size_t>(row / block_rows * across + col / block_cols);
  };
  // A block counts as pruned when all of its weights are.
  scratch->blocks.assign(static_cast<size_t>(rows / block_rows * across), kPrunedScore);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const double score = scores[row * cols + col];
      if (score == kPrunedScore) continue;
      double& sum = scratch->blocks[block_of(row, col)];
      sum = (sum == kPrunedScore ? 0 : sum) + score;
    }
  }
  const auto count = static_cast<int64_t>(scratch->blocks.size());
  scratch->block_mask.resize(scratch->blocks.size());
  SelectSmallest(scratch->blocks.data(), count, PrunedCount(count, target.sparsity),
                 scratch->block_mask.data(), &scratch->sorted);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      mask[row * cols + col] =
          scores[row * cols + col] == kPrunedScore || scratch->block_mask[block_of(row, col)] != 0;
    }
  }
}

}  // namespace harrow
