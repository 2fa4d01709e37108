// Wanda: score |W_ij| * |X_j|_2, compared within each output row (or group of M).
// Source: Sun et al., arXiv 2306.11695 eq. 1; lib/prune.py, lib/layerwrapper.py: the norm is the
// root of the sum of squares averaged over sequences; int(cols * s) of each row go, ties to the
// lower index (stable sort).
#include <cmath>

#include "base/check.h"
#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

class Wanda final : public Method {
 public:
  explicit Wanda(OptionReader* options)
      : target_(SparsityTarget::Read(options, ScoreGroup::kRow)) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kInputNorms; }
  bool quantizes() const override { return false; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }
  Status Apply(LayerWork* layer) const override {
    HARROW_CHECK(layer->statistics != nullptr && layer->statistics->cols() == layer->cols);
    layer->dead_columns = layer->statistics->DeadColumns();
    const std::vector<double> norms = layer->statistics->InputNorms();
    const auto score = [layer, &norms](int64_t row, double* out) {
      const float* w = layer->w.data() + row * layer->cols;
      for (int64_t j = 0; j < layer->cols; ++j) {
        out[j] = std::fabs(static_cast<double>(w[j])) * norms[static_cast<size_t>(j)];
      }
    };
    return PruneByScore(target_, score, layer);
  }

 private:
  SparsityTarget target_;
};

}  // namespace

std::unique_ptr<Method> MakeWanda(OptionReader* options) {
  return std::make_unique<Wanda>(options);
}

}  // namespace harrow
