// What the kernel benchmarks share: flags, the thread pool, the roof beside a measurement, rows.
//
// A row is measured in rounds. In each, all that it compares and a probe of the memory roof run one
// after the other, with all threads, so that a slow spell of the machine hits all alike. That is as
// concurrent as a probe may be: one that read memory while a kernel runs would take from it the
// very bandwidth that it is held against.
#ifndef HARROW_BENCH_MEASURE_H_
#define HARROW_BENCH_MEASURE_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/memory_roof.h"

namespace harrow::bench {

inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

// The flags of our own; the others are Google Benchmark's.
struct Flags {
  int threads = 2;
  int64_t stack_bytes = int64_t{512} << 20;  // more than any cache holds
  int rounds = 7;
  bool mapped = false;  // weights from a mapped file; linear_bench
};
inline Flags g_flags;

inline ThreadPool& Pool() {
  static ThreadPool pool(g_flags.threads);
  return pool;
}

inline MemoryRoof& Roof() {
  static MemoryRoof roof(&Pool());
  return roof;
}

// A row that `run` times itself, in one iteration.
template <class Run>
void Register(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), run)
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

// Takes --threads=, --stack_mb=, --rounds= and --mapped=, has `register_all` name the rows and runs
// those that the other flags ask for. Returns main's.
inline int Main(int argc, char** argv, void (*register_all)()) {
  std::vector<char*> rest;
  const auto take = [](const char* argument, const char* name, int64_t* value) {
    const size_t length = std::strlen(name);
    if (std::strncmp(argument, name, length) != 0) return false;
    *value = std::max<int64_t>(0, std::atoll(argument + length));
    return true;
  };
  int64_t threads = g_flags.threads, stack_mb = g_flags.stack_bytes >> 20, rounds = g_flags.rounds;
  int64_t mapped = 0;
  for (int i = 0; i < argc; ++i) {
    if (!take(argv[i], "--threads=", &threads) && !take(argv[i], "--stack_mb=", &stack_mb) &&
        !take(argv[i], "--rounds=", &rounds) && !take(argv[i], "--mapped=", &mapped)) {
      rest.push_back(argv[i]);
    }
  }
  g_flags.threads = static_cast<int>(std::max<int64_t>(1, threads));
  g_flags.stack_bytes = std::max<int64_t>(1, stack_mb) << 20;
  g_flags.rounds = static_cast<int>(std::max<int64_t>(1, rounds));
  g_flags.mapped = mapped != 0;
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 1;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace harrow::bench

#endif  // HARROW_BENCH_MEASURE_H_
