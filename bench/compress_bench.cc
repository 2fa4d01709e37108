// What a pruner on one layer costs, and SparseGPT against the arithmetic that it cannot do without,
// at the float32 GEMM rate that OpenBLAS reaches here in the same run:
//   compress_bench [rows [cols [sequences [sequence_length [threads [method]]]]]]
//   (2048 5632 128 2048 2 sparsegpt)
// Inputs are random, the same in each sequence; how many iterations a method takes on them is not
// what it takes on a model's.
//
// Floor: Hessian tokens * cols^2 (half of a full product), factor and triangular inverse
// 2/3 cols^3, update rows * cols^2 (the lazy tail updates, half of a full product).
#include <cblas.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/rng.h"
#include "compress/blas.h"
#include "compress/methods/method.h"

namespace harrow {
namespace {

double Seconds(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// float32 operations a second of the best of three products of n^3, on OpenBLAS's own threads.
double GemmRate(int64_t n) {
  std::vector<float> a(static_cast<size_t>(n * n), 0.5f);
  std::vector<float> b(a);
  std::vector<float> c(a.size());
  const auto size = static_cast<blasint>(n);
  double best = 1e300;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, size, size, size, 1.0f, a.data(), size,
                b.data(), size, 0.0f, c.data(), size);
    if (i > 0) best = std::min(best, Seconds(start));
  }
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / best;
}

int Main(int argc, char** argv) {
  const auto argument = [&](int i, int64_t fallback) {
    return argc > i ? std::strtoll(argv[i], nullptr, 10) : fallback;
  };
  const int64_t rows = argument(1, 2048);
  const int64_t cols = argument(2, 5632);
  const int64_t sequences = argument(3, 128);
  const int64_t length = argument(4, 2048);
  ThreadPool pool(static_cast<int>(argument(5, 2)));
  openblas_set_num_threads(pool.size());
  const double rate = GemmRate(4096);
  const BlasThreads blas(&pool);

  Rng rng(1);
  std::vector<float> x(static_cast<size_t>(length * cols));
  for (float& value : x)
    value = static_cast<float>(rng.Normal());
  InputStatistics statistics(cols, StatisticsNeed::kHessian);
  auto start = std::chrono::steady_clock::now();
  for (int64_t s = 0; s < sequences; ++s) {
    if (const Status status = statistics.Add(x.data(), length); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
    statistics.EndSequence();
  }
  statistics.Finish();
  const double hessian = Seconds(start);

  const std::string name = argc > 6 ? argv[6] : "sparsegpt";
  const MethodInfo* const info = FindMethod(name);
  if (info == nullptr) {
    std::fprintf(stderr, "%s: no such method\n", name.c_str());
    return 1;
  }
  YAML::Node node;
  node["sparsity"] = 0.5;
  OptionReader options(node, "bench", "");
  const auto method = info->make(&options);
  if (const Status status = options.Finish(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }

  const bool has_floor = name == "sparsegpt";
  start = std::chrono::steady_clock::now();
  if (has_floor) {
    if (const auto factor = statistics.Factor(0.01, false); !factor.ok()) {
      std::fprintf(stderr, "%s\n", factor.status().ToString().c_str());
      return 1;
    }
  }
  const double factor = Seconds(start);

  LayerWork layer;
  layer.rows = rows;
  layer.cols = cols;
  layer.w.resize(static_cast<size_t>(rows * cols));
  for (float& value : layer.w)
    value = static_cast<float>(rng.Normal());
  layer.original = layer.w;
  layer.pruned.resize(layer.w.size());
  layer.statistics = &statistics;
  layer.pool = &pool;
  start = std::chrono::steady_clock::now();
  if (const Status status = method->Apply(&layer); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  const double update = Seconds(start);

  const double n = static_cast<double>(cols);
  const double floors[] = {static_cast<double>(sequences * length) * n * n / rate,
                           2.0 / 3.0 * n * n * n / rate, static_cast<double>(rows) * n * n / rate};
  const double took[] = {hessian, factor, update};
  const char* const names[] = {"Hessian", "Cholesky and inverse", "mask and update"};
  double floor = 0;
  double total = 0;
  std::printf("%lld x %lld, %lld x %lld tokens, %d threads; float32 GEMM %.0f GFLOP/s\n",
              static_cast<long long>(rows), static_cast<long long>(cols),
              static_cast<long long>(sequences), static_cast<long long>(length), pool.size(),
              rate / 1e9);
  if (!has_floor) {
    std::printf("Hessian %.2f s, %s %.2f s\n", hessian, name.c_str(), update);
    for (const std::string& note : layer.notes)
      std::printf("%s\n", note.c_str());
    return 0;
  }
  for (int i = 0; i < 3; ++i) {
    std::printf("%-22s %8.2f s   floor %8.2f s\n", names[i], took[i], floors[i]);
    floor += floors[i];
    total += took[i];
  }
  std::printf("%-22s %8.2f s   floor %8.2f s   %.2f times the floor\n", "all", total, floor,
              total / floor);
  return 0;
}

}  // namespace
}  // namespace harrow

int main(int argc, char** argv) {
  return harrow::Main(argc, argv);
}
