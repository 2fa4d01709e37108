#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "compress/methods/method.h"
#include "compress/methods/selection.h"
#include "compress/methods/testing.h"
#include "compress/statistics.h"
#include "test_data.h"

namespace harrow {
namespace {

using testing::GoldenCase;
using testing::Make;
using testing::MakeGolden;
using testing::MakeLayer;

std::string StepYaml(const nlohmann::json& c) {
  std::string yaml = "method: " + c["method"].get<std::string>();
  if (c["pattern"].empty()) {
    yaml += fmt::format("\nsparsity: {}", c["sparsity"].get<double>());
  } else {
    yaml +=
        fmt::format("\npattern: \"{}:{}\"", c["pattern"][0].get<int>(), c["pattern"][1].get<int>());
  }
  if (c["method"] == "sparsegpt") {
    yaml += fmt::format("\nblock_size: {}\ndamping: {}", c["block_size"].get<int>(),
                        c["damping"].get<double>());
  }
  return yaml;
}

TEST(MethodsTest, AgreeWithTheFloat64Reference) {
  std::ifstream file(testing::SourcePath("tests/golden/pruning.json"));
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 16u);
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const nlohmann::json& c : cases) {
      SCOPED_TRACE(StepYaml(c) + fmt::format(" seed {}", c["seed"].get<int>()));
      GoldenCase golden = MakeGolden(c, &pool);
      const std::vector<float> before = golden.layer.w;
      const std::unique_ptr<Method> method = Make(StepYaml(c));
      const Status status = method->Apply(&golden.layer);
      ASSERT_TRUE(status.ok()) << status.ToString();
      const int64_t cols = golden.layer.cols;
      for (int64_t row = 0; row < golden.layer.rows; ++row) {
        const std::string expected = c["mask"][static_cast<size_t>(row)];
        double norm = 0;
        for (int64_t j = 0; j < cols; ++j) {
          const double w = before[static_cast<size_t>(row * cols + j)];
          norm += w * w;
        }
        norm = std::sqrt(norm);
        for (int64_t j = 0; j < cols; ++j) {
          const auto i = static_cast<size_t>(row * cols + j);
          ASSERT_EQ(golden.layer.pruned[i], expected[static_cast<size_t>(j)] - '0')
              << row << "," << j;
          if (golden.layer.pruned[i] != 0) {
            EXPECT_EQ(golden.layer.w[i], 0.0f);
            EXPECT_FALSE(std::signbit(golden.layer.w[i]));
          } else if (c["method"] == "sparsegpt") {
            const double reference = c["weights"][static_cast<size_t>(row)][static_cast<size_t>(j)];
            // One rounding to float32, 12 decimal digits in the golden file, and float64 algebra
            // whose error grows with the condition number of the damped Hessian, which is at most
            // 1 + n / damping.
            const double n = static_cast<double>(cols);
            const double condition = 1 + n / c["damping"].get<double>();
            const double bound = 0x1.0p-24 * std::fabs(reference) + 1e-12 * std::fabs(reference) +
                                 16 * n * 0x1.0p-53 * condition * norm;
            EXPECT_NEAR(golden.layer.w[i], reference, bound) << row << "," << j;
          } else {
            EXPECT_EQ(golden.layer.w[i], before[i]);
          }
        }
      }
      if (c["method"] != "magnitude") {
        EXPECT_EQ(golden.layer.dead_columns, static_cast<int64_t>(c["dead"].size()));
      }
    }
  }
}

TEST(MethodsTest, DensityIsExactToTheWeight) {
  ThreadPool pool(1);
  for (const int64_t cols : {1, 7, 64, 130}) {
    for (const double s : {0.3, 0.5, 0.7}) {
      const nlohmann::json c = {{"rows", 5},
                                {"cols", cols},
                                {"seed", 7},
                                {"ties", true},
                                {"sequences", 2},
                                {"tokens", 200},
                                {"dead", nlohmann::json::array()}};
      for (const std::string method : {"magnitude", "wanda", "sparsegpt"}) {
        GoldenCase golden = MakeGolden(c, &pool);
        ASSERT_TRUE(
            Make(fmt::format("method: {}\nsparsity: {}", method, s))->Apply(&golden.layer).ok());
        int64_t pruned = 0;
        for (const uint8_t p : golden.layer.pruned)
          pruned += p;
        int64_t expected = PrunedCount(5 * cols, s);
        if (method == "wanda") expected = 5 * PrunedCount(cols, s);
        if (method == "sparsegpt") {
          expected = PrunedCount(5 * std::min<int64_t>(cols, 128), s) +
                     PrunedCount(5 * std::max<int64_t>(cols - 128, 0), s);
        }
        EXPECT_EQ(pruned, expected) << method << " " << cols << " " << s;
      }
    }
  }
}

TEST(MethodsTest, WhatAnEarlierStepPrunedStaysPruned) {
  ThreadPool pool(1);
  const nlohmann::json c = {{"rows", 6},
                            {"cols", 32},
                            {"seed", 9},
                            {"ties", false},
                            {"sequences", 2},
                            {"tokens", 80},
                            {"dead", nlohmann::json::array()}};
  for (const std::string second : {"magnitude", "wanda", "sparsegpt"}) {
    // The second step asks for more, and for less, than the first.
    for (const std::string sparsity : {"0.75", "0.25"}) {
      GoldenCase golden = MakeGolden(c, &pool);
      ASSERT_TRUE(Make("method: magnitude\npattern: \"2:4\"")->Apply(&golden.layer).ok());
      const std::vector<uint8_t> first = golden.layer.pruned;
      ASSERT_TRUE(Make("method: " + second + "\nsparsity: " + sparsity)->Apply(&golden.layer).ok());
      int64_t pruned = 0;
      for (size_t i = 0; i < first.size(); ++i) {
        if (first[i] != 0) {
          EXPECT_EQ(golden.layer.w[i], 0.0f);
        }
        pruned += golden.layer.pruned[i];
      }
      EXPECT_EQ(pruned, sparsity == "0.75" ? 144 : 96) << second;
    }
  }
}

TEST(MethodsTest, SparseGptLowersTheOutputErrorOfItsOwnMask) {
  ThreadPool pool(2);
  const nlohmann::json c = {{"rows", 16},
                            {"cols", 48},
                            {"seed", 11},
                            {"ties", false},
                            {"sequences", 4},
                            {"tokens", 64},
                            {"dead", nlohmann::json::array()}};
  GoldenCase golden = MakeGolden(c, &pool);
  const std::vector<float> before = golden.layer.w;
  ASSERT_TRUE(Make("method: sparsegpt\nsparsity: 0.5")->Apply(&golden.layer).ok());
  std::vector<float> mask_only = before;
  for (size_t i = 0; i < before.size(); ++i) {
    if (golden.layer.pruned[i] != 0) mask_only[i] = 0;
  }
  const InputStatistics& statistics = *golden.statistics;
  EXPECT_LT(statistics.RelativeOutputError(before.data(), golden.layer.w.data(), 16),
            statistics.RelativeOutputError(before.data(), mask_only.data(), 16));
}

TEST(MethodsTest, SingularHessianFailsUnlessEscalationIsAllowed) {
  ThreadPool pool(1);
  LayerWork layer = MakeLayer(2, 3, &pool);
  layer.w = {1, 2, 3, 4, 5, 6};
  InputStatistics statistics(3, StatisticsNeed::kHessian);
  const float x[] = {1, 1, 1};  // rank 1
  ASSERT_TRUE(statistics.Add(x, 1).ok());
  statistics.EndSequence();
  statistics.Finish();
  layer.statistics = &statistics;
  const Status failed = Make("method: sparsegpt\nsparsity: 0.5\ndamping: 0")->Apply(&layer);
  EXPECT_EQ(failed.code(), StatusCode::kNumerical);
  EXPECT_NE(failed.message().find("not positive definite"), std::string::npos);

  layer.w = {1, 2, 3, 4, 5, 6};
  const std::string tiny = "method: sparsegpt\nsparsity: 0.5\ndamping: 1.0e-17";
  EXPECT_EQ(Make(tiny)->Apply(&layer).code(), StatusCode::kNumerical);
  layer.w = {1, 2, 3, 4, 5, 6};
  const Status raised = Make(tiny + "\nallow_damping_escalation: true")->Apply(&layer);
  ASSERT_TRUE(raised.ok()) << raised.ToString();
  ASSERT_EQ(layer.warnings.size(), 1u);
  EXPECT_GT(*layer.damping, 5e-17);
  // The factor that is kept is no answer to who did not allow it.
  EXPECT_EQ(statistics.Factor(1e-17, /*escalate=*/false).status().code(), StatusCode::kNumerical);
}

TEST(MethodsTest, PatternMustDivideTheWidth) {
  for (const std::string method : {"magnitude", "wanda", "sparsegpt"}) {
    const std::unique_ptr<Method> m = Make("method: " + method + "\npattern: \"2:4\"");
    EXPECT_TRUE(m->Check(3, 8).ok());
    const Status status = m->Check(3, 10);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("keep 2 of 4"), std::string::npos) << status.message();
  }
}

TEST(MethodsTest, CancellationStopsSparseGpt) {
  ThreadPool pool(1);
  const nlohmann::json c = {{"rows", 2},
                            {"cols", 8},
                            {"seed", 1},
                            {"ties", false},
                            {"sequences", 1},
                            {"tokens", 16},
                            {"dead", nlohmann::json::array()}};
  GoldenCase golden = MakeGolden(c, &pool);
  std::atomic<bool> cancel = true;
  RunControl control;
  control.cancel = &cancel;
  golden.layer.control = &control;
  EXPECT_EQ(Make("method: sparsegpt\nsparsity: 0.5")->Apply(&golden.layer).code(),
            StatusCode::kCancelled);
}

TEST(SelectionTest, TiesGoToTheLowerIndex) {
  const double scores[] = {2, 1, 1, 3, 1, 0};
  uint8_t pruned[6];
  std::vector<double> scratch;
  SelectSmallest(scores, 6, 3, pruned, &scratch);
  EXPECT_EQ(std::vector<uint8_t>(pruned, pruned + 6), (std::vector<uint8_t>{0, 1, 1, 0, 0, 1}));
  SelectSmallest(scores, 6, 0, pruned, &scratch);
  EXPECT_EQ(std::vector<uint8_t>(pruned, pruned + 6), std::vector<uint8_t>(6, 0));
  SelectSmallest(scores, 6, 6, pruned, &scratch);
  EXPECT_EQ(std::vector<uint8_t>(pruned, pruned + 6), std::vector<uint8_t>(6, 1));
}

TEST(SelectionTest, CountsAreComputedAsInPython) {
  EXPECT_EQ(PrunedCount(10, 0.7), 7);
  EXPECT_EQ(PrunedCount(10, 0.29), 2);
  EXPECT_EQ(PrunedCount(100, 0.29), 28);  // int(100 * 0.29) is 28 in float64
  EXPECT_EQ(PrunedCount(0, 0.5), 0);
}

TEST(SelectionTest, PatternsAreStrict) {
  EXPECT_EQ(ParsePattern("2:4")->nm->keep, 2);
  EXPECT_EQ(ParsePattern("16:32")->nm->of, 32);
  for (const char* bad : {"", ":", "2", "2:", ":4", "4:4", "0:4", "5:4", "2:4x", "2:1000", "-1:4",
                          "2.0:4", "2 :4", "1x1", "0x4", "16x", "300x1"}) {
    EXPECT_FALSE(ParsePattern(bad).ok()) << bad;
  }
}

TEST(SelectionTest, BlocksGoWholeBySumOfScores) {
  SparsityTarget target;
  target.sparsity = 0.5;
  target.pattern = *ParsePattern("2x1");
  // Sums of the 2x1 blocks: 5, 9, 4, 8 above and 1, 10, 7, 2 below; 8 blocks, 4 go: 5, 4, 1, 2.
  const double scores[] = {1, 2, 3, 4, 4, 7, 1, 4, 0, 5, 3, 1, 1, 5, 4, 1};
  uint8_t mask[16];
  SelectScratch scratch;
  SelectMask(target, 4, 4, scores, mask, &scratch);
  EXPECT_EQ(std::vector<uint8_t>(mask, mask + 16),
            (std::vector<uint8_t>{1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1}));
  EXPECT_TRUE(target.Check(4, 4).ok());
  EXPECT_FALSE(target.Check(3, 4).ok());
  EXPECT_EQ(target.StripeRows(4), 4);
  target.group = ScoreGroup::kRow;
  EXPECT_EQ(target.StripeRows(4), 2);
}

TEST(SelectionTest, AnAllocatedSparsityReplacesTheTarget) {
  LayerWork layer;
  layer.allocated_sparsity = 0.7;
  SparsityTarget target;
  target.sparsity = 0.5;
  EXPECT_EQ(target.For(layer).Requested(), 0.7);
  target.pattern = *ParsePattern("2:4");
  EXPECT_EQ(target.For(layer).pattern.nm->keep, 1);  // 1.2 of 4, rounded
  layer.allocated_sparsity = 0.99;
  EXPECT_EQ(target.For(layer).pattern.nm->keep, 1);
}

TEST(StatisticsTest, WideInputsAgreeWithFloat64WithinTheirBound) {
  // 1030 > 1024: products in float32. Bound: m terms of float32 rounding each, and one of the sum.
  const int64_t cols = 1030;
  const int64_t m = 40;
  Rng rng(3);
  std::vector<float> x(static_cast<size_t>(m * cols));
  for (float& value : x)
    value = static_cast<float>(rng.Normal());
  InputStatistics statistics(cols, StatisticsNeed::kHessian);
  ASSERT_TRUE(statistics.Add(x.data(), m / 2).ok());
  statistics.EndSequence();
  ASSERT_TRUE(statistics.Add(x.data() + m / 2 * cols, m / 2).ok());
  statistics.EndSequence();
  statistics.Finish();
  for (const int64_t i : {0, 1, 517, 1029}) {
    for (const int64_t j : {0, 3, 517, 1029}) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t t = 0; t < m; ++t) {
        const double product = static_cast<double>(x[static_cast<size_t>(t * cols + i)]) *
                               x[static_cast<size_t>(t * cols + j)];
        sum += product;
        magnitude += std::fabs(product);
      }
      // 2 / sequences = 1
      EXPECT_NEAR(statistics.hessian()[static_cast<size_t>(i * cols + j)], sum,
                  static_cast<double>(m) * 0x1.0p-24 * magnitude);
    }
  }
}

TEST(StatisticsTest, NonFiniteInputsNameTheirPlace) {
  InputStatistics statistics(3, StatisticsNeed::kInputNorms);
  const float good[] = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(statistics.Add(good, 2).ok());
  const float bad[] = {1, 2, 3, 4, NAN, 6};
  const Status status = statistics.Add(bad, 2);
  EXPECT_EQ(status.code(), StatusCode::kNumerical);
  EXPECT_NE(status.message().find("token 3, column 1"), std::string::npos) << status.message();
}

TEST(StatisticsTest, RelativeErrorMatchesDirectOutputs) {
  Rng rng(5);
  const int64_t cols = 20;
  const int64_t rows = 7;
  const int64_t m = 50;
  std::vector<float> x(static_cast<size_t>(m * cols));
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (float& value : x)
    value = static_cast<float>(rng.Normal());
  for (float& value : w)
    value = static_cast<float>(rng.Normal());
  std::vector<float> changed = w;
  for (size_t i = 0; i < changed.size(); i += 3)
    changed[i] = 0;
  InputStatistics statistics(cols, StatisticsNeed::kHessian);
  ASSERT_TRUE(statistics.Add(x.data(), m).ok());
  statistics.EndSequence();
  statistics.Finish();
  double error = 0;
  double reference = 0;
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double y = 0;
      double d = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const double value = x[static_cast<size_t>(t * cols + j)];
        const auto i = static_cast<size_t>(r * cols + j);
        y += value * w[i];
        d += value * (static_cast<double>(changed[i]) - w[i]);
      }
      error += d * d;
      reference += y * y;
    }
  }
  // Two float64 evaluations of sums of squares: a relative error of cols * m * 2^-53 or so.
  EXPECT_NEAR(statistics.RelativeOutputError(w.data(), changed.data(), rows), error / reference,
              1e-11 * error / reference);
  EXPECT_EQ(statistics.RelativeOutputError(w.data(), w.data(), rows), 0.0);
}

}  // namespace
}  // namespace harrow
