// What one fork-join of the thread pool costs, by the serial gap before it.
//
//   pool_bench [--threads=2] [Google Benchmark flags]
//
// Rows: gap in microseconds that the owner works alone before each fork-join (0: one after the
// other). Counters, in microseconds: join (median of an empty Run(), all threads back), p99, start
// (median until the last thread is in the task), and cpu, the CPU time of the whole process over
// the wall time: what the spinning costs.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "measure.h"

namespace harrow {
namespace {

double Microseconds() {
  return bench::Seconds() * 1e6;
}

double CpuMicroseconds() {
  timespec t;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

double Quantile(std::vector<double>* values, double q) {
  const auto at = values->begin() + static_cast<int64_t>(q * static_cast<double>(values->size()));
  std::nth_element(values->begin(), at, values->end());
  return *at;
}

void ForkJoin(benchmark::State& state, double gap) {
  ThreadPool& pool = bench::Pool();
  const int rounds = gap >= 1000 ? 200 : 4000;
  std::vector<double> joins;
  std::vector<double> starts;
  std::vector<double> entered(static_cast<size_t>(pool.size()) * 8);  // a cache line each
  double wall = 0;
  double cpu = 0;
  for (auto _ : state) {
    const double wall_begin = Microseconds();
    const double cpu_begin = CpuMicroseconds();
    for (int i = 0; i < rounds; ++i) {
      double begin = Microseconds();
      for (const double until = begin + gap; begin < until;)
        begin = Microseconds();
      pool.Run([&](int thread) { entered[static_cast<size_t>(thread) * 8] = Microseconds(); });
      joins.push_back(Microseconds() - begin);
      double last = 0;
      for (int t = 0; t < pool.size(); ++t)
        last = std::max(last, entered[static_cast<size_t>(t) * 8]);
      starts.push_back(last - begin);
    }
    wall += Microseconds() - wall_begin;
    cpu += CpuMicroseconds() - cpu_begin;
    state.SetIterationTime(wall * 1e-6 / rounds);
  }
  state.counters["join"] = Quantile(&joins, 0.5);
  state.counters["p99"] = Quantile(&joins, 0.99);
  state.counters["start"] = Quantile(&starts, 0.5);
  state.counters["cpu"] = cpu / wall;
}

void RegisterAll() {
  for (const int gap : {0, 1, 3, 10, 30, 100, 300, 1000}) {
    bench::Register("gap_us:" + std::to_string(gap),
                    [gap](benchmark::State& state) { ForkJoin(state, gap); });
  }
}

}  // namespace
}  // namespace harrow

int main(int argc, char** argv) {
  return harrow::bench::Main(argc, argv, harrow::RegisterAll);
}
