// Arithmetic rates, bandwidths, hand-off cost.
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

#include "advise/linear_timing.h"
#include "advise/measure.h"
#include "base/machine.h"
#include "base/statistics.h"
#include "kernels/memory_roof.h"
#include "kernels/rate_probe.h"

namespace harrow {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSamples = 9;

double SecondsOf(const std::function<void()>& work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
}

// `units` over the seconds of each of kSamples runs, after one that does not count.
std::vector<double> RatesOf(double units, const std::function<void()>& work) {
  work();
  std::vector<double> rates;
  for (int i = 0; i < kSamples; ++i)
    rates.push_back(units / SecondsOf(work));
  return rates;
}

void MeasureArithmetic(ThreadPool* pool, std::vector<ArithmeticRate>* rates) {
  constexpr int64_t kIterations = 200'000;  // about 0.3 ms
  for (const RateProbe& probe : RateProbes()) {
    if (probe.isa > ActiveIsa()) continue;
    const std::vector<double> gflops =
        RatesOf(1e-9 * probe.flops * kIterations * pool->size(),
                [&] { pool->Run([&](int) { probe.run(kIterations); }); });
    rates->push_back({std::string(probe.unit), std::string(probe.precision),
                      std::string(IsaName(probe.isa)), pool->size(), Median(gflops),
                      QuartileSpread(gflops)});
  }
}

// What a dense kernel makes of it when weights come from cache and many tokens share them.
Status MeasureMatrix(ThreadPool* pool, MemoryRoof* roof, std::vector<ArithmeticRate>* rates) {
  constexpr int64_t kRows = 512, kCols = 1024, kTokens = 512;
  ProductTimer timer(pool, kTokens, kRows, kCols);
  for (const char* format : {"dense-f32", "dense-bf16", "dense-i8/128"}) {
    HARROW_ASSIGN_OR_RETURN(const WeightSpec spec, ParseSpec(format));
    HARROW_ASSIGN_OR_RETURN(WeightStack stack,
                            WeightStack::Make(spec, kRows, kCols, /*density=*/1, /*bytes=*/0));
    std::vector<Rival> rivals;
    for (const std::string& kernel : RivalKernels(spec))
      rivals.push_back({&stack, kernel, {}});
    TimeRivals(&timer, roof, {.seconds = 0.05}, &rivals);
    const auto best = std::min_element(
        rivals.begin(), rivals.end(),
        [](const Rival& a, const Rival& b) { return Median(a.seconds) < Median(b.seconds); });
    rates->push_back({"matrix", std::string(ValueTypeName(spec.values)),
                      std::string(IsaName(ActiveIsa())), pool->size(),
                      2e-9 * kRows * kCols * kTokens / Median(best->seconds),
                      QuartileSpread(best->seconds)});
  }
  return OkStatus();
}

void MeasureBandwidths(ThreadPool* pool, MemoryRoof* roof, std::vector<Bandwidth>* bandwidths) {
  const int64_t threads = pool->size();
  struct Level {
    const char* name;
    int64_t bytes;  // of a thread
  };
  const int64_t l2 = static_cast<int64_t>(CacheBytes(2));
  const int64_t l3_share = static_cast<int64_t>(CacheBytes(3)) / 4 / threads;
  const Level levels[] = {{"L1", static_cast<int64_t>(CacheBytes(1)) * 3 / 4},
                          {"L2", l2 / 2},
                          // Where a thread's share would fit its L2 there is nothing to see.
                          {"L3", l3_share > 2 * l2 ? l3_share : 0}};
  constexpr int64_t kBytesARun = int64_t{32} << 20;
  for (const Level& level : levels) {
    const int64_t bytes = level.bytes / 4096 * 4096;
    if (bytes == 0) continue;
    std::vector<AlignedArray<std::byte>> memory(static_cast<size_t>(threads));
    // By the thread that will read it: first touch.
    pool->Run([&](int index) {
      AlignedArray<std::byte> mine(static_cast<uint64_t>(bytes));
      std::fill(mine.begin(), mine.end(), std::byte{1});
      memory[static_cast<size_t>(index)] = std::move(mine);
    });
    const int64_t passes = std::max<int64_t>(1, kBytesARun / bytes);
    const std::vector<double> gbps =
        RatesOf(1e-9 * static_cast<double>(bytes * passes * threads), [&] {
          pool->Run([&](int index) {
            ReadLines(std::as_const(memory[static_cast<size_t>(index)]).span(), passes);
          });
        });
    bandwidths->push_back({level.name, bytes, pool->size(), Median(gbps), QuartileSpread(gbps)});
  }
  std::vector<double> gbps;
  for (int i = 0; i < kSamples; ++i)
    gbps.push_back(roof->ProbeGbps());
  bandwidths->push_back({"memory", static_cast<int64_t>(roof->bytes()) / threads, pool->size(),
                         Median(gbps), QuartileSpread(gbps)});
}

ForkJoin MeasureForkJoin(ThreadPool* pool) {
  constexpr int kRuns = 500;
  std::vector<double> us;
  for (int i = 0; i < 2 * kSamples; ++i) {
    us.push_back(SecondsOf([&] {
                   for (int run = 0; run < kRuns; ++run)
                     pool->Run([](int) {});
                 }) *
                 1e6 / kRuns);
  }
  return {pool->size(), Median(us), QuartileSpread(us)};
}

}  // namespace

Status MeasureRates(int threads, MachineProfile* profile, const RunControl* control) {
  for (int count = 1;; count = std::min(2 * count, threads)) {
    if (control != nullptr) {
      if (control->Cancelled()) return Status(StatusCode::kCancelled, "measurement interrupted");
      control->Progress("measuring rates: threads", count, threads);
    }
    ThreadPool pool(count);
    MemoryRoof roof(&pool);
    MeasureArithmetic(&pool, &profile->rates);
    HARROW_RETURN_IF_ERROR(MeasureMatrix(&pool, &roof, &profile->rates));
    MeasureBandwidths(&pool, &roof, &profile->bandwidths);
    profile->fork_joins.push_back(MeasureForkJoin(&pool));
    if (count == threads) return OkStatus();
  }
}

}  // namespace harrow
