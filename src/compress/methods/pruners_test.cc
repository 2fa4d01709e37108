#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "compress/methods/assignment.h"
#include "compress/methods/input_order.h"
#include "compress/methods/selection.h"
#include "compress/methods/testing.h"
#include "test_data.h"

namespace harrow {
namespace {

using testing::GoldenCase;
using testing::Make;
using testing::MakeGolden;
using testing::MakeLayer;

std::string TargetYaml(const nlohmann::json& c) {
  if (c["pattern"].empty()) return fmt::format("sparsity: {}\n", c["sparsity"].get<double>());
  return fmt::format("pattern: \"{}:{}\"\n", c["pattern"][0].get<int>(),
                     c["pattern"][1].get<int>());
}

std::string OptionsYaml(const nlohmann::json& options) {
  std::string yaml;
  for (const auto& [key, value] : options.items()) {
    yaml += key + ": " + (value.is_string() ? value.get<std::string>() : value.dump()) + "\n";
  }
  return yaml;
}

nlohmann::json Layer(int rows, int cols, int seed, bool ties = false) {
  return {{"rows", rows},
          {"cols", cols},
          {"seed", seed},
          {"ties", ties},
          {"sequences", 3},
          {"tokens", 40},
          {"dead", nlohmann::json::array()}};
}

std::vector<nlohmann::json> GoldenCases(const std::string& kind) {
  std::ifstream file(testing::SourcePath("tests/golden/pruners.json"));
  std::vector<nlohmann::json> cases;
  for (const nlohmann::json& c : nlohmann::json::parse(file)) {
    if (c["kind"] == kind) cases.push_back(c);
  }
  EXPECT_GE(cases.size(), 4u) << kind;
  return cases;
}

void ExpectMask(const nlohmann::json& c, const LayerWork& layer) {
  for (int64_t row = 0; row < layer.rows; ++row) {
    std::string mask;
    for (int64_t j = 0; j < layer.cols; ++j) {
      const auto i = static_cast<size_t>(row * layer.cols + j);
      mask += static_cast<char>('0' + layer.pruned[i]);
      EXPECT_EQ(layer.w[i], layer.pruned[i] != 0 ? 0.0f : layer.original[i]) << row << "," << j;
    }
    EXPECT_EQ(mask, c["mask"][static_cast<size_t>(row)].get<std::string>()) << "row " << row;
  }
}

int64_t Pruned(const LayerWork& layer) {
  return std::count(layer.pruned.begin(), layer.pruned.end(), 1);
}

TEST(PrunersTest, RiaAndRowAdaptiveWandaAgreeWithTheFloat64Reference) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const std::string kind : {"ria", "wanda"}) {
      for (const nlohmann::json& c : GoldenCases(kind)) {
        const std::string yaml =
            "method: " + kind + "\n" + TargetYaml(c) + OptionsYaml(c["options"]);
        SCOPED_TRACE(yaml);
        GoldenCase golden = MakeGolden(c, &pool);
        const Status status = Make(yaml)->Apply(&golden.layer);
        ASSERT_TRUE(status.ok()) << status.ToString();
        ExpectMask(c, golden.layer);
        EXPECT_EQ(golden.layer.dead_columns, static_cast<int64_t>(c["dead"].size()));
        if (kind == "wanda") {
          EXPECT_EQ(golden.layer.notes.size(), 1u);
          EXPECT_EQ(!golden.layer.warnings.empty(), c["warns"].get<bool>());
        }
      }
    }
  }
}

bool Warns(const LayerWork& layer, const std::string& what) {
  return std::any_of(
      layer.warnings.begin(), layer.warnings.end(),
      [&what](const std::string& text) { return text.find(what) != std::string::npos; });
}

TEST(PrunersTest, DsnotAgreesWithTheFloat64Reference) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const nlohmann::json& c : GoldenCases("dsnot")) {
      const std::string yaml = "method: dsnot\n" + OptionsYaml(c["options"]);
      SCOPED_TRACE(c["first"].get<std::string>() + " " + TargetYaml(c) + yaml);
      GoldenCase golden = MakeGolden(c, &pool);
      ASSERT_TRUE(Make("method: " + c["first"].get<std::string>() + "\n" + TargetYaml(c))
                      ->Apply(&golden.layer)
                      .ok());
      const std::vector<uint8_t> first = golden.layer.pruned;
      const Status status = Make(yaml)->Apply(&golden.layer);
      ASSERT_TRUE(status.ok()) << status.ToString();
      ExpectMask(c, golden.layer);
      int64_t swaps = 0;
      for (size_t i = 0; i < first.size(); ++i)
        swaps += first[i] != 0 && golden.layer.pruned[i] == 0;
      EXPECT_EQ(swaps, c["swaps"].get<int64_t>());
      const auto size = static_cast<int64_t>(first.size());
      EXPECT_EQ(Warns(golden.layer, "changed places, far more"),
                swaps > (size - Pruned(golden.layer)) / 10);
      ASSERT_EQ(golden.layer.notes.size(), 1u);
      EXPECT_NE(golden.layer.notes[0].find(fmt::format("dsnot: {} weights", swaps)),
                std::string::npos)
          << golden.layer.notes[0];
    }
  }
}

// Sum over rows of |sum_j (original - w) * s_j|, computed without the method's ranking.
double OutputShift(const LayerWork& layer) {
  double total = 0;
  for (int64_t row = 0; row < layer.rows; ++row) {
    double shift = 0;
    for (int64_t j = 0; j < layer.cols; ++j) {
      const auto i = static_cast<size_t>(row * layer.cols + j);
      shift += (static_cast<double>(layer.original[i]) - layer.w[i]) *
               layer.statistics->sums()[static_cast<size_t>(j)];
    }
    total += std::fabs(shift);
  }
  return total;
}

TEST(PrunersTest, DsnotLowersTheErrorOfUpdatedWeightsToo) {
  ThreadPool pool(1);
  for (const std::string target : {"sparsity: 0.6", "pattern: \"2:4\""}) {
    GoldenCase golden = MakeGolden(Layer(12, 96, 31), &pool);
    ASSERT_TRUE(Make("method: sparsegpt\n" + target)->Apply(&golden.layer).ok());
    const LayerWork before = golden.layer;
    ASSERT_TRUE(Make("method: dsnot")->Apply(&golden.layer).ok());
    EXPECT_LT(OutputShift(golden.layer), OutputShift(before)) << target;
    EXPECT_EQ(Pruned(golden.layer), Pruned(before));
    for (size_t i = 0; i < before.w.size(); ++i) {
      if (golden.layer.pruned[i] != 0) {
        EXPECT_EQ(golden.layer.w[i], 0.0f);
      } else if (before.pruned[i] != 0) {
        EXPECT_EQ(golden.layer.w[i], before.original[i]);
      } else {
        EXPECT_EQ(golden.layer.w[i], before.w[i]);
      }
    }
  }
}

// What a swap wins on the mean output it may lose on its variance; inputs around 0 have no mean to
// win on.
TEST(PrunersTest, DsnotSaysWhenItRaisesTheOutputError) {
  constexpr int64_t kRows = 8;
  constexpr int64_t kCols = 64;
  constexpr int64_t kTokens = 200;
  ThreadPool pool(1);
  for (const bool hessian : {false, true}) {
    for (const float mean : {0.0f, 4.0f}) {
      SCOPED_TRACE(fmt::format("Hessian: {}, mean {}", hessian, mean));
      Rng rng(7);
      LayerWork layer = testing::MakeLayer(kRows, kCols, &pool);
      for (float& w : layer.w)
        w = static_cast<float>(testing::Bell(&rng));
      layer.original = layer.w;
      std::vector<float> x(kTokens * kCols);
      for (float& value : x)
        value = mean + static_cast<float>(testing::Bell(&rng));
      InputStatistics statistics(
          kCols, StatisticsNeed::kInputSums |
                     (hessian ? StatisticsNeed::kHessian : StatisticsNeed::kInputNorms));
      ASSERT_TRUE(statistics.Add(x.data(), kTokens).ok());
      statistics.EndSequence();
      statistics.Finish();
      layer.statistics = &statistics;
      ASSERT_TRUE(Make("method: wanda\nsparsity: 0.5")->Apply(&layer).ok());
      const auto output_error = [&] {
        double lost = 0;
        double all = 0;
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t row = 0; row < kRows; ++row) {
            double now = 0;
            double then = 0;
            for (int64_t j = 0; j < kCols; ++j) {
              const double input = x[static_cast<size_t>(t * kCols + j)];
              now += input * layer.w[static_cast<size_t>(row * kCols + j)];
              then += input * layer.original[static_cast<size_t>(row * kCols + j)];
            }
            lost += (now - then) * (now - then);
            all += then * then;
          }
        }
        return lost / all;
      };
      const double before = output_error();
      ASSERT_TRUE(Make("method: dsnot")->Apply(&layer).ok());
      const double after = output_error();
      ASSERT_EQ(after > before, mean == 0) << before << " " << after;
      EXPECT_EQ(Warns(layer, "raised the layer's relative output error"), after > before);
      ASSERT_EQ(layer.notes.size(), 1u);
      const std::string told =
          hessian
              ? fmt::format("output error {:.4g} before and {:.4g} after (measured)", before, after)
              : "estimated from each input's mean and variance";
      EXPECT_NE(layer.notes[0].find(told), std::string::npos) << layer.notes[0] << " / " << told;
    }
  }
}

TEST(PrunersTest, DsnotKeepsTheGroupsOfAPatternAndRefusesBlocks) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(Layer(8, 64, 33), &pool);
  ASSERT_TRUE(Make("method: wanda\npattern: \"3:8\"")->Apply(&golden.layer).ok());
  const std::vector<uint8_t> first = golden.layer.pruned;
  ASSERT_TRUE(Make("method: dsnot")->Apply(&golden.layer).ok());
  EXPECT_NE(golden.layer.pruned, first);
  for (size_t g = 0; g < first.size(); g += 8) {
    EXPECT_EQ(std::accumulate(golden.layer.pruned.begin() + static_cast<int64_t>(g),
                              golden.layer.pruned.begin() + static_cast<int64_t>(g + 8), 0),
              5);
  }
  GoldenCase blocks = MakeGolden(Layer(8, 64, 33), &pool);
  ASSERT_TRUE(
      Make("method: magnitude\nsparsity: 0.5\npattern: \"4x1\"")->Apply(&blocks.layer).ok());
  const Status refused = Make("method: dsnot")->Apply(&blocks.layer);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("blocks of 4x1"), std::string::npos) << refused.message();
}

TEST(PrunersTest, RiaKeepsBlocksAndWhatIsPrunedAlready) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(Layer(8, 32, 35), &pool);
  ASSERT_TRUE(Make("method: ria\nsparsity: 0.5\npattern: \"4x2\"")->Apply(&golden.layer).ok());
  EXPECT_EQ(Pruned(golden.layer), 128);
  for (int64_t row = 0; row < 8; ++row) {
    for (int64_t j = 0; j < 32; ++j) {
      EXPECT_EQ(golden.layer.pruned[static_cast<size_t>(row * 32 + j)],
                golden.layer.pruned[static_cast<size_t>(row / 4 * 4 * 32 + j / 2 * 2)]);
    }
  }
  const std::vector<uint8_t> first = golden.layer.pruned;
  ASSERT_TRUE(Make("method: ria\nsparsity: 0.75")->Apply(&golden.layer).ok());
  EXPECT_EQ(Pruned(golden.layer), 192);
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_GE(golden.layer.pruned[i], first[i]);
  const std::string adaptive = "method: wanda\nvariant: row_adaptive\nsparsity: 0.85";
  ASSERT_TRUE(Make(adaptive)->Apply(&golden.layer).ok());
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_GE(golden.layer.pruned[i], first[i]);
  EXPECT_NEAR(static_cast<double>(Pruned(golden.layer)) / 256, 0.85, 0.001 + 1.0 / 256);
}

TEST(PrunersTest, MagnitudeThresholdPrunesWhatIsBelowIt) {
  ThreadPool pool(1);
  LayerWork layer = MakeLayer(2, 3, &pool);
  layer.w = {0.5f, -0.25f, 0.1f, -0.5f, 0.0f, 2.0f};
  ASSERT_TRUE(Make("method: magnitude\nthreshold: 0.5")->Apply(&layer).ok());
  EXPECT_EQ(layer.w, (std::vector<float>{0.5f, 0, 0, -0.5f, 0, 2.0f}));
  EXPECT_EQ(layer.pruned, (std::vector<uint8_t>{0, 1, 1, 0, 1, 0}));
  EXPECT_TRUE(layer.warnings.empty());
  ASSERT_TRUE(Make("method: magnitude\nthreshold: 2.5")->Apply(&layer).ok());
  EXPECT_EQ(layer.warnings.size(), 1u);
  layer.allocated_sparsity = 0.5;
  EXPECT_FALSE(Make("method: magnitude\nthreshold: 0.5")->Apply(&layer).ok());
}

TEST(PrunersTest, OptionsAreStrict) {
  for (const std::string yaml :
       {"method: magnitude\nthreshold: 0", "method: magnitude\nthreshold: 0.1\nsparsity: 0.5",
        "method: magnitude\nthreshold: 0.1\npattern: \"2:4\"", "method: ria\nsparsity: 0.5\na: -1",
        "method: ria\nsparsity: 0.5\npermute: lsa", "method: ria\npattern: \"2:4\"\npermute: best",
        "method: wanda\nvariant: row_adaptive\npattern: \"2:4\"",
        "method: wanda\nvariant: row_adaptive\nsparsity: 0.5\ncompare: row",
        "method: dsnot\nsparsity: 0.5", "method: dsnot\nmax_cycle_time: 0"}) {
    Status status;
    Make(yaml, &status);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << yaml;
  }
}

TEST(InputOrderTest, AgreesWithTheFloat64Reference) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const nlohmann::json& c : GoldenCases("ria_order")) {
      const std::string yaml = "method: ria\n" + TargetYaml(c) + OptionsYaml(c["options"]);
      SCOPED_TRACE(yaml);
      GoldenCase golden = MakeGolden(c, &pool);
      const std::unique_ptr<Method> method = Make(yaml);
      ASSERT_TRUE(method->orders_inputs());
      const Result<InputOrder> found = method->OrderInputs(golden.layer, {golden.layer.cols, 1});
      ASSERT_TRUE(found.ok()) << found.status().ToString();
      std::vector<int32_t> order = found->order;
      if (order.empty()) {
        order.resize(static_cast<size_t>(golden.layer.cols));
        std::iota(order.begin(), order.end(), 0);
      }
      EXPECT_EQ(order, c["order"].get<std::vector<int32_t>>());
      // Sums of rows * cols terms in another order.
      const double rounding = 1e-12 * c["kept_after"].get<double>();
      EXPECT_NEAR(found->kept_before, c["kept_before"].get<double>(), rounding);
      EXPECT_NEAR(found->kept_after, c["kept_after"].get<double>(), rounding);
    }
  }
}

TEST(InputOrderTest, KeepsNoLessAndTheAssignmentNoLessThanDealing) {
  ThreadPool pool(1);
  const NmPattern nm{2, 4};
  for (int seed = 0; seed < 20; ++seed) {
    LayerWork layer = MakeLayer(5, 48, &pool);
    Rng rng(static_cast<uint64_t>(seed));
    std::vector<double> scores(5 * 48);
    for (double& score : scores)
      score = seed % 2 == 0 ? rng.Uniform() : std::floor(rng.Uniform() * 4);
    // 48 inputs as they come; 4 heads of 12, each alone; 4 heads, of which two share an order.
    for (const InputRuns& runs : {InputRuns{48, 1}, InputRuns{12, 1}, InputRuns{12, 2}}) {
      const Result<InputOrder> dealt =
          FindInputOrder(scores, nm, runs, OrderSearch::kHeuristic, layer);
      const Result<InputOrder> assigned =
          FindInputOrder(scores, nm, runs, OrderSearch::kAssignment, layer);
      ASSERT_TRUE(dealt.ok() && assigned.ok());
      EXPECT_GE(dealt->kept_after, dealt->kept_before);
      EXPECT_GE(assigned->kept_after, dealt->kept_after);
      if (assigned->order.empty()) continue;
      double kept = 0;  // of the order, row by row
      for (int64_t row = 0; row < 5; ++row) {
        for (size_t g = 0; g < 48; g += 4) {
          std::vector<double> group;
          for (size_t slot = 0; slot < 4; ++slot)
            group.push_back(scores[static_cast<size_t>(row * 48 + assigned->order[g + slot])]);
          std::sort(group.begin(), group.end());
          kept += group[2] + group[3];
        }
      }
      EXPECT_NEAR(kept, assigned->kept_after, 1e-12 * kept);
      for (int64_t j = 0; j < 48; ++j) {
        const int64_t from = assigned->order[static_cast<size_t>(j)];
        EXPECT_EQ(from / runs.width, j / runs.width);
        if (runs.shared == 2) {
          EXPECT_EQ(from % 12, assigned->order[static_cast<size_t>(j / 24 * 24 + j % 12)] % 12);
        }
      }
    }
  }
}

TEST(InputOrderTest, GroupsMustFitIntoHeads) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(Layer(4, 24, 3), &pool);
  const Result<InputOrder> found =
      Make("method: ria\npattern: \"4:8\"")->OrderInputs(golden.layer, {12, 1});
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->order.empty());
  EXPECT_NE(found->obstacle.find("12 inputs of a head"), std::string::npos) << found->obstacle;
}

TEST(AssignmentTest, EqualsTheBestOfAllPermutations) {
  Rng rng(5);
  for (int64_t n = 1; n <= 6; ++n) {
    for (int trial = 0; trial < 30; ++trial) {
      std::vector<double> value(static_cast<size_t>(n * n));
      for (double& v : value)  // every third with many ties, some negative
        v = trial % 3 == 0 ? std::floor(rng.Uniform() * 3) - 1 : rng.Normal();
      std::vector<int32_t> columns(static_cast<size_t>(n));
      std::iota(columns.begin(), columns.end(), 0);
      const auto sum = [&](const std::vector<int32_t>& of) {
        double total = 0;
        for (int64_t i = 0; i < n; ++i)
          total += value[static_cast<size_t>(i * n + of[static_cast<size_t>(i)])];
        return total;
      };
      double best = sum(columns);
      do {
        best = std::max(best, sum(columns));
      } while (std::next_permutation(columns.begin(), columns.end()));
      std::vector<int32_t> found = MaximizeAssignment(value, n);
      EXPECT_NEAR(sum(found), best, 1e-12);
      std::sort(found.begin(), found.end());
      EXPECT_TRUE(std::is_permutation(found.begin(), found.end(), columns.begin()));
    }
  }
}

TEST(StatisticsTest, VarianceWithinSequencesAndReorder) {
  // Input 0: another level in each sequence, constant within; input 1: 1, 3 and 5, 9; input 2: 0.
  const std::vector<std::vector<float>> sequences = {{0.1f, 1, 0, 0.1f, 3, 0},
                                                     {0.7f, 5, 0, 0.7f, 9, 0}};
  InputStatistics statistics(3, StatisticsNeed::kInputSums | StatisticsNeed::kHessian);
  for (const std::vector<float>& x : sequences) {
    ASSERT_TRUE(statistics.Add(x.data(), 1).ok());
    ASSERT_TRUE(statistics.Add(x.data() + 3, 1).ok());
    statistics.EndSequence();
  }
  statistics.Finish();
  EXPECT_EQ(statistics.VarianceWithinSequences(), (std::vector<double>{0, (1.0 + 4.0) / 2, 0}));
  const std::vector<double> before = statistics.hessian();
  const std::vector<int32_t> order = {1, 2, 0};
  statistics.Reorder(order);
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      EXPECT_EQ(statistics.hessian()[i * 3 + j],
                before[static_cast<size_t>(order[i]) * 3 + static_cast<size_t>(order[j])]);
    }
  }
  EXPECT_EQ(statistics.VarianceWithinSequences(), (std::vector<double>{2.5, 0, 0}));
  EXPECT_EQ(statistics.sums()[0], 18);
}

}  // namespace
}  // namespace harrow
