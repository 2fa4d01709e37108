// Magnitude pruning: the smallest |w| of the whole layer go, or of each group of M for N:M.
// Source: the baseline of SparseGPT (--gmp) and Wanda (prune_magnitude). They compare with
// `<= sort(|w|)[int(n * s)]` and so prune one weight more, and more still at ties; here exactly
// int(n * s) go, ties to the lower index.
#include <cmath>

#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

class Magnitude final : public Method {
 public:
  explicit Magnitude(OptionReader* options)
      : target_(SparsityTarget::Read(options, ScoreGroup::kLayer)) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return false; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }
  Status Apply(LayerWork* layer) const override {
    const auto score = [layer](int64_t row, double* out) {
      const float* w = layer->w.data() + row * layer->cols;
      for (int64_t j = 0; j < layer->cols; ++j)
        out[j] = std::fabs(static_cast<double>(w[j]));
    };
    return PruneByScore(target_, score, layer);
  }

 private:
  SparsityTarget target_;
};

}  // namespace

std::unique_ptr<Method> MakeMagnitude(OptionReader* options) {
  return std::make_unique<Magnitude>(options);
}

}  // namespace harrow
