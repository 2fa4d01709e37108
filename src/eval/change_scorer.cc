#include "eval/change_scorer.h"

#include <algorithm>
#include <cmath>

namespace harrow {
namespace {

constexpr int64_t kLogitBytes = int64_t{32} << 20;

}  // namespace

ChangeScorer::ChangeScorer(const Model* model, ThreadPool* pool, const std::vector<int32_t>& ids,
                           int64_t seqlen, int64_t windows, const RunControl* control)
    : model_(model),
      pool_(pool),
      control_(control),
      seqlen_(seqlen),
      windows_(windows),
      ids_(ids.begin(), ids.begin() + seqlen * windows),
      state_(NewForwardState(pool)),
      kv_(NewKvCache(model->config(), 1, seqlen)) {}

Status ChangeScorer::RunBlocks(int32_t begin, int32_t end, float* hidden) {
  for (int32_t b = begin; b < end; ++b) {
    if (control_ != nullptr && control_->Cancelled()) {
      return Status(StatusCode::kCancelled, "sensitivity interrupted");
    }
    HARROW_RETURN_IF_ERROR(
        model_->ForwardBlock(b, hidden, seqlen_, 0, kv_.get(), 0, state_.get(), nullptr));
  }
  return OkStatus();
}

Status ChangeScorer::Rewind() {
  next_ = 0;
  return model_->Embed(ids_.data(), static_cast<int64_t>(ids_.size()), front_.data());
}

Status ChangeScorer::Advance() {
  const int64_t stride = seqlen_ * model_->config().hidden;
  for (int64_t w = 0; w < windows_; ++w)
    HARROW_RETURN_IF_ERROR(RunBlocks(next_, next_ + 1, front_.data() + w * stride));
  ++next_;
  return OkStatus();
}

Result<std::unique_ptr<ChangeScorer>> ChangeScorer::Create(const Model* model, ThreadPool* pool,
                                                           const std::vector<int32_t>& ids,
                                                           int64_t seqlen, int64_t windows,
                                                           const RunControl* control) {
  std::unique_ptr<ChangeScorer> scorer(
      new ChangeScorer(model, pool, ids, seqlen, windows, control));
  const ModelConfig& config = model->config();
  const int64_t stride = seqlen * config.hidden;
  scorer->front_.resize(static_cast<size_t>(windows * stride));
  HARROW_RETURN_IF_ERROR(scorer->Rewind());
  scorer->dense_ = scorer->front_;
  for (int64_t w = 0; w < windows; ++w) {
    if (control != nullptr) control->Progress("dense model: windows", w, windows);
    HARROW_RETURN_IF_ERROR(scorer->RunBlocks(0, config.layers, scorer->dense_.data() + w * stride));
  }
  return scorer;
}

Result<DivergenceReport> ChangeScorer::Score() {
  const ModelConfig& config = model_->config();
  const int64_t stride = seqlen_ * config.hidden;
  const int64_t targets = seqlen_ - 1;  // position i predicts the token i + 1
  const int64_t chunk = std::clamp<int64_t>(
      kLogitBytes / (config.vocab * static_cast<int64_t>(sizeof(float))), 1, targets);
  changed_.resize(static_cast<size_t>(stride));
  for (std::vector<float>& logits : logits_)
    logits.resize(static_cast<size_t>(chunk * config.vocab));
  std::vector<PositionDivergence> positions(static_cast<size_t>(chunk));

  DivergenceReport report;
  report.windows = windows_;
  for (int64_t w = 0; w < windows_; ++w) {
    std::copy_n(front_.data() + w * stride, stride, changed_.data());
    HARROW_RETURN_IF_ERROR(RunBlocks(next_, config.layers, changed_.data()));
    const int32_t* ids = ids_.data() + w * seqlen_;
    double nll_p = 0, nll_q = 0, kl = 0, agreement = 0;
    for (int64_t begin = 0; begin < targets; begin += chunk) {
      const int64_t count = std::min(chunk, targets - begin);
      model_->Logits(dense_.data() + w * stride + begin * config.hidden, count, state_.get(),
                     logits_[0].data());
      model_->Logits(changed_.data() + begin * config.hidden, count, state_.get(),
                     logits_[1].data());
      pool_->ParallelFor(count, 4, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          positions[static_cast<size_t>(i)] =
              CompareLogits(logits_[0].data() + i * config.vocab,
                            logits_[1].data() + i * config.vocab, config.vocab, ids[begin + i + 1]);
        }
      });
      for (int64_t i = 0; i < count; ++i) {
        const PositionDivergence& position = positions[static_cast<size_t>(i)];
        nll_p += position.nll_p;
        nll_q += position.nll_q;
        kl += position.kl;
        agreement += position.same_top ? 1 : 0;
      }
    }
    if (!std::isfinite(nll_p) || !std::isfinite(nll_q) || !std::isfinite(kl)) {
      return Error(StatusCode::kNumerical, "window {}: logits of the {} model are not finite", w,
                   std::isfinite(nll_p) ? "changed" : "dense");
    }
    const auto n = static_cast<double>(targets);
    report.nll_p.push_back(nll_p / n);
    report.nll_q.push_back(nll_q / n);
    report.kl.push_back(kl / n);
    report.agreement.push_back(agreement / n);
  }
  return report;
}

}  // namespace harrow
