#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "kernels/attention_kernel.h"
#include "kernels/cpu/nonlinear.h"

namespace harrow {
namespace {

// The entries of one tier.
#define HARROW_TIER(tier, isa)                                                             \
  {"attention.f32." #tier, isa, KvType::kF32, tier::AttendF32, tier::MergeSpans},          \
      {"attention.bf16." #tier, isa, KvType::kBf16, tier::AttendBf16, tier::MergeSpans}, { \
    "attention.int8." #tier, isa, KvType::kI8, tier::AttendI8, tier::MergeSpans            \
  }

// Fastest first.
constexpr AttentionKernel kAttention[] = {
#if defined(__x86_64__)
    HARROW_TIER(avx512bf16, Isa::kAvx512Bf16),
    HARROW_TIER(avx512, Isa::kAvx512),
    HARROW_TIER(avx2, Isa::kAvx2),
#endif
    {"attention.f32.ref", Isa::kScalar, KvType::kF32, ref::Attend},
    {"attention.bf16.ref", Isa::kScalar, KvType::kBf16, ref::Attend},
    {"attention.int8.ref", Isa::kScalar, KvType::kI8, ref::Attend},
};

const AttentionKernel& ChooseKernel(KvType type) {
  const auto* kernel = std::find_if(std::begin(kAttention), std::end(kAttention),
                                    [type](const AttentionKernel& entry) {
                                      return entry.type == type && entry.needs <= ActiveIsa();
                                    });
  HARROW_CHECK(kernel != std::end(kAttention));
  return *kernel;
}

// Tokens of a tile: a power of two, so that tiles that start at its multiples stay in one block.
int64_t TileTokens(int64_t group) {
  int64_t tokens = kKvBlockTokens;
  while (tokens > 1 && tokens * group > kTileRows)
    tokens /= 2;
  return tokens;
}

std::vector<AttentionTile> CutTiles(const AttentionProblem& p) {
  const int64_t tokens = TileTokens(p.heads / p.kv_heads);
  const int64_t query_blocks = (p.start + p.m - 1) / kKvBlockTokens - p.start / kKvBlockTokens + 1;
  std::vector<AttentionTile> tiles;
  for (int64_t begin = 0; begin < p.m;) {
    const int64_t position = p.start + begin;
    const int64_t end = std::min(p.m, begin + tokens - position % tokens);
    const int64_t block = position / kKvBlockTokens;
    for (int32_t head = 0; head < p.kv_heads; ++head) {
      AttentionTile tile = {&p, head, begin, end, nullptr, block + 1};
      if (p.visit != nullptr) {
        const BlockList& list = p.visit[head * query_blocks + block - p.start / kKvBlockTokens];
        HARROW_CHECK(list.count > 0 && list.blocks[list.count - 1] == block);
        tile.visit = list.blocks;
        tile.count = list.count;
      }
      tiles.push_back(tile);
    }
    begin = end;
  }
  return tiles;
}

float* ThreadScratch(const AttentionTile& tile) {
  thread_local AlignedArray<float> memory;
  return memory.Reserve(
      static_cast<uint64_t>(AttentionScratch::Floats(tile.rows(), tile.problem->kv.layout)));
}

// Floats of the states of all spans.
int64_t StateFloats(const AttentionTile& tile) {
  return tile.spans() * AttentionState::Floats(tile.rows(), tile.problem->kv.layout.padded_dim);
}

// All threads share every tile, span by span; whoever ends a tile's last span merges them.
void AttendSpans(const AttentionKernel& kernel, std::span<const AttentionTile> tiles,
                 ThreadPool* pool) {
  struct Span {
    size_t tile;
    int64_t span;
  };
  std::vector<Span> spans;
  std::vector<int64_t> states_at;
  std::deque<std::atomic<int64_t>> left;
  int64_t floats = 0;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const AttentionTile& tile = tiles[i];
    states_at.push_back(floats);
    left.emplace_back(tile.spans());
    floats += StateFloats(tile);
    for (int64_t span = 0; span < tile.spans(); ++span)
      spans.push_back({i, span});
  }
  thread_local AlignedArray<float> memory;
  float* states = memory.Reserve(static_cast<uint64_t>(floats));
  // Runs of neighbouring spans, so that a thread reads one stream, but several for each thread, so
  // that they end together.
  constexpr int64_t kRunsPerThread = 8;
  const int64_t count = static_cast<int64_t>(spans.size());
  pool->ParallelFor(count, std::max<int64_t>(1, count / (pool->size() * kRunsPerThread)),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) {
                        const Span& span = spans[static_cast<size_t>(i)];
                        const AttentionTile& tile = tiles[span.tile];
                        float* at = states + states_at[span.tile];
                        kernel.attend(tile, span.span, span.span + 1, ThreadScratch(tile), at);
                        if (left[span.tile].fetch_sub(1, std::memory_order_acq_rel) == 1)
                          kernel.merge(tile, at);
                      }
                    });
}

}  // namespace

void Attention(const AttentionProblem& problem, ThreadPool* pool) {
  if (problem.m == 0) return;
  HARROW_CHECK(problem.kv_heads > 0 && problem.heads % problem.kv_heads == 0);
  const AttentionKernel& kernel = ChooseKernel(problem.kv.layout.type);
  const std::vector<AttentionTile> tiles = CutTiles(problem);
  const int64_t count = static_cast<int64_t>(tiles.size());
  // With several tiles for each thread there is nothing to gain from cutting them up.
  constexpr int64_t kTilesPerThread = 16;
  if (pool->size() > 1 && count < kTilesPerThread * pool->size() && kernel.merge != nullptr &&
      tiles.back().spans() > 1) {
    // As many tiles at a time as keep their states in a megabyte a thread, and at least one.
    const int64_t most = (int64_t{1} << 20) / static_cast<int64_t>(sizeof(float)) * pool->size();
    for (size_t begin = 0, end = 0; begin < tiles.size(); begin = end) {
      int64_t floats = 0;
      do {
        floats += StateFloats(tiles[end++]);
      } while (end < tiles.size() && floats + StateFloats(tiles[end]) <= most);
      AttendSpans(kernel, std::span(tiles).subspan(begin, end - begin), pool);
    }
    return;
  }
  pool->ParallelFor(count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      // The last tiles see the most keys: start them first, so that threads end together.
      const AttentionTile& tile = tiles[static_cast<size_t>(count - 1 - i)];
      kernel.attend(tile, 0, tile.spans(), ThreadScratch(tile), nullptr);
    }
  });
}

std::string_view AttentionKernelName(KvType type) {
  return ChooseKernel(type).name;
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
