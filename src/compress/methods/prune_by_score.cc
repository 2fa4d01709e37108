#include "compress/methods/prune_by_score.h"

namespace harrow {

Status PruneByScore(const SparsityTarget& asked, const RowScore& score, LayerWork* layer) {
  const SparsityTarget target = asked.For(*layer);
  target.Record(layer);
  const int64_t cols = layer->cols;
  const int64_t stripe = target.StripeRows(layer->rows);
  const auto score_row = [&](int64_t row, double* out) {
    score(row, out);
    const uint8_t* pruned = layer->pruned.data() + row * cols;
    for (int64_t j = 0; j < cols; ++j) {
      if (pruned[j] != 0) out[j] = kPrunedScore;
    }
  };
  const auto prune_stripe = [&](int64_t begin, const std::vector<double>& scores,
                                std::vector<uint8_t>* mask, SelectScratch* scratch) {
    SelectMask(target, stripe, cols, scores.data(), mask->data(), scratch);
    for (int64_t i = 0; i < stripe * cols; ++i) {
      if ((*mask)[static_cast<size_t>(i)] == 0) continue;
      layer->pruned[static_cast<size_t>(begin * cols + i)] = 1;
      layer->w[static_cast<size_t>(begin * cols + i)] = 0.0f;
    }
  };

  if (stripe == layer->rows) {
    std::vector<double> scores(static_cast<size_t>(stripe * cols));
    layer->pool->ParallelFor(stripe, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        score_row(row, scores.data() + row * cols);
    });
    std::vector<uint8_t> mask(scores.size());
    SelectScratch scratch;
    prune_stripe(0, scores, &mask, &scratch);
    return OkStatus();
  }
  layer->pool->ParallelFor(layer->rows / stripe, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> scores(static_cast<size_t>(stripe * cols));
    std::vector<uint8_t> mask(scores.size());
    SelectScratch scratch;
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t r = 0; r < stripe; ++r)
        score_row(s * stripe + r, scores.data() + r * cols);
      prune_stripe(s * stripe, scores, &mask, &scratch);
    }
  });
  return OkStatus();
}

}  // namespace harrow
