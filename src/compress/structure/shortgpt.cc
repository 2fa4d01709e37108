// ShortGPT: drops the blocks that change the hidden state least.
// Source: Men et al., arXiv 2403.03853: block influence BI = 1 - E[cos(x before, x after)] over all
// tokens; the `drop` blocks of lowest BI leave at once (ties: the earlier block).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/structure/structure.h"

namespace harrow {
namespace {

class ShortGptRun final : public StructureRun {
 public:
  ShortGptRun(const Model& model, int64_t drop)
      : hidden_(model.config().hidden),
        drop_(drop),
        cosines_(model.blocks().size()),
        tokens_(model.blocks().size()) {}

  Status EndSequence(int32_t block, const float* before, const float* after,
                     int64_t tokens) override {
    for (int64_t t = 0; t < tokens; ++t) {
      double product = 0;
      double norm_before = 0;
      double norm_after = 0;
      for (int64_t j = t * hidden_; j < (t + 1) * hidden_; ++j) {
        const double x = before[j];
        const double y = after[j];
        product += x * y;
        norm_before += x * x;
        norm_after += y * y;
      }
      const double cosine = product / std::sqrt(norm_before * norm_after);
      if (!std::isfinite(cosine)) {
        return Error(StatusCode::kNumerical,
                     "block {}: the hidden state of calibration token {} has norm {} before and {} "
                     "after it, so its block influence is not defined",
                     block, t, std::sqrt(norm_before), std::sqrt(norm_after));
      }
      cosines_[static_cast<size_t>(block)] += cosine;
    }
    tokens_[static_cast<size_t>(block)] += tokens;
    return OkStatus();
  }

  Result<std::vector<BlockDecision>> Decide() override {
    std::vector<BlockDecision> decisions(cosines_.size());
    for (size_t b = 0; b < decisions.size(); ++b) {
      decisions[b].score = 1 - cosines_[b] / static_cast<double>(tokens_[b]);
    }
    std::vector<size_t> order(decisions.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&decisions](size_t x, size_t y) {
      return *decisions[x].score < *decisions[y].score;
    });
    for (int64_t i = 0; i < drop_; ++i)
      decisions[order[static_cast<size_t>(i)]].dropped = true;
    return decisions;
  }

 private:
  int64_t hidden_;
  int64_t drop_;
  std::vector<double> cosines_;  // sums over tokens, by block
  std::vector<int64_t> tokens_;
};

class ShortGpt final : public StructureMethod {
 public:
  explicit ShortGpt(OptionReader* options) : drop_(options->Integer("drop", 1, 1, 1 << 16)) {
    if (!options->Has("drop")) options->Fail("drop", "missing; how many blocks leave");
  }
  Status Check(const Model& model) const override {
    const auto blocks = static_cast<int64_t>(model.blocks().size());
    if (drop_ < blocks) return OkStatus();
    return InvalidArgument("drop: {} of the model's {} blocks, expected at most {}", drop_, blocks,
                           blocks - 1);
  }
  int64_t dropped_blocks() const override { return drop_; }
  std::unique_ptr<StructureRun> Start(const Model& model) const override {
    return std::make_unique<ShortGptRun>(model, drop_);
  }

 private:
  int64_t drop_;
};

}  // namespace

std::unique_ptr<StructureMethod> MakeShortGpt(OptionReader* options) {
  return std::make_unique<ShortGpt>(options);
}

}  // namespace harrow
