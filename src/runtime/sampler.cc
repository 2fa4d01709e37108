#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.h"

namespace harrow {
namespace {

using Candidate = std::pair<float, int32_t>;

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

}  // namespace

Status ValidateSamplerOptions(const SamplerOptions& options) {
  // Each test is written so that NaN fails it.
  if (!(options.temperature >= 0 && std::isfinite(options.temperature))) {
    return InvalidArgument("--temp is {}, expected 0 (greedy) or more", options.temperature);
  }
  if (options.top_k < 0)
    return InvalidArgument("--top-k is {}, expected 0 (off) or more", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("--top-p is {}, expected more than 0 and at most 1 (off)",
                           options.top_p);
  }
  if (!(options.min_p >= 0 && options.min_p <= 1))
    return InvalidArgument("--min-p is {}, expected 0 (off) to 1", options.min_p);
  return OkStatus();
}

int32_t Sampler::Sample(const float* logits, int64_t vocab) {
  if (options_.temperature == 0) return static_cast<int32_t>(ArgMax(logits, vocab));
  candidates_.clear();
  for (int64_t i = 0; i < vocab; ++i)
    candidates_.emplace_back(logits[i], static_cast<int32_t>(i));

  if (options_.top_k > 0 && options_.top_k < vocab) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                      Likelier);
    candidates_.resize(static_cast<size_t>(options_.top_k));
  } else if (options_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), Likelier);
  }
  const double highest = std::min_element(candidates_.begin(), candidates_.end(), Likelier)->first;

  if (options_.top_p < 1) {
    double total = 0;
    for (const Candidate& c : candidates_)
      total += std::exp(c.first - highest);
    double reached = 0;
    size_t keep = 0;
    while (keep < candidates_.size() && reached < options_.top_p * total)
      reached += std::exp(candidates_[keep++].first - highest);
    candidates_.resize(keep);
  }
  if (options_.min_p > 0) {
    const double least = highest + std::log(static_cast<double>(options_.min_p));
    std::erase_if(candidates_, [least](const Candidate& c) { return c.first < least; });
  }

  double total = 0;
  for (const Candidate& c : candidates_)
    total += std::exp((c.first - highest) / options_.temperature);
  double left = rng_.Uniform() * total;
  for (const Candidate& c : candidates_) {
    left -= std::exp((c.first - highest) / options_.temperature);
    if (left < 0) return c.second;
  }
  // Rounding of the sums used up the last share.
  return candidates_.back().second;
}

}  // namespace harrow
