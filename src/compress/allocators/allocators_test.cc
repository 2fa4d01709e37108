#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "compress/allocators/allocator.h"
#include "compress/allocators/sensitivity.h"
#include "compress/methods/selection.h"
#include "test_data.h"

namespace harrow {
namespace {

std::unique_ptr<Allocator> Make(const std::string& name, const std::string& yaml, bool nm = false,
                                Status* status = nullptr) {
  OptionReader options(YAML::Load(yaml), "test", "");
  std::unique_ptr<Allocator> allocator = FindAllocator(name)->make(&options, nm);
  const Status finished = options.Finish();
  if (status != nullptr) {
    *status = finished;
  } else {
    EXPECT_TRUE(finished.ok()) << finished.ToString();
  }
  return allocator;
}

// Layers of the given numbers of weights, one a unit.
AllocationProblem MakeProblem(double sparsity, const std::vector<int64_t>& weights) {
  AllocationProblem problem;
  problem.sparsity = sparsity;
  for (size_t i = 0; i < weights.size(); ++i)
    problem.layers.push_back({fmt::format("layer{}.weight", i), weights[i], i});
  return problem;
}

// The same caps for all layers.
void SetCaps(AllocationProblem* problem, std::optional<double> min, std::optional<double> max) {
  for (AllocationLayer& layer : problem->layers) {
    layer.min.reset();
    layer.max.reset();
    if (min) layer.min = {*min, fmt::format("min {}", *min)};
    if (max) layer.max = {*max, fmt::format("max {}", *max)};
  }
}

// The generator of scripts/golden/allocation_reference.py.
double Bell(Rng* rng) {
  double total = -2;
  for (int i = 0; i < 4; ++i)
    total += rng->Uniform();
  return total;
}

struct GoldenModel {
  std::deque<LinearWeight> weights;
  std::vector<std::vector<DenseWeight>> blocks;
};

void MakeGoldenModel(const nlohmann::json& shapes, const nlohmann::json& c, GoldenModel* model) {
  Rng rng(c["seed"].get<uint64_t>());
  const int64_t blocks = c["blocks"];
  for (int64_t b = 0; b < blocks; ++b) {
    std::vector<DenseWeight> block;
    for (const nlohmann::json& shape : shapes) {
      const int64_t rows = shape[0];
      const int64_t cols = shape[1];
      std::vector<float> w(static_cast<size_t>(rows * cols));
      for (float& value : w) {
        const double bell = Bell(&rng);
        const double tail = static_cast<double>(b) / static_cast<double>(blocks);
        value = static_cast<float>(bell * (1 + std::fabs(bell) * tail));
      }
      Result<LinearWeight> packed =
          PackWeight({FormatId::kDense, ValueType::kF32}, rows, cols, w.data());
      ASSERT_TRUE(packed.ok()) << packed.status().ToString();
      model->weights.push_back(std::move(packed).value());
      DenseWeight dense;
      dense.name = fmt::format("block{}", b);
      dense.weight = &model->weights.back();
      for (int64_t j = 0; j < cols; ++j) {
        const bool outlier = rng.Uniform() < 0.02 * static_cast<double>(b + 1);
        dense.norms.push_back(1 + (outlier ? 9.0 : 0.0) + rng.Uniform());
      }
      block.push_back(std::move(dense));
    }
    model->blocks.push_back(std::move(block));
  }
}

TEST(AllocatorsTest, EqualTheReference) {
  std::ifstream file(testing::SourcePath("tests/golden/allocation.json"));
  const nlohmann::json golden = nlohmann::json::parse(file);
  ASSERT_GE(golden["cases"].size(), 8u);
  for (const nlohmann::json& c : golden["cases"]) {
    SCOPED_TRACE(c.dump());
    GoldenModel model;
    MakeGoldenModel(golden["block"], c, &model);
    const std::unique_ptr<Allocator> allocator =
        Make(c["method"], c["options"].dump(), c.contains("pattern"));
    ASSERT_NE(allocator->needs(), DenseNeed::kNothing);
    AllocationProblem problem;
    SparsityTarget target;
    if (c.contains("pattern")) {
      target.pattern.nm = NmPattern{c["pattern"][0], c["pattern"][1]};
      problem.nm = target.pattern.nm;
    } else {
      target.sparsity = c["sparsity"];
    }
    problem.sparsity = target.Requested();
    for (size_t b = 0; b < model.blocks.size(); ++b) {
      const Result<double> score = allocator->Score(model.blocks[b]);
      ASSERT_TRUE(score.ok()) << score.status().ToString();
      problem.scores.push_back(*score);
      for (const DenseWeight& dense : model.blocks[b]) {
        problem.layers.push_back({dense.name, dense.weight->rows * dense.weight->cols, b});
      }
    }
    Result<std::vector<double>> values = allocator->Allocate(problem);
    ASSERT_TRUE(values.ok()) << values.status().ToString();
    EXPECT_NEAR(MeanOverWeights(problem, *values), problem.sparsity, 1e-12);
    // Medians are of float32 scores; eigenvalues come from the Gram matrix, which squares the
    // condition of W (some hundreds), and go through logarithms and a sum of 20 terms.
    const double tolerance = c["method"] == "owl" ? 1e-12 : 1e-6;
    for (size_t i = 0; i < problem.layers.size(); ++i) {
      const double expected = c["allocated"][problem.layers[i].unit];
      LayerWork layer;
      layer.allocated_sparsity = (*values)[i];
      EXPECT_NEAR(target.For(layer).Requested(), expected, tolerance) << i;
    }
  }
}

TEST(AllocatorsTest, BlocksThatScoreTheSameGetTheSame) {
  AllocationProblem problem = MakeProblem(0.6, {10, 20, 30});
  problem.scores = {2.5, 2.5, 2.5};
  for (const std::string name : {"owl", "dlp", "alphapruning"}) {
    const Result<std::vector<double>> values = Make(name, "{}")->Allocate(problem);
    ASSERT_TRUE(values.ok()) << name;
    for (const double value : *values)
      EXPECT_NEAR(value, 0.6, 1e-15) << name;
  }
  EXPECT_EQ(*Make("uniform", "{}")->Allocate(problem), std::vector<double>(3, 0.6));
}

TEST(AllocatorsTest, MeanIsOverWeightsWhereUnitsDifferInSize) {
  AllocationProblem problem = MakeProblem(0.7, {1000, 10, 500});
  problem.scores = {1, 2, 5};
  for (const std::string name : {"owl", "dlp", "alphapruning"}) {
    const Result<std::vector<double>> values = Make(name, "{}")->Allocate(problem);
    ASSERT_TRUE(values.ok()) << name;
    EXPECT_NEAR(MeanOverWeights(problem, *values), 0.7, 1e-14) << name;
    EXPECT_NE((*values)[0], (*values)[1]) << name;
  }
}

TEST(AllocatorsTest, WeightsThatAreNotFiniteOrHaveNoSpectrumAreErrors) {
  std::vector<float> w(24, 1.0f);
  const auto score = [&w](const std::string& name) {
    const TensorView view = {DType::kF32, {4, 6}, reinterpret_cast<const std::byte*>(w.data()), {}};
    const Result<LinearWeight> weight = WrapDense(view);
    EXPECT_TRUE(weight.ok());
    DenseWeight dense;
    dense.name = "model.w";
    dense.weight = &*weight;
    dense.norms.assign(6, 1.0);
    return Make(name, "{}")->Score({&dense, 1});
  };
  const Result<double> rank_one = score("alphapruning");
  ASSERT_FALSE(rank_one.ok());
  EXPECT_EQ(rank_one.status().code(), StatusCode::kNumerical);
  EXPECT_NE(rank_one.status().message().find("model.w"), std::string::npos);
  EXPECT_EQ(*score("owl"), 0);
  EXPECT_EQ(*score("dlp"), -1);
  w[7] = NAN;
  for (const std::string name : {"owl", "dlp", "alphapruning"}) {
    const Result<double> bad = score(name);
    ASSERT_FALSE(bad.ok()) << name;
    EXPECT_NE(bad.status().message().find("model.w: the weight is nan at row 1, column 1"),
              std::string::npos)
        << bad.status().ToString();
  }
}

TEST(AllocatorsTest, OptionsOutOfRangeAreErrors) {
  Status status;
  for (const auto& [name, yaml] : std::vector<std::pair<std::string, std::string>>{
           {"owl", "lambda: -0.1"},
           {"owl", "lambda: 0.6"},
           {"owl", "M: 0"},
           {"dlp", "statistic: mode"},
           {"dlp", "alpha: 1"},
           {"alphapruning", "epsilon: 1.5"},
           {"uniform", "lambda: 1"},
           {"sensitivity", "metric: loss"},
           {"sensitivity", "{file: a.json, metric: ppl}"}}) {
    Make(name, yaml, false, &status);
    EXPECT_FALSE(status.ok()) << name << " " << yaml;
  }
}

TEST(ApplyCapsTest, KeepsTheMeanAndMovesAllButTheClippedAlike) {
  AllocationProblem problem = MakeProblem(0.7, {100, 300, 50, 700});
  const std::vector<double> wishes = {0.95, 0.8, 0.1, 0.65};
  const double mean = MeanOverWeights(problem, wishes);
  problem.sparsity = mean;
  std::vector<double> values = wishes;
  ASSERT_TRUE(ApplyCaps(problem, &values).ok());
  EXPECT_EQ(values, wishes);
  SetCaps(&problem, 0.4, 0.78);
  ASSERT_TRUE(ApplyCaps(problem, &values).ok());
  EXPECT_NEAR(MeanOverWeights(problem, values), mean, 1e-15);
  EXPECT_EQ(values[0], 0.78);
  EXPECT_EQ(values[1], 0.78);
  EXPECT_EQ(values[2], 0.4);
  // By hand: what is left for the last, (sum - 0.78 * 400 - 0.4 * 50) / 700.
  EXPECT_NEAR(values[3], (mean * 1150 - 0.78 * 400 - 0.4 * 50) / 700, 1e-14);
  // Caps that leave one choice.
  SetCaps(&problem, problem.sparsity, problem.sparsity);
  ASSERT_TRUE(ApplyCaps(problem, &values).ok());
  for (const double value : values)
    EXPECT_EQ(value, mean);
}

TEST(ApplyCapsTest, RefusesWhatCannotBe) {
  AllocationProblem problem = MakeProblem(0.7, {100, 100});
  std::vector<double> values = {0.9, 0.5};
  SetCaps(&problem, {}, 0.6);
  Status status = ApplyCaps(problem, &values);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("max 0.6"), std::string::npos) << status.ToString();
  SetCaps(&problem, 0.8, {});
  EXPECT_FALSE(ApplyCaps(problem, &values).ok());
  SetCaps(&problem, {}, {});
  values = {1.02, 0.38};
  status = ApplyCaps(problem, &values);
  EXPECT_NE(status.message().find("layer0.weight would get a sparsity of 1.0200"),
            std::string::npos)
      << status.ToString();
  SetCaps(&problem, {}, 0.9);  // now the user has said what to do about it
  ASSERT_TRUE(ApplyCaps(problem, &values).ok());
  EXPECT_EQ(values[0], 0.9);
  EXPECT_NEAR(values[1], 0.5, 1e-15);
  values = {-0.1, 1.5};
  EXPECT_FALSE(ApplyCaps(problem, &values).ok());
}

// Whatever the allocator wished for: the mean is exact, each layer within its own caps, those that
// are not at a cap moved alike, and a budget is refused exactly where no values could meet it.
TEST(ApplyCapsTest, MeetsTheMeanWithinEveryLayersOwnCaps) {
  Rng rng(5);
  int met = 0;
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    AllocationProblem problem = MakeProblem(0, {});
    std::vector<double> wishes;
    const size_t layers = 1 + rng.Below(12);
    double least = 0;
    double most = 0;
    double weights = 0;
    for (size_t i = 0; i < layers; ++i) {
      const auto count = static_cast<int64_t>(1 + rng.Below(100000));
      problem.layers.push_back({fmt::format("layer{}", i), count, i});
      AllocationLayer& layer = problem.layers.back();
      if (rng.Below(3) == 0) layer.min = {0.6 * rng.Uniform(), "min"};
      if (rng.Below(2) == 0) {
        layer.max = {layer.Low() + (0.99 - layer.Low()) * rng.Uniform(), "max"};
      }
      wishes.push_back(0.3 + 0.4 * rng.Uniform());
      weights += static_cast<double>(count);
      least += layer.Low() * static_cast<double>(count);
      most += layer.High() * static_cast<double>(count);
    }
    problem.sparsity =
        round % 2 == 0 ? MeanOverWeights(problem, wishes) : 0.1 + 0.8 * rng.Uniform();
    std::vector<double> values = wishes;
    const Status status = ApplyCaps(problem, &values);
    const double target = problem.sparsity * weights;
    if (target < least - 1 || target > most + 1) {
      EXPECT_FALSE(status.ok());
      EXPECT_NE(status.message().find(target < least ? "(min)" : "(max)"), std::string::npos)
          << status.ToString();
      continue;
    }
    if (target < least || target > most) continue;  // to less than a weight
    if (!status.ok()) {  // a layer without `max` would go beyond 1, or one without `min` below 0
      EXPECT_NE(status.message().find("once the others keep to their caps"), std::string::npos)
          << status.ToString();
      continue;
    }
    ++met;
    bool capped = false;
    std::optional<double> shift;
    for (size_t i = 0; i < layers; ++i) {
      const AllocationLayer& layer = problem.layers[i];
      EXPECT_GE(values[i], layer.Low());
      EXPECT_LE(values[i], layer.High());
      capped = capped || wishes[i] < layer.Low() || wishes[i] > layer.High();
      if (values[i] == layer.Low() || values[i] == layer.High()) continue;
      if (!shift) shift = values[i] - wishes[i];
      EXPECT_NEAR(values[i] - wishes[i], *shift, 1e-12);
    }
    // Values that keep to their caps have the mean already; the allocator's part.
    if (capped || round % 2 == 0) {
      EXPECT_NEAR(MeanOverWeights(problem, values), problem.sparsity, 1e-12);
    }
  }
  EXPECT_GT(met, 800);
}

TEST(ApplyCapsTest, TakesNoUncappedLayerWhole) {
  AllocationProblem problem = MakeProblem(0.75, {100, 100});
  problem.layers[0].max = {0.5, "caps[0].max 0.5"};
  std::vector<double> values = {0.75, 0.75};
  const Status status = ApplyCaps(problem, &values);
  EXPECT_NE(
      status.message().find("layer1.weight would get a sparsity of 1.0000 once the others keep"),
      std::string::npos)
      << status.ToString();
  problem.layers[0].min = {0.6, "caps[1].min 0.6"};
  EXPECT_NE(ApplyCaps(problem, &values)
                .message()
                .find("layer0.weight: no sparsity lies between its caps caps[1].min 0.6 and "
                      "caps[0].max 0.5"),
            std::string::npos);
}

// The piecewise linear function through `points`.
double Interpolate(const std::vector<std::pair<double, double>>& points, double x) {
  for (size_t k = 1; k < points.size(); ++k) {
    if (x > points[k].first && k + 1 < points.size()) continue;
    const double t = (x - points[k - 1].first) / (points[k].first - points[k - 1].first);
    return points[k - 1].second + t * (points[k].second - points[k - 1].second);
  }
  return 0;
}

// The lower convex envelope at x, as the least chord between any two points around it.
double Envelope(const std::vector<std::pair<double, double>>& points, double x) {
  double least = Interpolate(points, x);
  for (const auto& a : points) {
    for (const auto& b : points) {
      if (a.first <= x && x <= b.first && a.first < b.first) {
        least = std::min(least, Interpolate({a, b}, x));
      }
    }
  }
  return least;
}

TEST(MinimizeLossTest, EqualsBruteForce) {
  Rng rng(11);
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(round);
    // Points on multiples of 0.1 and equal weights: an optimum lies on the grid of 0.1, since a
    // vertex of the problem has all layers but one at points of their hulls, and the mean is on it.
    std::vector<LossCurve> curves(4);
    for (LossCurve& curve : curves) {
      curve.weights = 50;
      curve.points.emplace_back(0.0, 0.0);
      double loss = 0;
      for (int s = 1; s <= 9; ++s) {
        if (rng.Below(3) == 0 && s != 9) continue;
        loss += rng.Uniform() * s - 0.3;  // neither convex nor monotone
        curve.points.emplace_back(s / 10.0, loss);
      }
    }
    // Every layer has caps of its own, in tenths.
    int low[4];
    int high[4];
    for (int i = 0; i < 4; ++i) {
      low[i] = static_cast<int>(rng.Below(4));
      high[i] = 7 + static_cast<int>(rng.Below(3));
      curves[static_cast<size_t>(i)].min = low[i] / 10.0;
      curves[static_cast<size_t>(i)].max = high[i] / 10.0;
    }
    const int total = 16 + static_cast<int>(rng.Below(10));  // tenths over the four layers
    double least = INFINITY;
    int grid[4];
    for (grid[0] = low[0]; grid[0] <= high[0]; ++grid[0]) {
      for (grid[1] = low[1]; grid[1] <= high[1]; ++grid[1]) {
        for (grid[2] = low[2]; grid[2] <= high[2]; ++grid[2]) {
          grid[3] = total - grid[0] - grid[1] - grid[2];
          if (grid[3] < low[3] || grid[3] > high[3]) continue;
          double loss = 0;
          for (size_t i = 0; i < 4; ++i)
            loss += Envelope(curves[i].points, grid[i] / 10.0);
          least = std::min(least, loss);
        }
      }
    }
    const Result<std::vector<double>> values = MinimizeLoss(curves, total / 40.0);
    ASSERT_TRUE(values.ok()) << values.status().ToString();
    double mean = 0;
    double loss = 0;
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_GE((*values)[i], curves[i].min - 1e-12);
      EXPECT_LE((*values)[i], curves[i].max + 1e-12);
      mean += (*values)[i] / 4;
      loss += Envelope(curves[i].points, (*values)[i]);
    }
    EXPECT_NEAR(mean, total / 40.0, 1e-12);
    EXPECT_NEAR(loss, least, 1e-9);
  }
}

TEST(MinimizeLossTest, CountsLossPerWeight) {
  // The same loss for pruning, ten times the weights: the large layer is cheaper a weight.
  const std::vector<LossCurve> curves = {{1000, {{0, 0}, {0.9, 1}}}, {100, {{0, 0}, {0.9, 1}}}};
  const Result<std::vector<double>> values = MinimizeLoss(curves, 0.5);
  ASSERT_TRUE(values.ok());
  EXPECT_NEAR((*values)[0], 0.55, 1e-12);
  EXPECT_NEAR((*values)[1], 0.0, 1e-12);
}

TEST(MinimizeLossTest, RefusesMeansOutOfReach) {
  std::vector<LossCurve> curves = {{100, {{0, 0}, {0.5, 1}}}, {100, {{0, 0}, {0.8, 1}}}};
  EXPECT_TRUE(MinimizeLoss(curves, 0.65).ok());
  Status status = MinimizeLoss(curves, 0.7).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("0.65"), std::string::npos) << status.ToString();
  curves[0].name = "q_proj";
  curves[0].min = 0.55;  // beyond what was measured
  status = MinimizeLoss(curves, 0.6).status();
  EXPECT_NE(status.message().find("q_proj was measured up to sparsity 0.5"), std::string::npos)
      << status.ToString();
  curves[0].min = 0;
  curves[1].max = 0.3;
  EXPECT_FALSE(MinimizeLoss(curves, 0.45).ok());
  EXPECT_NEAR((*MinimizeLoss(curves, 0.4))[0], 0.5, 1e-12);
}

constexpr char kSensitivityText[] = R"({"model": "m", "layers": [
  {"name": "layer0", "points": [{"sparsity": 0.8, "loss_increase": 1.0, "kl": 0.5},
                                {"sparsity": 0.4, "loss_increase": 0.1, "kl": 0.4}]},
  {"name": "layer1.weight", "points": [{"sparsity": 0.8, "loss_increase": 0.2, "kl": 2.0}]}]})";

TEST(SensitivityTest, AllocatesFromAFile) {
  testing::TempDir dir;
  std::ofstream(dir.File("s.json")) << kSensitivityText;
  const AllocationProblem problem = MakeProblem(0.5, {100, 100});
  const std::string file = "{file: " + dir.File("s.json");
  Result<std::vector<double>> values = Make("sensitivity", file + "}")->Allocate(problem);
  ASSERT_TRUE(values.ok()) << values.status().ToString();
  // Slopes of loss: 0.25 and 0.25 for layer0 to 0.4 and layer1: the first comes first.
  EXPECT_NEAR((*values)[0], 0.4, 1e-12);
  EXPECT_NEAR((*values)[1], 0.6, 1e-12);
  values = Make("sensitivity", file + ", metric: kl}")->Allocate(problem);
  ASSERT_TRUE(values.ok());
  EXPECT_NEAR((*values)[0], 0.8, 1e-12);
  EXPECT_NEAR((*values)[1], 0.2, 1e-12);

  const Status missing =
      Make("sensitivity", file + "}")->Allocate(MakeProblem(0.5, {1, 1, 1})).status();
  EXPECT_EQ(missing.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(missing.message().find("layer2.weight"), std::string::npos) << missing.ToString();
  EXPECT_EQ(Make("sensitivity", "file: /nowhere.json")->Allocate(problem).status().code(),
            StatusCode::kNotFound);
}

TEST(SensitivityTest, CorruptFilesAreErrorsThatNameThePlace) {
  ASSERT_TRUE(ParseSensitivity(kSensitivityText, "s.json").ok());
  const auto point = [](const std::string& fields) {
    return R"({"layers": [{"name": "a", "points": [{)" + fields + "}]}]}";
  };
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "s.json"},
           {"[]", "s.json"},
           {"{}", "layers: expected a list"},
           {R"({"layers": []})", "layers: expected a list"},
           {R"({"layers": [3]})", "layers[0]"},
           {R"({"layers": [{"points": []}]})", "name: missing"},
           {R"({"layers": [{"name": "a"}]})", "layers[0] (a)"},
           {R"({"layers": [{"name": "a", "points": []}]})", "points: expected"},
           {R"({"layers": [{"name": "a", "points": [1]}]})", "points[0]"},
           {point(R"("loss_increase": 1)"), "sparsity: missing"},
           {point(R"("sparsity": "0.5", "loss_increase": 1)"), "sparsity: expected a number"},
           {point(R"("sparsity": 0, "loss_increase": 1)"), "0 < s < 1"},
           {point(R"("sparsity": 1, "loss_increase": 1)"), "0 < s < 1"},
           {point(R"("sparsity": -0.5, "loss_increase": 1)"), "sparsity: expected"},
           {point(R"("sparsity": 0.5)"), "loss_increase: missing"},
           {point(R"("sparsity": 0.5, "loss_increase": 1e300)"), "loss_increase: expected"},
           {point(R"("sparsity": 0.5, "loss_increase": 1, "kl": [])"), "kl: expected a number"},
           {R"({"layers": [{"name": "a", "points": [{"sparsity": 0.5, "loss_increase": 1},
             {"sparsity": 0.5, "loss_increase": 2}]}]})",
            "given twice"},
           {R"({"layers": [{"name": "a", "points": [{"sparsity": 0.5, "loss_increase": 1}]},
             {"name": "a", "points": [{"sparsity": 0.5, "loss_increase": 1}]}]})",
            "layers[1]: a is given twice"}}) {
    const auto curves = ParseSensitivity(text, "s.json");
    ASSERT_FALSE(curves.ok()) << text;
    EXPECT_NE(curves.status().message().find(expected), std::string::npos)
        << text << "\n"
        << curves.status().ToString();
  }
  // Cut anywhere, it is no file.
  const std::string whole = kSensitivityText;
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(ParseSensitivity(whole.substr(0, size), "s.json").ok()) << size;
}

}  // namespace
}  // namespace harrow
