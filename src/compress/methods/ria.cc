// RIA: score (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * |X_j|_2^a, one threshold a layer (or
// a row, or a group of M).
// Source: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large
// Language Models", ICLR 2024; lib/prune.py prune_ria, a = 0.5. They compare with `<=
// sort(score)[int(n * s)]` and so prune one weight more; here exactly int(n * s) go, ties to the
// lower index.
#include <cmath>

#include "base/check.h"
#include "compress/methods/input_order.h"
#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

class Ria final : public Method {
 public:
  explicit Ria(OptionReader* options)
      : target_(SparsityTarget::Read(options, ScoreGroup::kLayer)),
        power_(options->Number("a", 0.5, 0, 10)) {
    const bool nm = target_.pattern.nm.has_value();
    permute_ = options->Choice("permute", nm ? "heuristic" : "none", {"none", "heuristic", "lsa"});
    if (!nm && permute_ != "none") {
      options->Fail("permute", "only an N:M pattern gains from another order of the inputs");
    }
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kInputNorms; }
  bool quantizes() const override { return false; }
  bool orders_inputs() const override { return permute_ != "none"; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }

  Status Apply(LayerWork* layer) const override {
    layer->dead_columns = layer->statistics->DeadColumns();
    return PruneByScore(target_, MakeScore(*layer), layer);
  }

  Result<InputOrder> OrderInputs(const LayerWork& layer, const InputRuns& runs) const override {
    const NmPattern nm = *target_.For(layer).pattern.nm;
    if (runs.width % nm.of != 0) {
      InputOrder none;
      none.obstacle =
          fmt::format("groups of {} do not divide the {} inputs of a head", nm.of, runs.width);
      return none;
    }
    std::vector<double> scores(layer.w.size());
    const RowScore score = MakeScore(layer);
    layer.pool->ParallelFor(layer.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        score(row, scores.data() + row * layer.cols);
    });
    return FindInputOrder(scores, nm, runs,
                          permute_ == "lsa" ? OrderSearch::kAssignment : OrderSearch::kHeuristic,
                          layer);
  }

 private:
  RowScore MakeScore(const LayerWork& layer) const {
    HARROW_CHECK(layer.statistics != nullptr && layer.statistics->cols() == layer.cols);
    std::vector<double> columns(static_cast<size_t>(layer.cols), 0.0);
    for (int64_t row = 0; row < layer.rows; ++row) {
      for (int64_t j = 0; j < layer.cols; ++j)
        columns[static_cast<size_t>(j)] +=
            std::fabs(static_cast<double>(layer.w[static_cast<size_t>(row * layer.cols + j)]));
    }
    std::vector<double> norms = layer.statistics->InputNorms();
    for (double& norm : norms)
      norm = std::pow(norm, power_);
    return [&layer, columns = std::move(columns), norms = std::move(norms)](int64_t row,
                                                                            double* out) {
      const float* w = layer.w.data() + row * layer.cols;
      double sum = 0;
      for (int64_t j = 0; j < layer.cols; ++j)
        sum += std::fabs(static_cast<double>(w[j]));
      for (int64_t j = 0; j < layer.cols; ++j) {
        const double magnitude = std::fabs(static_cast<double>(w[j]));
        const auto column = static_cast<size_t>(j);
        // A sum is 0 only where the weight is, whose score is then 0.
        out[j] =
            magnitude == 0 ? 0 : (magnitude / columns[column] + magnitude / sum) * norms[column];
      }
    };
  }

  SparsityTarget target_;
  double power_;
  std::string permute_;
};

}  // namespace

std::unique_ptr<Method> MakeRia(OptionReader* options) {
  return std::make_unique<Ria>(options);
}

}  // namespace harrow
