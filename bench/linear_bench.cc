// Speed of linear(): every format against dense of the same precision and against the memory roof,
// measured in turn within one run so that a slow spell of the machine hits all three alike.
//
//   linear_bench [--threads=2] [--stack_mb=512] [--rounds=7] [--mapped=0] [Google Benchmark flags]
//
// Names are format/density/rows x cols/M. Counters: us (median of one product), GB/s (weight
// bytes), roof (of plain reading, measured in turn), x_dense (dense of the same precision / this;
// medians), GFLOP/s (as if dense), and where the benchmark was built with oneDNN: onednn_us (its
// bf16, for quantized weights its u8 x s8 product; onednn_gemm.h), x_best (the faster of the two
// dense products / this) and rows_us (oneDNN from row-major weights, M >= 64). Weights come from a
// stack of copies larger than any cache, in huge pages where there are any; with --mapped=1 from a
// mapped file, as those of a loaded model.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "formats/testing.h"
#include "kernels/linear.h"
#include "measure.h"
#include "onednn_gemm.h"

namespace harrow {
namespace {

bench::Flags g_flags;

ThreadPool& Pool() {
  static ThreadPool pool(g_flags.threads);
  return pool;
}

// Copies of one packed weight, one after the other, that together exceed the caches.
struct Stack {
  AlignedArray<std::byte> memory;
  std::shared_ptr<const MappedFile> file;  // with --mapped, instead
  std::span<const std::byte> bytes;
  std::vector<LinearWeight> copies;

  Stack(const WeightSpec& spec, int64_t rows, int64_t cols, double density, int64_t stack_bytes) {
    Rng rng(1);
    const std::vector<float> w = testing::RandomWeight(spec, rows, cols, density, &rng);
    const LinearWeight weight = PackWeight(spec, rows, cols, w.data()).value();
    const size_t stride = (weight.data.size() + 63) / 64 * 64;
    const size_t count = std::max<size_t>(2, static_cast<size_t>(stack_bytes) / stride);
    memory = AlignedArray<std::byte>(count * stride);
    for (size_t i = 0; i < count; ++i)
      std::memcpy(memory.data() + i * stride, weight.data.data(), weight.data.size());
    bytes = memory.span();
    if (g_flags.mapped) {
      const std::string path = "linear_bench.tmp";
      std::ofstream(path, std::ios::binary)
          .write(reinterpret_cast<const char*>(memory.data()),
                 static_cast<std::streamsize>(memory.size()));
      file = MappedFile::Open(path).value();
      std::filesystem::remove(path);
      memory = {};
      bytes = file->bytes();
    }
    for (size_t i = 0; i < count; ++i) {
      LinearWeight copy = weight;
      copy.owner = nullptr;
      copy.data = bytes.subspan(i * stride, weight.data.size());
      copies.push_back(copy);
    }
  }
  double bytes_each() const { return static_cast<double>(copies[0].data.size()); }
};

// Seconds for one product, averaged over the stack.
double TimeStack(const Stack& stack, const std::vector<float>& x, int64_t m, std::vector<float>* y,
                 LinearScratch* scratch) {
  const double begin = bench::Seconds();
  for (const LinearWeight& weight : stack.copies) {
    const LinearOp op = {&weight, y->data(), weight.rows};
    Linear({&Pool(), scratch}, {&op, 1}, x.data(), weight.cols, m, weight.cols);
  }
  return (bench::Seconds() - begin) / static_cast<double>(stack.copies.size());
}

struct Case {
  std::string spec;
  double density;
  int64_t rows;
  int64_t cols;
  int64_t m;
};

std::shared_ptr<const Stack> CachedStack(const std::string& spec, double density, int64_t rows,
                                         int64_t cols, int64_t bytes) {
  struct Entry {
    std::string key;
    std::shared_ptr<const Stack> stack;
  };
  static std::vector<Entry> cache;  // the last few; consecutive cases share them
  const std::string key = spec + "/" + std::to_string(density) + "/" + std::to_string(rows) + "x" +
                          std::to_string(cols) + "/" + std::to_string(bytes);
  for (const Entry& entry : cache) {
    if (entry.key == key) return entry.stack;
  }
  if (cache.size() >= 2) cache.erase(cache.begin());
  cache.push_back(
      {key, std::make_shared<const Stack>(ParseSpec(spec).value(), rows, cols, density, bytes)});
  return cache.back().stack;
}

void Run(benchmark::State& state, const Case& c) {
  // Where arithmetic is the limit a smaller stack gives the same answer sooner.
  const int64_t bytes = c.m >= 64 ? g_flags.stack_bytes / 16 : g_flags.stack_bytes;
  const WeightSpec spec = ParseSpec(c.spec).value();
  WeightSpec dense_spec = {FormatId::kDense, ValueType::kBf16};
  if (IsQuantized(spec.values)) dense_spec = {FormatId::kDensePanel, spec.values, spec.group};
  const std::string dense_name = SpecName(dense_spec);
  const std::shared_ptr<const Stack> dense = CachedStack(dense_name, 1.0, c.rows, c.cols, bytes);
  const std::shared_ptr<const Stack> stack = CachedStack(c.spec, c.density, c.rows, c.cols, bytes);
  Rng rng(2);
  std::vector<float> x(static_cast<size_t>(c.m * c.cols));
  for (float& v : x)
    v = static_cast<float>(rng.Normal());
  std::vector<float> y(static_cast<size_t>(c.m * c.rows));
  const std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch(NewLinearScratch());
  std::unique_ptr<OneDnnGemm> onednn;
  if (spec.values == ValueType::kBf16 || IsQuantized(spec.values)) {
    onednn = NewOneDnnGemm(IsQuantized(spec.values), c.m, c.rows, c.cols, bytes, g_flags.threads);
  }
  std::vector<double> mine;
  std::vector<double> onednn_times;
  std::vector<double> rows_times;
  std::vector<double> dense_times;
  std::vector<double> read_rates;
  std::vector<double> roofs;
  for (auto _ : state) {
    for (int round = 0; round < g_flags.rounds; ++round) {
      const double seconds = TimeStack(*stack, x, c.m, &y, scratch.get());
      const double rate = bench::ReadRate(&Pool(), stack->bytes);
      mine.push_back(seconds);
      read_rates.push_back(rate);
      roofs.push_back(stack->bytes_each() / seconds / rate);
      if (stack != dense) dense_times.push_back(TimeStack(*dense, x, c.m, &y, scratch.get()));
      if (onednn != nullptr) {
        onednn_times.push_back(onednn->Seconds());
        if (c.m >= 64 && c.density == 1) rows_times.push_back(onednn->SecondsFromRows());
      }
    }
    state.SetIterationTime(bench::Median(mine));
  }
  const double seconds = bench::Median(mine);
  const double flops = 2.0 * static_cast<double>(c.m * c.rows * c.cols);
  state.counters["us"] = seconds * 1e6;
  state.counters["GB/s"] = stack->bytes_each() / seconds * 1e-9;
  state.counters["read_GB/s"] = bench::Median(read_rates) * 1e-9;
  state.counters["roof"] = bench::Median(roofs);
  state.counters["GFLOP/s"] = flops / seconds * 1e-9;
  state.counters["x_dense"] = dense_times.empty() ? 1.0 : bench::Median(dense_times) / seconds;
  // The same from the best rounds alone: what a machine shared with other work can still tell.
  state.counters["us_min"] = bench::Least(mine) * 1e6;
  state.counters["x_dense_min"] =
      dense_times.empty() ? 1.0 : bench::Least(dense_times) / bench::Least(mine);
  state.counters["roof_min"] = stack->bytes_each() / bench::Least(mine) /
                               *std::max_element(read_rates.begin(), read_rates.end());
  if (onednn != nullptr) {
    const double opponent = bench::Median(onednn_times);
    state.counters["onednn_us"] = opponent * 1e6;
    state.counters["x_best"] =
        std::min(opponent, dense_times.empty() ? seconds : bench::Median(dense_times)) / seconds;
    if (!rows_times.empty()) state.counters["rows_us"] = bench::Median(rows_times) * 1e6;
  }
  state.SetLabel(std::string(LinearKernelName(stack->copies[0], c.m)));
}

void Register(const std::string& spec, double density, int64_t rows, int64_t cols, int64_t m) {
  const Case c = {spec, density, rows, cols, m};
  const std::string name = spec + "/d" + std::to_string(static_cast<int>(density * 100)) + "/" +
                           std::to_string(rows) + "x" + std::to_string(cols) + "/M" +
                           std::to_string(m);
  benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& state) { Run(state, c); })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

// The linear layers of a 1.1 B LLaMA (hidden 2048, FFN 5632, 4 KV heads, vocabulary 32000).
void RegisterAll() {
  struct Format {
    const char* spec;
    double density;
  };
  const Format formats[] = {
      {"dense-bf16", 1},           {"bitmask-bf16", 0.5},      {"nm-bf16 2:4", 1},
      {"dense-i8/128", 1},         {"bitmask-i8/128", 0.5},    {"nm-i8/128 2:4", 1},
      {"bitmask-bf16", 0.3},       {"bitmask-i8/128", 0.3},    {"dense-i4/64", 1},
      {"dense-u4/64", 1},          {"bitmask-i4/64", 0.5},     {"bitmask-u4/64", 0.5},
      {"nm-i4/64 2:4", 1},         {"bitmask-i4/64", 0.3},     {"block-bf16 16x1", 0.5},
      {"block-bf16 16x1", 0.2},    {"block-bf16 16x16", 0.5},  {"block-bf16 16x16", 0.2},
      {"block-i8/128 16x1", 0.5},  {"block-i8/128 16x1", 0.2}, {"block-i8/128 16x16", 0.5},
      {"block-i8/128 16x16", 0.2}, {"bitmask-i8/128", 0.2},    {"bitmask-i8/128", 0.1},
      {"bitmask-i8/128", 0.05},    {"bitmask-bf16", 0.2},      {"bitmask-bf16", 0.1},
      {"bitmask-bf16", 0.05},      {"bitmask-bf16 1x4", 0.2},  {"bitmask-i8/128 1x4", 0.2},
      {"bitmask-i8/128 1x4", 0.5}, {"index-i8/128", 0.2},      {"index-i8/128", 0.1},
      {"index-i8/128", 0.05}};
  struct Layer {
    int64_t rows;
    int64_t cols;
  };
  const Layer layers[] = {{5632, 2048}, {2048, 2048}, {2048, 5632}, {256, 2048}, {32000, 2048}};
  for (const Format& f : formats) {
    for (const int64_t m : {1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 512})
      Register(f.spec, f.density, 5632, 2048, m);
    for (const Layer& l : layers) {
      if (l.rows != 5632) Register(f.spec, f.density, l.rows, l.cols, 1);
    }
  }
  for (const char* spec : {"dense-f32", "dense-f16"})
    Register(spec, 1, 5632, 2048, 1);
}

}  // namespace
}  // namespace harrow

int main(int argc, char** argv) {
  if (!harrow::bench::Initialize(argc, argv, &harrow::g_flags)) return 1;
  harrow::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
