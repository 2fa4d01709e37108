#include "compress/methods/selection.h"

#include <algorithm>
#include <charconv>

namespace harrow {

Result<NmPattern> ParseNmPattern(const std::string& text) {
  NmPattern pattern;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, pattern.keep);
  if (first.ec == std::errc() && first.ptr != end && *first.ptr == ':') {
    const auto second = std::from_chars(first.ptr + 1, end, pattern.of);
    if (second.ec == std::errc() && second.ptr == end && pattern.keep >= 1 &&
        pattern.keep < pattern.of && pattern.of <= 256) {
      return pattern;
    }
  }
  return InvalidArgument(
      "expected N:M, keep N of every M consecutive inputs, with 1 <= N < M <= 256; found \"{}\"",
      text.substr(0, 60));
}

std::string PatternText(const NmPattern& pattern) {
  return fmt::format("keep {} of {}", pattern.keep, pattern.of);
}

SparsityTarget SparsityTarget::Read(OptionReader* options) {
  SparsityTarget target;
  const bool has_sparsity = options->Has("sparsity");
  const bool has_pattern = options->Has("pattern");
  if (has_sparsity == has_pattern) {
    options->Fail(has_sparsity ? "pattern" : "sparsity",
                  has_sparsity ? "give either sparsity or pattern, not both"
                               : "missing; give a sparsity (0.5) or a pattern (\"2:4\")");
    return target;
  }
  if (has_sparsity) {
    target.sparsity = options->Number("sparsity", 0, 0, 1);
    if (target.sparsity <= 0 || target.sparsity >= 1) {
      options->Fail("sparsity", "expected a fraction of weights to zero, 0 < sparsity < 1");
    }
    return target;
  }
  Result<NmPattern> pattern = ParseNmPattern(options->String("pattern", ""));
  if (!pattern.ok()) {
    options->Fail("pattern", pattern.status().message());
    return target;
  }
  target.pattern = *pattern;
  return target;
}

Status SparsityTarget::Check(int64_t cols) const {
  if (pattern && cols % pattern->of != 0) {
    return InvalidArgument("{} needs a width that {} divides; the width is {}",
                           PatternText(*pattern), pattern->of, cols);
  }
  return OkStatus();
}

double SparsityTarget::Requested() const {
  return pattern ? 1.0 - static_cast<double>(pattern->keep) / pattern->of : sparsity;
}

void SparsityTarget::Record(LayerWork* layer) const {
  layer->requested_sparsity = Requested();
  if (pattern) layer->pattern = pattern;
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

}  // namespace harrow
