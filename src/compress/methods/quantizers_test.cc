// GPTQ, the joint pass and AWQ.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "compress/methods/testing.h"
#include "formats/linear_weight.h"
#include "test_data.h"

namespace harrow {
namespace {

using testing::GoldenCase;
using testing::Make;
using testing::MakeGolden;
using testing::MakeLayer;

nlohmann::json Inputs(int64_t rows, int64_t cols, int seed, std::vector<int> dead = {}) {
  return {{"rows", rows},   {"cols", cols},           {"seed", seed}, {"ties", false},
          {"sequences", 4}, {"tokens", 3 * cols / 4}, {"dead", dead}};
}

std::string FormatYaml(const std::string& values, int64_t group) {
  return fmt::format("format: {}, group: {}, symmetric: {}", values == "i8" ? "int8" : "int4",
                     group, values == "u4" ? "false" : "true");
}

std::string StepYaml(const nlohmann::json& c) {
  const std::string format = FormatYaml(c["values"], c["group"]);
  const std::string method = c["method"];
  if (method == "awq") return "{method: awq, " + format + "}";
  const std::string obs = fmt::format("block_size: {}, damping: {}", c["block_size"].get<int>(),
                                      c["damping"].get<double>());
  if (method == "gptq") {
    return fmt::format("{{method: gptq, {}, {}, act_order: {}}}", format, obs,
                       c["act_order"].get<bool>());
  }
  std::string target = fmt::format("sparsity: {}", c["sparsity"].get<double>());
  if (!c["pattern"].empty()) {
    target =
        fmt::format("pattern: \"{}:{}\"", c["pattern"][0].get<int>(), c["pattern"][1].get<int>());
  } else if (!c["tile"].empty()) {
    target += fmt::format(", pattern: \"{}x{}\"", c["tile"][0].get<int>(), c["tile"][1].get<int>());
  }
  return fmt::format("{{method: sparsegpt, {}, {}, quantize: {{{}, sweeps: 0}}}}", target, obs,
                     format);
}

GroupGrid GridAt(const LayerWork& layer, int64_t row, int64_t col) {
  const QuantGrid& grid = *layer.quantization->grid;
  const int64_t groups = (layer.cols + grid.group - 1) / grid.group;
  const auto i = static_cast<size_t>(row * groups + col / grid.group);
  return {grid.scales[i], grid.zeros.empty() ? 0.0f : grid.zeros[i]};
}

// The code that scripts/golden/quant_reference.py wrote for a weight.
int CodeAt(const nlohmann::json& c, int64_t row, int64_t col) {
  const std::string text = c["codes"][static_cast<size_t>(row)];
  if (c["values"] == "i8") {
    return std::stoi(text.substr(static_cast<size_t>(2 * col), 2), nullptr, 16) - 128;
  }
  return std::stoi(text.substr(static_cast<size_t>(col), 1), nullptr, 16) -
         (c["values"] == "i4" ? 8 : 0);
}

void ScaleLikeTheReference(const nlohmann::json& c, const Method& method, GoldenCase* golden) {
  LayerWork& layer = golden->layer;
  const Result<std::vector<double>> scales = method.InputScales({&layer});
  ASSERT_TRUE(scales.ok()) << scales.status().ToString();
  std::vector<double> inverse;
  for (size_t j = 0; j < scales->size(); ++j) {
    const double expected = c["input_scales"][j];
    // Sums of the same numbers in another order, and 15 digits in the file.
    ASSERT_NEAR((*scales)[j], expected, 1e-12 * expected) << j;
    inverse.push_back(1 / expected);
    for (int64_t row = 0; row < layer.rows; ++row) {
      float& w = layer.w[static_cast<size_t>(row * layer.cols) + j];
      w = static_cast<float>(w * expected);
    }
  }
  golden->statistics->ScaleInputs(inverse);
}

TEST(QuantizersTest, AgreeWithTheFloat64Reference) {
  std::ifstream file(testing::SourcePath("tests/golden/quantization.json"));
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 19u);
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const nlohmann::json& c : cases) {
      SCOPED_TRACE(StepYaml(c));
      GoldenCase golden = MakeGolden(c, &pool);
      LayerWork& layer = golden.layer;
      if (c["masked"].get<double>() > 0) {
        const std::string first =
            fmt::format("{{method: magnitude, sparsity: {}}}", c["masked"].get<double>());
        ASSERT_TRUE(Make(first)->Apply(&layer).ok());
      }
      const std::unique_ptr<Method> method = Make(StepYaml(c));
      EXPECT_TRUE(method->quantizes());
      if (c["method"] == "awq") ScaleLikeTheReference(c, *method, &golden);
      const Status status = method->Apply(&layer);
      ASSERT_TRUE(status.ok()) << status.ToString();
      EXPECT_EQ(layer.dead_columns, static_cast<int64_t>(c["dead"].size()));
      const ValueType values = layer.quantization->values;
      EXPECT_EQ(ValueTypeName(values), c["values"].get<std::string>());
      const int64_t group = c["group"];
      for (int64_t row = 0; row < layer.rows; ++row) {
        for (int64_t j = 0; j < layer.cols; ++j) {
          const auto i = static_cast<size_t>(row * layer.cols + j);
          const GroupGrid grid = GridAt(layer, row, j);
          const auto g = static_cast<size_t>(j / group);
          ASSERT_EQ(grid.scale, c["scales"][static_cast<size_t>(row)][g].get<float>());
          ASSERT_EQ(grid.zero, c["zeros"].empty()
                                   ? 0.0f
                                   : c["zeros"][static_cast<size_t>(row)][g].get<float>());
          const int code = CodeAt(c, row, j);
          ASSERT_EQ(NearestCode(values, grid, layer.w[i]), code) << row << "," << j;
          ASSERT_EQ(layer.w[i], ValueOfCode(grid, code)) << row << "," << j;
          if (c["method"] == "awq") continue;
          const std::string mask = c["mask"][static_cast<size_t>(row)];
          ASSERT_EQ(layer.pruned[i], mask[static_cast<size_t>(j)] - '0') << row << "," << j;
          if (layer.pruned[i] != 0) {
            EXPECT_EQ(layer.w[i], 0.0f);
          }
        }
      }
    }
  }
}

// Of the weights as they come back from their stored form.
double StoredError(const std::vector<float>& before, const LayerWork& layer,
                   const Quantization& quantization) {
  const WeightSpec spec = {FormatId::kDensePanel, quantization.values, quantization.group};
  const Result<LinearWeight> packed =
      PackWeight(spec, layer.rows, layer.cols, layer.w.data(), quantization.grid.get());
  EXPECT_TRUE(packed.ok()) << packed.status().ToString();
  std::vector<float> stored(layer.w.size());
  UnpackRows(*packed, 0, layer.rows, stored.data());
  if (quantization.grid != nullptr) {
    EXPECT_EQ(stored, layer.w);
  }
  return layer.statistics->RelativeOutputError(before.data(), stored.data(), layer.rows);
}

double ErrorOf(const nlohmann::json& inputs, const std::vector<std::string>& steps) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(inputs, &pool);
  const std::vector<float> before = golden.layer.w;
  for (const std::string& step : steps) {
    const Status status = Make(step)->Apply(&golden.layer);
    EXPECT_TRUE(status.ok()) << step << status.ToString();
  }
  return StoredError(before, golden.layer, *golden.layer.quantization);
}

TEST(QuantizersTest, LoseLessThanRoundToNearestOnCorrelatedInputs) {
  for (const std::string values : {"i4", "u4", "i8"}) {
    for (const int64_t group : {32, 128}) {
      const std::string format = FormatYaml(values, group);
      SCOPED_TRACE(format);
      const nlohmann::json inputs = Inputs(16, 128, 31);
      const double rtn = ErrorOf(inputs, {"{method: rtn, " + format + "}"});
      EXPECT_LT(ErrorOf(inputs, {"{method: gptq, act_order: false, " + format + "}"}), 0.9 * rtn);
      EXPECT_LT(ErrorOf(inputs, {"{method: gptq, act_order: true, " + format + "}"}), 0.9 * rtn);
      // Without scales AWQ still clips, group by group where that helps: not at 8 bits.
      const double clipped = ErrorOf(inputs, {"{method: awq, scale: false, " + format + "}"});
      EXPECT_LE(clipped, rtn);
      if (values != "i8") {
        EXPECT_LT(clipped, 0.95 * rtn);
      }
      EXPECT_EQ(ErrorOf(inputs, {"{method: awq, scale: false, clip: false, " + format + "}"}), rtn);
    }
  }
}

TEST(QuantizersTest, OnePassLosesLessThanPruningThenRounding) {
  for (const std::string target :
       {"sparsity: 0.5", "pattern: \"2:4\"", "pattern: \"16x1\", sparsity: 0.5"}) {
    for (const std::string values : {"i4", "u4"}) {
      const std::string format = FormatYaml(values, 32);
      SCOPED_TRACE(target + " " + format);
      const nlohmann::json inputs = Inputs(32, 128, 33);
      const std::string prune = "{method: sparsegpt, " + target;
      const double joint = ErrorOf(inputs, {prune + ", quantize: {" + format + "}}"});
      EXPECT_LT(joint, ErrorOf(inputs, {prune + "}", "{method: rtn, " + format + "}"}));
    }
  }
}

TEST(QuantizersTest, OnePassPrunesExactlyWhatIsAskedFor) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(Inputs(6, 200, 35, {0, 150}), &pool);
  LayerWork& layer = golden.layer;
  ASSERT_TRUE(Make("{method: sparsegpt, sparsity: 0.7, quantize: {format: int4, group: 64}}")
                  ->Apply(&layer)
                  .ok());
  int64_t pruned = 0;
  for (size_t i = 0; i < layer.w.size(); ++i) {
    pruned += layer.pruned[i];
    if (i % 200 == 0 || i % 200 == 150) {
      EXPECT_EQ(layer.w[i], 0.0f);
    }
  }
  EXPECT_EQ(pruned, static_cast<int64_t>(6 * 128 * 0.7) + static_cast<int64_t>(6 * 72 * 0.7));
  EXPECT_EQ(layer.dead_columns, 2);
  EXPECT_EQ(layer.requested_sparsity, 0.7);
}

TEST(QuantizersTest, GptqKeepsTheMaskOfAnEarlierStep) {
  ThreadPool pool(1);
  for (const std::string act_order : {"true", "false"}) {
    GoldenCase golden = MakeGolden(Inputs(8, 96, 37), &pool);
    LayerWork& layer = golden.layer;
    ASSERT_TRUE(Make("{method: sparsegpt, pattern: \"2:4\"}")->Apply(&layer).ok());
    const std::vector<uint8_t> mask = layer.pruned;
    const std::vector<float> before = layer.w;
    ASSERT_TRUE(Make("{method: gptq, format: int4, group: 32, act_order: " + act_order + "}")
                    ->Apply(&layer)
                    .ok());
    EXPECT_EQ(layer.pruned, mask);
    for (size_t i = 0; i < mask.size(); ++i) {
      if (mask[i] != 0) {
        EXPECT_EQ(layer.w[i], 0.0f);
      }
    }
    // It can also be stored so.
    WeightSpec spec = {FormatId::kNm, ValueType::kI4, 32};
    spec.keep_n = 2;
    spec.of_m = 4;
    const Result<LinearWeight> packed =
        PackWeight(spec, 8, 96, layer.w.data(), layer.quantization->grid.get());
    ASSERT_TRUE(packed.ok()) << packed.status().ToString();
    std::vector<float> stored(layer.w.size());
    UnpackRows(*packed, 0, 8, stored.data());
    EXPECT_EQ(stored, layer.w);
  }
}

// The order of processing is that of the Hessian's diagonal, and the groups are found before any
// update, so another order of the inputs that keeps the groups together changes nothing.
TEST(QuantizersTest, ActOrderDoesNotDependOnTheOrderOfInputs) {
  ThreadPool pool(1);
  const int64_t rows = 6;
  const int64_t cols = 96;
  Rng rng(39);
  std::vector<float> w(static_cast<size_t>(rows * cols));
  std::vector<float> x(static_cast<size_t>(200 * cols));
  for (float& value : w)
    value = static_cast<float>(rng.Normal());
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(rng.Normal() * (1 + static_cast<double>(i % 7)));
  std::vector<LayerWork> results;
  for (const bool reversed : {false, true}) {
    const auto place = [&](int64_t j) { return reversed ? cols - 1 - j : j; };
    LayerWork layer = MakeLayer(rows, cols, &pool);
    std::vector<float> inputs(x.size());
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t row = 0; row < rows; ++row) {
        layer.w[static_cast<size_t>(row * cols + place(j))] =
            w[static_cast<size_t>(row * cols + j)];
      }
      for (int64_t t = 0; t < 200; ++t) {
        inputs[static_cast<size_t>(t * cols + place(j))] = x[static_cast<size_t>(t * cols + j)];
      }
    }
    InputStatistics statistics(cols, StatisticsNeed::kHessian);
    ASSERT_TRUE(statistics.Add(inputs.data(), 200).ok());
    statistics.EndSequence();
    statistics.Finish();
    layer.statistics = &statistics;
    ASSERT_TRUE(
        Make("{method: gptq, format: int4, group: 32, act_order: true}")->Apply(&layer).ok());
    const auto factor = statistics.Factor(0.01, false, /*act_order=*/true);
    ASSERT_TRUE(factor.ok());
    for (int64_t j = 1; j < cols; ++j) {
      const auto diagonal = [&](int64_t i) {
        return statistics
            .hessian()[static_cast<size_t>((*factor)->order[static_cast<size_t>(i)] * (cols + 1))];
      };
      EXPECT_GE(diagonal(j - 1), diagonal(j));
    }
    // The factor of the other order is not taken for this one.
    EXPECT_TRUE((*statistics.Factor(0.01, false))->order.empty());
    results.push_back(std::move(layer));
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < cols; ++j) {
      EXPECT_EQ(results[0].w[static_cast<size_t>(row * cols + j)],
                results[1].w[static_cast<size_t>(row * cols + cols - 1 - j)]);
    }
  }
}

TEST(QuantizersTest, ScaledStatisticsAreThoseOfScaledInputs) {
  const int64_t cols = 12;
  Rng rng(41);
  std::vector<float> x(static_cast<size_t>(30 * cols));
  for (float& value : x)
    value = static_cast<float>(rng.Normal());
  std::vector<double> factors;
  for (int64_t j = 0; j < cols; ++j)
    factors.push_back(std::ldexp(1.0, static_cast<int>(j % 5) - 2));  // exact in float32
  const StatisticsNeed need =
      StatisticsNeed::kHessian | StatisticsNeed::kInputSums | StatisticsNeed::kInputAbsSums;
  InputStatistics scaled(cols, need);
  ASSERT_TRUE(scaled.Add(x.data(), 30).ok());
  scaled.EndSequence();
  scaled.Finish();
  scaled.ScaleInputs(factors);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] *= static_cast<float>(factors[i % static_cast<size_t>(cols)]);
  InputStatistics direct(cols, need);
  ASSERT_TRUE(direct.Add(x.data(), 30).ok());
  direct.EndSequence();
  direct.Finish();
  EXPECT_EQ(scaled.hessian(), direct.hessian());
  EXPECT_EQ(scaled.sum_squares(), direct.sum_squares());
  EXPECT_EQ(scaled.sums(), direct.sums());
  EXPECT_EQ(scaled.abs_sums(), direct.abs_sums());
}

TEST(QuantizersTest, MistakesNameTheKey) {
  const struct {
    const char* yaml;
    const char* expected;
  } cases[] = {
      {"{method: gptq, format: int3}", "format"},
      {"{method: gptq, format: int8, symmetric: false}", "symmetric"},
      {"{method: gptq, format: int4, group: 48}", "group"},
      {"{method: gptq, group: 128, block_size: 96}", "block_size"},
      {"{method: gptq, damping: 0, allow_damping_escalation: true}", "damping"},
      {"{method: awq, act_order: true}", "act_order"},
      {"{method: sparsegpt, sparsity: 0.5, quantize: {format: int4, grup: 32}}", "quantize.grup"},
      {"{method: sparsegpt, sparsity: 0.5, quantize: int4}", "quantize"},
      {"{method: sparsegpt, sparsity: 0.5, quantize: {group: 64}, block_size: 96}", "block_size"},
  };
  for (const auto& c : cases) {
    Status status;
    Make(c.yaml, &status);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.yaml;
    EXPECT_NE(status.message().find(c.expected), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace harrow
