// How far one model's next-token distributions are from another's, over the same tokens.
#ifndef HARROW_EVAL_DIVERGENCE_H_
#define HARROW_EVAL_DIVERGENCE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/run_control.h"

namespace harrow {

// Natural-log softmax quantities of one position, from float32 logits with double sums.
struct PositionDivergence {
  double nll_p = 0;       // of `target` under p
  double nll_q = 0;       // of `target` under q
  double kl = 0;          // KL(p || q) = sum p (ln p - ln q), nats; >= 0 up to rounding
  bool same_top = false;  // same most likely token (lowest id wins ties)
};
PositionDivergence CompareLogits(const float* p, const float* q, int64_t vocab, int32_t target);

struct DivergenceReport {
  int64_t windows = 0;
  // Window means, one entry a window; every window has the same number of targets.
  std::vector<double> nll_p;
  std::vector<double> nll_q;
  std::vector<double> kl;
  std::vector<double> agreement;
};
// Runs both models over the disjoint windows of protocol gptq (eval/perplexity.h), so the NLLs are
// those of that protocol; p has a float32 KV cache. Fails when the vocabularies differ or a logit
// is not finite.
Result<DivergenceReport> MeasureDivergence(const LoadedModel& p, const LoadedModel& q,
                                           const std::vector<int32_t>& ids, int64_t seqlen,
                                           int64_t max_windows, const RunControl* control,
                                           KvType cache_q = KvType::kF32);

}  // namespace harrow

#endif  // HARROW_EVAL_DIVERGENCE_H_
