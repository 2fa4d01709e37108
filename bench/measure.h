// What the kernel benchmarks share: clocks, robust statistics, the roof beside a measurement,
// flags.
#ifndef HARROW_BENCH_MEASURE_H_
#define HARROW_BENCH_MEASURE_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/read_stream.h"

namespace harrow::bench {

inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Reads all of `memory` once, each thread its own part; bytes per second.
inline double ReadRate(ThreadPool* pool, std::span<const std::byte> memory) {
  const size_t words = memory.size() / 8 / static_cast<size_t>(pool->size());
  const auto* first = reinterpret_cast<const uint64_t*>(memory.data());
  const double begin = Seconds();
  pool->Run([&](int thread) {
    benchmark::DoNotOptimize(ReadStream({first + words * static_cast<size_t>(thread), words}));
  });
  return static_cast<double>(memory.size()) / (Seconds() - begin);
}

// The flags of our own; the others are Google Benchmark's.
struct Flags {
  int threads = 2;
  int64_t stack_bytes = int64_t{512} << 20;  // more than any cache holds
  int rounds = 7;
  bool mapped = false;  // weights from a mapped file; linear_bench
};

// Takes --threads=, --stack_mb=, --rounds= and --mapped=, and hands on the rest; false on an
// unknown flag.
inline bool Initialize(int argc, char** argv, Flags* flags) {
  std::vector<char*> rest;
  const auto take = [](const char* argument, const char* name, int64_t* value) {
    const size_t length = std::strlen(name);
    if (std::strncmp(argument, name, length) != 0) return false;
    *value = std::max<int64_t>(0, std::atoll(argument + length));
    return true;
  };
  int64_t threads = flags->threads, stack_mb = flags->stack_bytes >> 20, rounds = flags->rounds;
  int64_t mapped = 0;
  for (int i = 0; i < argc; ++i) {
    if (!take(argv[i], "--threads=", &threads) && !take(argv[i], "--stack_mb=", &stack_mb) &&
        !take(argv[i], "--rounds=", &rounds) && !take(argv[i], "--mapped=", &mapped)) {
      rest.push_back(argv[i]);
    }
  }
  flags->threads = static_cast<int>(std::max<int64_t>(1, threads));
  flags->stack_bytes = std::max<int64_t>(1, stack_mb) << 20;
  flags->rounds = static_cast<int>(std::max<int64_t>(1, rounds));
  flags->mapped = mapped != 0;
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  return !benchmark::ReportUnrecognizedArguments(count, rest.data());
}

}  // namespace harrow::bench

#endif  // HARROW_BENCH_MEASURE_H_
