#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "compress/methods/low_rank_fit.h"
#include "formats/linear_weight.h"
#include "test_data.h"

namespace harrow {
namespace {

std::unique_ptr<Method> Make(const std::string& yaml, Status* status) {
  OptionReader options(YAML::Load(yaml), "test", "");
  const MethodInfo* info = FindMethod(options.String("method", ""));
  std::unique_ptr<Method> method = info->make(&options);
  *status = options.Finish();
  return method;
}

std::vector<float> Flatten(const nlohmann::json& rows) {
  std::vector<float> values;
  for (const nlohmann::json& row : rows) {
    for (const nlohmann::json& value : row)
      values.push_back(value.get<float>());
  }
  return values;
}

// A layer with the weight and the calibration inputs of a golden case.
struct Case {
  LayerWork layer;
  std::unique_ptr<InputStatistics> statistics;

  Case(const nlohmann::json& c, ThreadPool* pool) {
    layer.name = "w";
    layer.rows = c["rows"];
    layer.cols = c["cols"];
    layer.w = Flatten(c["w"]);
    layer.pruned.resize(layer.w.size());
    layer.original = layer.w;
    layer.pool = pool;
    statistics = std::make_unique<InputStatistics>(
        layer.cols, StatisticsNeed::kHessian | StatisticsNeed::kInputAbsSums);
    const std::vector<float> x = Flatten(c["x"]);
    EXPECT_TRUE(statistics->Add(x.data(), static_cast<int64_t>(c["x"].size())).ok());
    statistics->EndSequence();
    statistics->Finish();
    layer.statistics = statistics.get();
  }
};

nlohmann::json GoldenCases() {
  std::ifstream file(testing::SourcePath("tests/golden/low_rank.json"));
  return nlohmann::json::parse(file);
}

std::string Yaml(const nlohmann::json& c, const std::string& extra = "") {
  std::string yaml = fmt::format("method: {}\nrank: {}\n{}", c["method"].get<std::string>(),
                                 c["rank"].get<int>(), extra);
  if (c["scaling"] == "hessian") return yaml + "\ndamping: 0";
  yaml += fmt::format("\nalpha: {}", c["alpha"].get<double>());
  return c["method"] == "lowrank_correction" ? yaml + "\nweighting: diagonal" : yaml;
}

// |B A - reference| within the rounding of both factors to BF16 (2^-8 each, relative), and what the
// 12 digits of the file and float64 algebra add.
void ExpectProduct(const LowRankProduct& product, const LayerWork& layer,
                   const nlohmann::json& reference) {
  for (int64_t i = 0; i < layer.rows; ++i) {
    for (int64_t j = 0; j < layer.cols; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < product.rank; ++k) {
        const double term =
            static_cast<double>(product.b[static_cast<size_t>(i * product.rank + k)]) *
            static_cast<double>(product.a[static_cast<size_t>(k * layer.cols + j)]);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double expected = reference[static_cast<size_t>(i)][static_cast<size_t>(j)];
      EXPECT_NEAR(sum, expected, 1.01 * 0x1.0p-7 * magnitude + 1e-9) << i << "," << j;
    }
  }
}

TEST(LowRankTest, AgreesWithTheFloat64Reference) {
  ThreadPool pool(1);
  const nlohmann::json cases = GoldenCases();
  ASSERT_GE(cases.size(), 7u);
  for (const nlohmann::json& c : cases) {
    SCOPED_TRACE(Yaml(c));
    Case golden(c, &pool);
    const bool corrects = c["method"] == "lowrank_correction";
    if (corrects) {
      Status status;
      const std::unique_ptr<Method> pruner = Make("method: magnitude\nsparsity: 0.5", &status);
      ASSERT_TRUE(pruner->Apply(&golden.layer).ok());
    }
    const std::vector<float> before = golden.layer.w;
    Status status;
    const std::unique_ptr<Method> method = Make(Yaml(c), &status);
    ASSERT_TRUE(status.ok()) << status.ToString();
    status = method->Apply(&golden.layer);
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(golden.layer.low_rank.has_value());
    const LowRankProduct& product = *golden.layer.low_rank;
    EXPECT_EQ(product.rank, c["rank"].get<int64_t>());
    EXPECT_EQ(product.residual, corrects);
    ExpectProduct(product, golden.layer, c["product"]);
    if (corrects) {
      EXPECT_EQ(golden.layer.w, before);
    } else {
      EXPECT_EQ(std::count(golden.layer.w.begin(), golden.layer.w.end(), 0.0f),
                golden.layer.rows * golden.layer.cols);
    }
  }
}

// The residual is what the stored, rounded factors leave: W comes back to float32 precision.
TEST(LowRankTest, ResidualAndProductAreTheWeight) {
  ThreadPool pool(1);
  const nlohmann::json c = GoldenCases()[0];
  Case golden(c, &pool);
  Status status;
  const std::unique_ptr<Method> method = Make(Yaml(c, "residual: true"), &status);
  ASSERT_TRUE(status.ok()) << status.ToString();
  const std::vector<float> weight = golden.layer.original;
  ASSERT_TRUE(method->Apply(&golden.layer).ok());
  ASSERT_TRUE(golden.layer.low_rank->residual);
  std::vector<double> fitted(golden.layer.w.size());
  Multiply(*golden.layer.low_rank, golden.layer.rows, golden.layer.cols, fitted.data());
  for (size_t i = 0; i < fitted.size(); ++i) {
    const double residual = golden.layer.w[i];
    EXPECT_NEAR(residual + fitted[i], weight[i], 0x1.0p-24 * std::fabs(residual) + 1e-12);
  }
  EXPECT_EQ(golden.layer.original, golden.layer.w);  // what later steps are to approximate
}

// A full-rank correction of quantized values brings the weight back, to the rounding of factors.
TEST(LowRankTest, CorrectsWhatQuantizationLost) {
  ThreadPool pool(1);
  const nlohmann::json c = GoldenCases()[5];
  const auto error = [&](const std::string& steps) {
    Case golden(c, &pool);
    golden.layer.quantization = Quantization{ValueType::kI8, 32, nullptr};
    Status status;
    const std::unique_ptr<Method> method = Make(steps, &status);
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_TRUE(method->Apply(&golden.layer).ok());
    const int64_t rows = golden.layer.rows;
    const int64_t cols = golden.layer.cols;
    const WeightSpec spec = {FormatId::kDensePanel, ValueType::kI8, 32};
    const LinearWeight stored = PackWeight(spec, rows, cols, golden.layer.w.data()).value();
    std::vector<float> w(golden.layer.w.size());
    UnpackRows(stored, 0, rows, w.data());
    std::vector<double> fitted(w.size());
    Multiply(*golden.layer.low_rank, rows, cols, fitted.data());
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      sum += std::pow(static_cast<double>(golden.layer.original[i] - w[i]) - fitted[i], 2);
    }
    return std::sqrt(sum);
  };
  const double small = error("method: lowrank_correction\nrank: 1");
  const double full = error("method: lowrank_correction\nrank: 12");
  EXPECT_GT(small, 0);
  EXPECT_LT(full, 0.02 * small);
}

TEST(LowRankTest, OptionsAreChecked) {
  for (const char* yaml :
       {"method: svd_llm", "method: svd_llm\nrank: 2\nratio: 0.5", "method: svd_llm\nrank: 0",
        "method: asvd\nratio: 0.5\nalpha: -1", "method: lowrank_correction\nratio: 3",
        "method: lowrank_correction\nrank: 2\nweighting: both",
        "method: svd_llm\nrank: 2\ndamping: 0\nallow_damping_escalation: true"}) {
    Status status;
    Make(yaml, &status);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << yaml;
  }
  Status status;
  const std::unique_ptr<Method> by_rank = Make("method: svd_llm\nrank: 9", &status);
  EXPECT_NE(by_rank->Check(8, 20).message().find("rank 9 of a weight [8, 20], expected at most 8"),
            std::string::npos);
  EXPECT_NE(by_rank->Check(16, 16).message().find("expected a rank of at most 7"),
            std::string::npos);
  EXPECT_TRUE(by_rank->Check(64, 64).ok());
  const std::unique_ptr<Method> by_ratio = Make("method: svd_llm\nratio: 0.01", &status);
  EXPECT_NE(by_ratio->Check(64, 64).message().find("a rank of 0"), std::string::npos);
}

// Inputs that never occur make the Hessian singular: without damping an error, not other factors.
TEST(LowRankTest, SingularHessianIsAnError) {
  ThreadPool pool(1);
  nlohmann::json c = GoldenCases()[0];
  c["x"] = std::vector<std::vector<float>>(3, c["x"][0].get<std::vector<float>>());
  Case golden(c, &pool);
  Status status;
  const std::unique_ptr<Method> method = Make("method: svd_llm\nrank: 2\ndamping: 0", &status);
  EXPECT_EQ(method->Apply(&golden.layer).code(), StatusCode::kNumerical);
}

}  // namespace
}  // namespace harrow
