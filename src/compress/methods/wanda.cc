// Wanda: score |W_ij| * |X_j|_2, compared within each output row (or group of M).
// Source: Sun et al., arXiv 2306.11695 eq. 1; lib/prune.py, lib/layerwrapper.py: the norm is the
// root of the sum of squares averaged over sequences; int(cols * s) of each row go, ties to the
// lower index (stable sort).
// `variant: row_adaptive` is theirs of --use_variant: each row gives up its lowest scores while
// they sum up to no more than a fraction alpha of the row's; alpha is bisected for the sparsity.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

class Wanda final : public Method {
 public:
  explicit Wanda(OptionReader* options)
      : target_(SparsityTarget::Read(options, ScoreGroup::kRow)),
        adaptive_(options->Choice("variant", "standard", {"standard", "row_adaptive"}) ==
                  "row_adaptive") {
    if (adaptive_ && target_.pattern != Pattern()) {
      options->Fail("variant", "rows of a pattern cannot choose how much they give up");
    }
    if (adaptive_ && options->Has("compare")) {
      options->Fail("compare", "row_adaptive has its own comparison; leave it out");
    }
  }
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
    return adaptive_ ? PruneAdaptively(score, layer) : PruneByScore(target_, score, layer);
  }

 private:
  Status PruneAdaptively(const RowScore& score, LayerWork* layer) const;

  SparsityTarget target_;
  bool adaptive_;
};

Status Wanda::PruneAdaptively(const RowScore& score, LayerWork* layer) const {
  const SparsityTarget target = target_.For(*layer);
  target.Record(layer);
  const int64_t rows = layer->rows;
  const int64_t cols = layer->cols;
  // Running sums of each row's scores from the lowest up; what is pruned already has none.
  std::vector<double> sums(layer->w.size());
  layer->pool->ParallelFor(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double* out = sums.data() + row * cols;
      score(row, out);
      std::sort(out, out + cols);
      std::partial_sum(out, out + cols, out);
    }
  });
  std::vector<int64_t> counts(static_cast<size_t>(rows));
  const auto sparsity_at = [&](double alpha) {
    int64_t pruned = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const double* begin = sums.data() + row * cols;
      const double* end = begin + cols;
      const int64_t count = std::upper_bound(begin, end, alpha * *(end - 1)) - begin;
      counts[static_cast<size_t>(row)] = count;
      pruned += count;
    }
    return static_cast<double>(pruned) / static_cast<double>(rows * cols);
  };
  // The authors' search, its limits included.
  constexpr double kTolerance = 0.001;
  double low = 0;
  double high = 0.8;
  double alpha = 0.4;
  double reached = sparsity_at(alpha);
  while (std::fabs(reached - target.sparsity) > kTolerance && high - low >= kTolerance) {
    (reached > target.sparsity ? high : low) = alpha;
    alpha = (low + high) / 2;
    reached = sparsity_at(alpha);
  }
  layer->notes.push_back(
      fmt::format("wanda: alpha {:.5f}, sparsity reached {:.5f}", alpha, reached));
  if (std::fabs(reached - target.sparsity) > kTolerance) {
    layer->warnings.push_back(fmt::format(
        "row_adaptive reached a sparsity of {:.4f} in place of {}", reached, target.sparsity));
  }
  layer->pool->ParallelFor(rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> scores(static_cast<size_t>(cols));
    std::vector<uint8_t> mask(static_cast<size_t>(cols));
    std::vector<double> scratch;
    for (int64_t row = begin; row < end; ++row) {
      float* w = layer->w.data() + row * cols;
      uint8_t* pruned = layer->pruned.data() + row * cols;
      score(row, scores.data());
      for (int64_t j = 0; j < cols; ++j) {
        if (pruned[j] != 0) scores[static_cast<size_t>(j)] = kPrunedScore;
      }
      SelectSmallest(scores.data(), cols, counts[static_cast<size_t>(row)], mask.data(), &scratch);
      for (int64_t j = 0; j < cols; ++j) {
        if (mask[static_cast<size_t>(j)] == 0) continue;
        w[j] = 0.0f;
        pruned[j] = 1;
      }
    }
  });
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeWanda(OptionReader* options) {
  return std::make_unique<Wanda>(options);
}

}  // namespace harrow
