// Speed of Attention(): decode against the memory roof, prefill against the BF16 peak, both also
// with blocks left out.
//
//   attention_bench [--threads=2] [--stack_mb=512] [--rounds=7] [Google Benchmark flags]
//
// Names are decode/cache type/head_dim/query heads a KV head/tokens/percent of blocks skipped.
// Counters: us (median of one layer of 8 KV heads), GB/s (bytes of visited blocks), roof (of plain
// reading, measured in turn: measure.h); with skipped blocks x_all (visiting all / this). Layers
// come from a stack larger than any cache. Prefill has 2 KV heads and counts 4 * head_dim
// operations a query and key: GFLOP/s of those that causality asks for, executed of all in visited
// blocks, peak = executed / a loop of BF16 dot products on registers (kernels/rate_probe.h).
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/rng.h"
#include "base/statistics.h"
#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/isa.h"
#include "kernels/rate_probe.h"
#include "kernels/testing.h"
#include "measure.h"

namespace harrow {
namespace {

using bench::g_flags;
using bench::Pool;

// BF16 operations per second of all threads; 0 where no unit of this machine has any.
double Bf16Peak() {
  constexpr int64_t kIterations = 1'000'000;
  for (const RateProbe& probe : RateProbes()) {
    if (probe.unit != "dot" || probe.precision != "bf16" || probe.isa > ActiveIsa()) continue;
    const double begin = bench::Seconds();
    Pool().Run([&](int) { probe.run(kIterations); });
    return probe.flops * kIterations * g_flags.threads / (bench::Seconds() - begin);
  }
  return 0;
}

struct Case {
  bool prefill;
  KvType type;
  int32_t head_dim;
  int32_t group;
  int64_t tokens;
  int skip;  // percent
  int32_t kv_heads() const { return prefill ? 2 : 8; }
};

// Layers of caches of `tokens` positions, one behind the other; each has lists of visited blocks of
// its own.
class Layers {
 public:
  Layers(const Case& c, int64_t bytes) : case_(c), layout_(c.type, c.head_dim) {
    const int64_t blocks = c.tokens / kKvBlockTokens;
    const int64_t of_layer = blocks * c.kv_heads();
    count_ = c.prefill ? 1 : std::max<int64_t>(1, bytes / (of_layer * layout_.block_bytes));
    memory_ =
        AlignedArray<std::byte>(static_cast<uint64_t>(count_ * of_layer * layout_.block_bytes));
    for (int64_t i = 0; i < count_ * of_layer; ++i)
      table_.push_back(memory_.data() + i * layout_.block_bytes);
    // Some blocks of random numbers, again and again.
    const int64_t some = std::min<int64_t>(16, count_ * of_layer);
    Rng rng(1);
    const std::vector<float> x = testing::RandomX(some * kKvBlockTokens * c.head_dim, &rng);
    AppendKv({layout_, table_.data(), some}, 1, 0, some * kKvBlockTokens, x.data(), x.data(),
             &Pool());
    for (int64_t i = some; i < count_ * of_layer; ++i) {
      std::memcpy(table_[static_cast<size_t>(i)], table_[static_cast<size_t>(i % some)],
                  static_cast<size_t>(layout_.block_bytes));
    }
    const int64_t queries = c.prefill ? c.tokens : 1;
    q_ = testing::RandomX(queries * c.kv_heads() * c.group * c.head_dim, &rng);
    out_.resize(q_.size());
  }

  int64_t count() const { return count_; }
  uint64_t memory_bytes() const { return memory_.size(); }

  // Leaves blocks out at random, but never a query's own. Returns blocks visited by all layers,
  // each as often as there are query blocks that do.
  int64_t Skip(int percent) {
    Rng rng(2);
    lists_.clear();
    visit_.clear();
    const int64_t last = case_.tokens / kKvBlockTokens - 1;
    const int64_t first = case_.prefill ? 0 : last;
    int64_t visited = 0;
    for (int64_t i = 0; i < count_ * case_.kv_heads(); ++i) {
      for (int64_t own = first; own <= last; ++own) {
        std::vector<int32_t> list;
        for (int64_t b = 0; b <= own; ++b) {
          if (b == own || rng.Uniform() * 100 >= percent) list.push_back(static_cast<int32_t>(b));
        }
        visited += static_cast<int64_t>(list.size());
        lists_.push_back(std::move(list));
      }
    }
    for (const std::vector<int32_t>& list : lists_)
      visit_.push_back({list.data(), static_cast<int64_t>(list.size())});
    return visited;
  }

  // Seconds of one layer.
  double Time() {
    const int64_t blocks = case_.tokens / kKvBlockTokens;
    const int64_t lists = static_cast<int64_t>(visit_.size()) / count_;
    const double begin = bench::Seconds();
    for (int64_t layer = 0; layer < count_; ++layer) {
      AttentionProblem p;
      p.q = q_.data();
      p.kv = {layout_, table_.data() + layer * blocks * case_.kv_heads(), blocks};
      p.out = out_.data();
      p.m = case_.prefill ? case_.tokens : 1;
      p.start = case_.tokens - p.m;
      p.heads = case_.kv_heads() * case_.group;
      p.kv_heads = case_.kv_heads();
      p.scale = 0.1f;
      if (!visit_.empty()) p.visit = visit_.data() + layer * lists;
      Attention(p, &Pool());
    }
    return (bench::Seconds() - begin) / static_cast<double>(count_);
  }

  int64_t block_bytes() const { return layout_.block_bytes; }

 private:
  Case case_;
  KvLayout layout_;
  int64_t count_;
  AlignedArray<std::byte> memory_;
  std::vector<std::byte*> table_;
  std::vector<float> q_, out_;
  std::vector<std::vector<int32_t>> lists_;
  std::vector<BlockList> visit_;
};

void Run(benchmark::State& state, const Case& c) {
  Layers some(c, g_flags.stack_bytes);
  std::unique_ptr<Layers> all;
  const int64_t visited = some.Skip(c.skip);
  if (c.skip > 0) all = std::make_unique<Layers>(c, g_flags.stack_bytes);
  std::vector<double> mine, whole, rates, roofs, peaks;
  const double bytes =
      static_cast<double>(visited * some.block_bytes()) / static_cast<double>(some.count());
  const double per_pair = 4.0 * c.head_dim * c.group;
  const double executed = static_cast<double>(visited) * kKvBlockTokens * kKvBlockTokens * per_pair;
  const double diagonal = static_cast<double>(c.tokens) * c.kv_heads();
  const double causal = executed - diagonal * (kKvBlockTokens - 1) / 2 * per_pair;
  for (auto _ : state) {
    some.Time();
    for (int round = 0; round < g_flags.rounds; ++round) {
      mine.push_back(some.Time());
      if (c.prefill) {
        peaks.push_back(executed / mine.back() / Bf16Peak());
      } else {
        rates.push_back(bench::Roof().ProbeGbps(some.memory_bytes()));
        roofs.push_back(bytes / mine.back() * 1e-9 / rates.back());
      }
      if (all != nullptr) whole.push_back(all->Time());
    }
    state.SetIterationTime(Median(mine));
  }
  const double seconds = Median(mine);
  state.counters["us"] = seconds * 1e6;
  state.counters["us_min"] = bench::Least(mine) * 1e6;
  if (c.prefill) {
    state.counters["GFLOP/s"] = causal / seconds * 1e-9;
    state.counters["executed"] = executed / seconds * 1e-9;
    state.counters["peak"] = Median(peaks);
  } else {
    state.counters["GB/s"] = bytes / seconds * 1e-9;
    state.counters["read_GB/s"] = Median(rates);
    state.counters["roof"] = Median(roofs);
  }
  if (!whole.empty()) state.counters["x_all"] = Median(whole) / seconds;
  state.SetLabel(std::string(AttentionKernelName(c.type)));
}

void Register(const Case& c) {
  const std::string name = std::string(c.prefill ? "prefill/" : "decode/") +
                           std::string(KvTypeName(c.type)) + "/d" + std::to_string(c.head_dim) +
                           "/G" + std::to_string(c.group) + "/" + std::to_string(c.tokens >> 10) +
                           "k/skip" + std::to_string(c.skip);
  bench::Register(name, [c](benchmark::State& state) { Run(state, c); });
}

void RegisterAll() {
  for (const KvType type : testing::kKvTypes) {
    for (const auto& [head_dim, group] : testing::kHeadShapes) {
      for (const int64_t tokens : {4096, 16384, 32768})
        Register({false, type, head_dim, group, tokens, 0});
      for (const int skip : {50, 80})
        Register({false, type, head_dim, group, 32768, skip});
      for (const int skip : {0, 50, 80})
        Register({true, type, head_dim, group, 4096, skip});
    }
  }
}

}  // namespace
}  // namespace harrow

int main(int argc, char** argv) {
  return harrow::bench::Main(argc, argv, harrow::RegisterAll);
}
