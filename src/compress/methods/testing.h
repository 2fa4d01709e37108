// Methods from YAML and layers with random weights and correlated inputs, for tests of methods.
#ifndef HARROW_COMPRESS_METHODS_TESTING_H_
#define HARROW_COMPRESS_METHODS_TESTING_H_

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/rng.h"
#include "compress/methods/method.h"
#include "compress/statistics.h"

namespace harrow::testing {

inline std::unique_ptr<Method> Make(const std::string& yaml, Status* status = nullptr) {
  OptionReader options(YAML::Load(yaml), "test", "");
  const MethodInfo* info = FindMethod(options.String("method", ""));
  if (info == nullptr) return nullptr;
  std::unique_ptr<Method> method = info->make(&options);
  const Status finished = options.Finish();
  if (status != nullptr) {
    *status = finished;
  } else {
    EXPECT_TRUE(finished.ok()) << finished.ToString();
  }
  return method;
}

inline LayerWork MakeLayer(int64_t rows, int64_t cols, ThreadPool* pool) {
  LayerWork layer;
  layer.name = std::string("w");
  layer.rows = rows;
  layer.cols = cols;
  layer.w.resize(static_cast<size_t>(rows * cols));
  layer.pruned.resize(layer.w.size());
  layer.pool = pool;
  return layer;
}

// The generators of scripts/golden/prune_reference.py.
inline double Bell(Rng* rng) {
  double total = -2;
  for (int i = 0; i < 4; ++i)
    total += rng->Uniform();
  return total;
}

struct GoldenCase {
  LayerWork layer;
  std::unique_ptr<InputStatistics> statistics;
};

inline GoldenCase MakeGolden(const nlohmann::json& c, ThreadPool* pool) {
  const int64_t rows = c["rows"];
  const int64_t cols = c["cols"];
  GoldenCase result{MakeLayer(rows, cols, pool),
                    std::make_unique<InputStatistics>(cols, StatisticsNeed::kHessian |
                                                                StatisticsNeed::kInputSums |
                                                                StatisticsNeed::kInputAbsSums)};
  Rng rng(c["seed"].get<uint64_t>());
  for (float& w : result.layer.w) {
    double value = Bell(&rng);
    if (c["ties"].get<bool>()) value = std::nearbyint(value * 4) / 4;
    w = static_cast<float>(value);
  }
  std::vector<double> z(static_cast<size_t>(cols));
  const int64_t tokens = c["tokens"];
  for (int64_t s = 0; s < c["sequences"].get<int64_t>(); ++s) {
    std::vector<float> x;
    for (int64_t t = 0; t < tokens; ++t) {
      for (double& value : z)
        value = Bell(&rng);
      for (int64_t j = 0; j < cols; ++j) {
        const double previous = z[static_cast<size_t>(j > 0 ? j - 1 : 0)];
        x.push_back(static_cast<float>(z[static_cast<size_t>(j)] * static_cast<double>(1 + j % 5) +
                                       0.5 * previous + 0.25 * z[0]));
      }
      for (const int64_t dead : c["dead"])
        x[static_cast<size_t>(t * cols + dead)] = 0;
    }
    EXPECT_TRUE(result.statistics->Add(x.data(), tokens).ok());
    result.statistics->EndSequence();
  }
  result.statistics->Finish();
  result.layer.statistics = result.statistics.get();
  result.layer.original = result.layer.w;
  return result;
}

}  // namespace harrow::testing

#endif  // HARROW_COMPRESS_METHODS_TESTING_H_
