#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

// Zeroes what `mask` [count] says, at offset `begin` of the layer.
void ZeroPruned(const uint8_t* mask, int64_t begin, int64_t count, LayerWork* layer) {
  for (int64_t i = 0; i < count; ++i) {
    if (mask[i] == 0) continue;
    layer->pruned[static_cast<size_t>(begin + i)] = 1;
    layer->w[static_cast<size_t>(begin + i)] = 0.0f;
  }
}

}  // namespace

Status PruneByScore(const SparsityTarget& target, ScoreGroup group, const RowScore& score,
                    LayerWork* layer) {
  target.Record(layer);
  const int64_t cols = layer->cols;
  const auto score_row = [&](int64_t row, double* out) {
    score(row, out);
    const uint8_t* pruned = layer->pruned.data() + row * cols;
    for (int64_t j = 0; j < cols; ++j) {
      if (pruned[j] != 0) out[j] = kPrunedScore;
    }
  };

  if (!target.pattern && group == ScoreGroup::kLayer) {
    const int64_t count = layer->rows * cols;
    std::vector<double> scores(static_cast<size_t>(count));
    layer->pool->ParallelFor(layer->rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        score_row(row, scores.data() + row * cols);
    });
    std::vector<uint8_t> mask(static_cast<size_t>(count));
    std::vector<double> scratch;
    SelectSmallest(scores.data(), count, PrunedCount(count, target.sparsity), mask.data(),
                   &scratch);
    ZeroPruned(mask.data(), 0, count, layer);
    return OkStatus();
  }

  layer->pool->ParallelFor(layer->rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> scores(static_cast<size_t>(cols));
    std::vector<uint8_t> mask(static_cast<size_t>(cols));
    std::vector<double> scratch;
    for (int64_t row = begin; row < end; ++row) {
      score_row(row, scores.data());
      const int64_t width = target.pattern ? target.pattern->of : cols;
      const int64_t prune = target.pattern ? target.pattern->of - target.pattern->keep
                                           : PrunedCount(cols, target.sparsity);
      for (int64_t j = 0; j < cols; j += width) {
        SelectSmallest(scores.data() + j, width, prune, mask.data() + j, &scratch);
      }
      ZeroPruned(mask.data(), row * cols, cols, layer);
    }
  });
  return OkStatus();
}

}  // namespace harrow
