#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

#include "eval/perplexity.h"
#include "kernels/elementwise.h"
#include "runtime/session.h"

namespace harrow {
namespace {

// Logits of p that are kept while q runs over the same tokens: about this many bytes.
constexpr int64_t kKeptLogitBytes = int64_t{32} << 20;

}  // namespace

PositionDivergence CompareLogits(const float* p, const float* q, int64_t vocab, int32_t target) {
  const double log_sum_p = LogSumExp(p, vocab);
  const double log_sum_q = LogSumExp(q, vocab);
  PositionDivergence result;
  result.nll_p = log_sum_p - p[target];
  result.nll_q = log_sum_q - q[target];
  double kl = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    const double log_p = p[i] - log_sum_p;
    kl += std::exp(log_p) * (log_p - (q[i] - log_sum_q));
  }
  result.kl = kl;
  result.same_top = ArgMax(p, vocab) == ArgMax(q, vocab);
  return result;
}

Result<DivergenceReport> MeasureDivergence(const LoadedModel& p, const LoadedModel& q,
                                           const std::vector<int32_t>& ids, int64_t seqlen,
                                           int64_t max_windows, const RunControl* control,
                                           KvType cache_q) {
  const int64_t vocab = p.model->config().vocab;
  if (vocab != q.model->config().vocab) {
    return InvalidArgument("vocabularies differ: {} has {} tokens, {} has {}", p.path, vocab,
                           q.path, q.model->config().vocab);
  }
  PerplexityProblem problem;
  problem.seqlen = seqlen;
  problem.max_windows = max_windows;
  HARROW_ASSIGN_OR_RETURN(const int64_t windows,
                          CountWindows(static_cast<int64_t>(ids.size()), problem));

  const int64_t chunk = std::clamp<int64_t>(
      kKeptLogitBytes / (vocab * static_cast<int64_t>(sizeof(float))), 1, seqlen);
  std::vector<float> kept(static_cast<size_t>(chunk * vocab));
  Session session_p(p.model.get(), p.pool.get(), {.max_tokens = seqlen});
  Session session_q(q.model.get(), q.pool.get(), {.max_tokens = seqlen, .cache_type = cache_q});

  DivergenceReport report;
  report.windows = windows;
  for (int64_t w = 0; w < windows; ++w) {
    const int32_t* window = ids.data() + w * seqlen;
    double nll_p = 0, nll_q = 0, kl = 0, agreement = 0;
    session_p.Reset();
    session_q.Reset();
    const int64_t targets = seqlen - 1;  // position i predicts window[i + 1]
    for (int64_t begin = 0; begin < targets; begin += chunk) {
      if (control != nullptr) {
        if (control->Cancelled()) return Status(StatusCode::kCancelled, "comparison interrupted");
        control->Progress("compare: tokens", w * targets + begin, windows * targets);
      }
      const int64_t count = std::min(chunk, targets - begin);
      HARROW_RETURN_IF_ERROR(
          session_p.AppendAll(window + begin, count, [&](int64_t i, const float* logits) {
            std::copy_n(logits, vocab, kept.data() + i * vocab);
          }));
      HARROW_RETURN_IF_ERROR(
          session_q.AppendAll(window + begin, count, [&](int64_t i, const float* logits) {
            const PositionDivergence d =
                CompareLogits(kept.data() + i * vocab, logits, vocab, window[begin + i + 1]);
            nll_p += d.nll_p;
            nll_q += d.nll_q;
            kl += d.kl;
            agreement += d.same_top ? 1 : 0;
          }));
      if (!std::isfinite(nll_p) || !std::isfinite(nll_q) || !std::isfinite(kl)) {
        return BlameWeights(
            std::isfinite(nll_p) ? q : p,
            Error(StatusCode::kNumerical, "window {}, tokens {} .. {}: the logits are not finite",
                  w, begin, begin + count - 1));
      }
    }
    report.nll_p.push_back(nll_p / static_cast<double>(targets));
    report.nll_q.push_back(nll_q / static_cast<double>(targets));
    report.kl.push_back(kl / static_cast<double>(targets));
    report.agreement.push_back(agreement / static_cast<double>(targets));
  }
  if (control != nullptr) {
    control->Progress("compare: tokens", windows * (seqlen - 1), windows * (seqlen - 1));
  }
  return report;
}

}  // namespace harrow
