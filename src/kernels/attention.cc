#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "base/check.h"
#include "kernels/cpu/nonlinear.h"

namespace harrow {

void Attention(const AttentionProblem& problem, ThreadPool* pool) {
  if (problem.m == 0) return;
  HARROW_CHECK(problem.kv_heads > 0 && problem.heads % problem.kv_heads == 0);
  HARROW_CHECK(problem.start + problem.m <= problem.capacity);
  const NonlinearKernels& kernels = ActiveNonlinear();
  const int64_t group = problem.heads / problem.kv_heads;
  const int64_t tile = std::max<int64_t>(1, kMaxQueryRows / group);
  const int64_t tiles = (problem.m + tile - 1) / tile;
  const int64_t rows = std::min(tile, problem.m) * group;
  const int64_t dim = PadToLanes(problem.head_dim);
  pool->ParallelFor(tiles * problem.kv_heads, 1, [&](int64_t first, int64_t last) {
    thread_local AlignedArray<float> memory;
    const AttentionScratch scratch(
        memory.Reserve(static_cast<uint64_t>(AttentionScratch::Floats(rows, dim))), rows, dim);
    for (int64_t task = first; task < last; ++task) {
      // The last tiles see the most keys: start them first, so that threads end together.
      const int64_t begin = (tiles - 1 - task / problem.kv_heads) * tile;
      kernels.attention_tile(problem, static_cast<int32_t>(task % problem.kv_heads), begin,
                             std::min(begin + tile, problem.m), scratch);
    }
  });
}

void RopeAngles(int64_t m, int64_t start, const float* inv_freq, int32_t half,
                float attention_scaling, float* cosines, float* sines) {
  for (int64_t token = 0; token < m; ++token) {
    for (int32_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(start + token) * inv_freq[i];
      cosines[token * half + i] = static_cast<float>(std::cos(angle) * attention_scaling);
      sines[token * half + i] = static_cast<float>(std::sin(angle) * attention_scaling);
    }
  }
}

void ApplyRope(float* x, int64_t m, int32_t heads, int32_t head_dim, const float* cosines,
               const float* sines) {
  ActiveNonlinear().rope(x, m, heads, head_dim, cosines, sines);
}

}  // namespace harrow
