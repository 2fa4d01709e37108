// Attention as its definition says, in double, on any cache: what every kernel is compared with.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention_kernel.h"

namespace harrow::ref {

void Attend(const AttentionTile& tile, int64_t, int64_t, float*, float*) noexcept {
  const KvLayout& layout = tile.problem->kv.layout;
  std::vector<double> weights(static_cast<size_t>(tile.count * kKvBlockTokens));
  std::vector<double> output(static_cast<size_t>(layout.head_dim));
  for (int64_t row = 0; row < tile.rows(); ++row) {
    const float* q = tile.query(row);
    const int64_t keys = (tile.count - 1) * kKvBlockTokens + tile.last_keys(row);
    double highest = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < keys; ++i) {
      const std::byte* block = tile.problem->kv.block(tile.kv_head, tile.block(i / kKvBlockTokens));
      double score = 0;
      for (int64_t d = 0; d < layout.head_dim; ++d)
        score += static_cast<double>(q[d]) * KvKey(layout, block, i % kKvBlockTokens, d);
      score *= tile.problem->scale;
      weights[static_cast<size_t>(i)] = score;
      highest = std::max(highest, score);
    }
    double sum = 0;
    std::fill(output.begin(), output.end(), 0.0);
    for (int64_t i = 0; i < keys; ++i) {
      const std::byte* block = tile.problem->kv.block(tile.kv_head, tile.block(i / kKvBlockTokens));
      const double weight = std::exp(weights[static_cast<size_t>(i)] - highest);
      sum += weight;
      for (int64_t d = 0; d < layout.head_dim; ++d)
        output[static_cast<size_t>(d)] += weight * KvValue(layout, block, i % kKvBlockTokens, d);
    }
    for (int64_t d = 0; d < layout.head_dim; ++d)
      tile.out(row)[d] = static_cast<float>(output[static_cast<size_t>(d)] / sum);
  }
}

}  // namespace harrow::ref
