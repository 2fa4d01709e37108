// Picks the next token from logits.
#ifndef HARROW_RUNTIME_SAMPLER_H_
#define HARROW_RUNTIME_SAMPLER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "base/status.h"

namespace harrow {

struct SamplerOptions {
  float temperature = 0.8f;  // 0: greedy (lowest id wins ties), the rest is ignored
  int32_t top_k = 40;        // 0: off
  float top_p = 0.95f;       // 1: off
  float min_p = 0.05f;       // 0: off
  uint64_t seed = 0;
};
Status ValidateSamplerOptions(const SamplerOptions& options);  // names the flag and its range

// The filters run in llama.cpp's order: top-k, top-p, min-p, then temperature. top-p keeps the
// fewest likeliest tokens whose probability (at temperature 1, among what top-k kept) reaches p;
// min-p keeps those at least min_p times as likely as the likeliest (Nguyen et al., arXiv
// 2407.01082). Ties are broken by the lower id. Not thread safe. Precondition: valid options.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), rng_(options.seed) {}
  // `logits` [vocab], finite.
  int32_t Sample(const float* logits, int64_t vocab);

 private:
  SamplerOptions options_;
  Rng rng_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace harrow

#endif  // HARROW_RUNTIME_SAMPLER_H_
