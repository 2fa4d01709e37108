// Speed of linear(): every format against dense of the same precision and against the memory roof,
// measured in turn (measure.h), on the cases of kernels/testing.h.
//
//   linear_bench [--threads=2] [--stack_mb=512] [--rounds=7] [--mapped=0] [Google Benchmark flags]
//
// Names are format/density/rows x cols/M. Counters: us (median of one product), GB/s (weight
// bytes), roof (of plain reading, measured in turn), x_dense (dense of the same precision / this;
// medians), GFLOP/s (as if dense), and where the benchmark was built with oneDNN: onednn_us (its
// bf16, for quantized weights its u8 x s8 product; onednn_gemm.h), x_best (the faster of the two
// dense products / this) and rows_us (oneDNN from row-major weights, M >= 64). Weights come from a
// stack of copies larger than any cache, in huge pages where there are any; with --mapped=1 from a
// mapped file.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "advise/linear_timing.h"
#include "base/mapped_file.h"
#include "base/statistics.h"
#include "kernels/testing.h"
#include "measure.h"
#include "onednn_gemm.h"

namespace harrow {
namespace {

using bench::Least;
using testing::LinearCase;

// With --mapped=1 the stack lies in a mapped file, as the weights of a loaded model.
void MoveToFile(WeightStack* stack) {
  const std::string path = "linear_bench.tmp";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(stack->bytes().data()),
             static_cast<std::streamsize>(stack->bytes().size()));
  stack->MoveTo(MappedFile::Open(path).value());
  std::filesystem::remove(path);
}

std::shared_ptr<WeightStack> CachedStack(LinearCase c, int64_t bytes) {
  c.m = 0;  // any
  const std::string key = testing::CaseName(c) + "/" + std::to_string(bytes);
  // The last few; consecutive cases share them.
  static std::vector<std::pair<std::string, std::shared_ptr<WeightStack>>> cache;
  for (const auto& [cached, stack] : cache) {
    if (cached == key) return stack;
  }
  if (cache.size() >= 2) cache.erase(cache.begin());
  auto stack = std::make_shared<WeightStack>(
      WeightStack::Make(c.spec, c.rows, c.cols, c.density, static_cast<uint64_t>(bytes)).value());
  if (bench::g_flags.mapped) MoveToFile(stack.get());
  cache.emplace_back(key, stack);
  return stack;
}

void Run(benchmark::State& state, const LinearCase& c) {
  // Where arithmetic is the limit a smaller stack gives the same answer sooner.
  const int64_t bytes = c.m >= 64 ? bench::g_flags.stack_bytes / 16 : bench::g_flags.stack_bytes;
  const bool quantized = IsQuantized(c.spec.values);
  LinearCase dense_case = c;
  dense_case.density = 1;
  dense_case.spec = {quantized ? FormatId::kDensePanel : FormatId::kDense, c.spec.values,
                     c.spec.group};
  const std::shared_ptr<WeightStack> dense = CachedStack(dense_case, bytes);
  const std::shared_ptr<WeightStack> stack = CachedStack(c, bytes);
  const double bytes_each = static_cast<double>(stack->weight().data.size());
  ProductTimer timer(&bench::Pool(), c.m, c.rows, c.cols);
  std::unique_ptr<OneDnnGemm> onednn;
  if (c.spec.values == ValueType::kBf16 || quantized)
    onednn = NewOneDnnGemm(quantized, c.m, c.rows, c.cols, bytes, bench::g_flags.threads);
  std::vector<double> mine;
  std::vector<double> onednn_times;
  std::vector<double> rows_times;
  std::vector<double> dense_times;
  std::vector<double> read_rates;
  std::vector<double> roofs;
  for (auto _ : state) {
    for (int round = 0; round < bench::g_flags.rounds; ++round) {
      const double seconds = timer.Product(stack.get(), stack->size());
      const double rate = bench::Roof().ProbeGbps(static_cast<uint64_t>(stack->size()) *
                                                  stack->weight().data.size());
      mine.push_back(seconds);
      read_rates.push_back(rate);
      roofs.push_back(bytes_each / seconds * 1e-9 / rate);
      if (stack != dense) dense_times.push_back(timer.Product(dense.get(), dense->size()));
      if (onednn != nullptr) {
        onednn_times.push_back(onednn->Seconds());
        if (c.m >= 64 && c.density == 1) rows_times.push_back(onednn->SecondsFromRows());
      }
    }
    state.SetIterationTime(Median(mine));
  }
  const double seconds = Median(mine);
  const double flops = 2.0 * static_cast<double>(c.m * c.rows * c.cols);
  state.counters["us"] = seconds * 1e6;
  state.counters["GB/s"] = bytes_each / seconds * 1e-9;
  state.counters["read_GB/s"] = Median(read_rates);
  state.counters["roof"] = Median(roofs);
  state.counters["GFLOP/s"] = flops / seconds * 1e-9;
  state.counters["x_dense"] = dense_times.empty() ? 1.0 : Median(dense_times) / seconds;
  // The same from the best rounds alone: what a machine shared with other work can still tell.
  state.counters["us_min"] = Least(mine) * 1e6;
  state.counters["x_dense_min"] = dense_times.empty() ? 1.0 : Least(dense_times) / Least(mine);
  state.counters["roof_min"] =
      bytes_each / Least(mine) * 1e-9 / *std::max_element(read_rates.begin(), read_rates.end());
  if (onednn != nullptr) {
    const double opponent = Median(onednn_times);
    state.counters["onednn_us"] = opponent * 1e6;
    state.counters["x_best"] =
        std::min(opponent, dense_times.empty() ? seconds : Median(dense_times)) / seconds;
    if (!rows_times.empty()) state.counters["rows_us"] = Median(rows_times) * 1e6;
  }
  state.SetLabel(std::string(LinearKernelName(stack->weight(), c.m)));
}

void RegisterAll() {
  for (const WeightSpec& spec : testing::AllSpecs()) {
    for (const LinearCase& c : testing::TimedCases(spec))
      bench::Register(testing::CaseName(c), [c](benchmark::State& state) { Run(state, c); });
  }
}

}  // namespace
}  // namespace harrow

int main(int argc, char** argv) {
  return harrow::bench::Main(argc, argv, harrow::RegisterAll);
}
