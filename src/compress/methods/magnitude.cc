// Magnitude pruning: the smallest |w| of the whole layer go, or of each group of M for N:M; or all
// below a threshold, however many they are.
// Source: the baseline of SparseGPT (--gmp) and Wanda (prune_magnitude). They compare with
// `<= sort(|w|)[int(n * s)]` and so prune one weight more, and more still at ties; here exactly
// int(n * s) go, ties to the lower index.
#include <cmath>
#include <limits>

#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

class Magnitude final : public Method {
 public:
  explicit Magnitude(OptionReader* options) {
    if (!options->Has("threshold")) {
      target_ = SparsityTarget::Read(options, ScoreGroup::kLayer);
      return;
    }
    threshold_ = options->Number("threshold", 0, 0, std::numeric_limits<float>::max());
    if (*threshold_ <= 0) options->Fail("threshold", "expected a number above 0");
    for (const char* key : {"sparsity", "pattern", "compare"}) {
      if (options->Has(key)) {
        options->Fail(key, "a threshold alone says what goes; give one or the other");
      }
    }
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return false; }
  const SparsityTarget* target() const override { return threshold_ ? nullptr : &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }
  Status Apply(LayerWork* layer) const override {
    if (threshold_) return PruneBelow(*threshold_, layer);
    const auto score = [layer](int64_t row, double* out) {
      const float* w = layer->w.data() + row * layer->cols;
      for (int64_t j = 0; j < layer->cols; ++j)
        out[j] = std::fabs(static_cast<double>(w[j]));
    };
    return PruneByScore(target_, score, layer);
  }

 private:
  static Status PruneBelow(double threshold, LayerWork* layer) {
    if (layer->allocated_sparsity) {
      return InvalidArgument(
          "an allocator chose a sparsity of {} for this weight, which a threshold "
          "cannot keep to; give the step a sparsity",
          *layer->allocated_sparsity);
    }
    int64_t kept = 0;
    for (size_t i = 0; i < layer->w.size(); ++i) {
      if (std::fabs(static_cast<double>(layer->w[i])) < threshold) {
        layer->w[i] = 0;
        layer->pruned[i] = 1;
      }
      kept += layer->pruned[i] == 0;
    }
    if (kept == 0) {
      layer->warnings.push_back(
          fmt::format("all weights are below the threshold of {} and were pruned", threshold));
    }
    return OkStatus();
  }

  SparsityTarget target_;
  std::optional<double> threshold_;  // in place of a target
};

}  // namespace

std::unique_ptr<Method> MakeMagnitude(OptionReader* options) {
  return std::make_unique<Magnitude>(options);
}

}  // namespace harrow
