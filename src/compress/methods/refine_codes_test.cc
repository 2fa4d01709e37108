#include "compress/methods/refine_codes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "compress/methods/grid.h"
#include "compress/methods/testing.h"

namespace harrow {
namespace {

using testing::GoldenCase;
using testing::Make;
using testing::MakeGolden;

constexpr double kDamping = 0.01;

nlohmann::json Inputs(int64_t rows, int64_t cols, bool dead) {
  return {{"rows", rows},
          {"cols", cols},
          {"seed", 77},
          {"ties", false},
          {"tokens", 40},
          {"sequences", 4},
          {"dead", dead ? nlohmann::json::array({3}) : nlohmann::json::array()}};
}

// (W - w) A (W - w)^T of one row, written out.
double ErrorOfRow(const LayerWork& layer, int64_t row, const std::vector<float>& w) {
  const std::vector<double>& h = layer.statistics->hessian();
  const int64_t n = layer.cols;
  double mean = 0;
  for (int64_t j = 0; j < n; ++j)
    mean += h[static_cast<size_t>(j * n + j)] / static_cast<double>(n);
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(row * n + i);
    const double d = static_cast<double>(layer.original[at]) - w[at];
    for (int64_t j = 0; j < n; ++j) {
      const auto other = static_cast<size_t>(row * n + j);
      const double a = h[static_cast<size_t>(i * n + j)] + (i == j ? kDamping * mean : 0);
      error += d * a * (static_cast<double>(layer.original[other]) - w[other]);
    }
  }
  return error;
}

GroupGrid GridAt(const LayerWork& layer, int64_t row, int64_t col) {
  const QuantGrid& grid = *layer.quantization->grid;
  const int64_t groups = (layer.cols + grid.group - 1) / grid.group;
  const auto i = static_cast<size_t>(row * groups + col / grid.group);
  return {grid.scales[i], grid.zeros.empty() ? 0.0f : grid.zeros[i]};
}

std::vector<std::string> Steps(const std::string& how, const std::string& format, int64_t sweeps) {
  const std::string grid = fmt::format("{}, sweeps: {}", format, sweeps);
  if (how == "gptq") return {"{method: gptq, " + grid + "}"};
  if (how == "masked") {
    return {"{method: magnitude, sparsity: 0.5}", "{method: gptq, " + grid + "}"};
  }
  return {"{method: sparsegpt, " + how + ", quantize: {" + grid + "}}"};
}

GoldenCase RunSteps(const nlohmann::json& inputs, const std::vector<std::string>& steps,
                    ThreadPool* pool) {
  GoldenCase golden = MakeGolden(inputs, pool);
  for (const std::string& step : steps) {
    const Status status = Make(step)->Apply(&golden.layer);
    EXPECT_TRUE(status.ok()) << step << ": " << status.ToString();
  }
  return golden;
}

class RefineCodesTest : public ::testing::TestWithParam<std::string> {};

// No outside reference has these exchanges, so the claim itself is tested: where the sweeps have
// ended, no code of a kept weight and no exchange is better, by an error that is written out.
TEST_P(RefineCodesTest, EndsWhereNoSingleMoveIsBetter) {
  ThreadPool pool(2);
  for (const std::string format : {"format: int4, group: 32", "format: int8, group: 32",
                                   "format: int4, group: 64, symmetric: false"}) {
    SCOPED_TRACE(format);
    const nlohmann::json inputs = Inputs(3, 64, /*dead=*/true);
    const GoldenCase start = RunSteps(inputs, Steps(GetParam(), format, 0), &pool);
    const GoldenCase golden = RunSteps(inputs, Steps(GetParam(), format, 1000), &pool);
    const LayerWork& layer = golden.layer;
    const bool exchanges = GetParam() != "gptq" && GetParam() != "masked";
    const int64_t run = layer.pattern.nm ? layer.pattern.nm->of : 16;
    for (int64_t row = 0; row < layer.rows; ++row) {
      const double error = ErrorOfRow(layer, row, layer.w);
      // The sums have 64^2 terms, and moves that gain less than 1e-9 of a weight are not made.
      const double slack = 1e-8 * error;
      EXPECT_LE(error, ErrorOfRow(layer, row, start.layer.w) + slack);
      for (int64_t j = 0; j < layer.cols; ++j) {
        const auto i = static_cast<size_t>(row * layer.cols + j);
        const ValueType values = layer.quantization->values;
        const GroupGrid grid = GridAt(layer, row, j);
        const int code = NearestCode(values, grid, layer.w[i]);
        if (layer.pruned[i] != 0) {
          ASSERT_EQ(layer.w[i], 0.0f);
          continue;
        }
        ASSERT_EQ(layer.w[i], ValueOfCode(grid, code)) << "off the grid";
        if (j == 3) continue;  // never seen: stays as it was
        std::vector<float> other = layer.w;
        for (const int step : {-1, 1}) {
          other[i] = ValueOfCode(grid, code + step);
          if (NearestCode(values, grid, other[i]) != code + step) continue;  // past the last code
          EXPECT_GE(ErrorOfRow(layer, row, other), error - slack) << row << "," << j;
        }
        if (!exchanges) continue;
        other[i] = 0;
        for (int64_t p = j / run * run; p < (j / run + 1) * run; ++p) {
          const auto back = static_cast<size_t>(row * layer.cols + p);
          if (layer.pruned[back] == 0 || p == 3) continue;
          const GroupGrid wide = GridAt(layer, row, p);
          for (int c = -128; c < 128; ++c) {
            const float value = ValueOfCode(wide, c);
            if (value == 0 || NearestCode(values, wide, value) != c) continue;
            other[back] = value;
            ASSERT_GE(ErrorOfRow(layer, row, other), error - slack) << row << "," << j << "," << p;
          }
          other[back] = 0;
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(, RefineCodesTest,
                         ::testing::Values("gptq", "masked", "sparsity: 0.5", "pattern: '2:4'"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase_if(name, [](char c) { return !std::isalnum(c); });
                           return name;
                         });

TEST(RefineCodes, KeepsTheCountOfZerosAndTheGroups) {
  ThreadPool pool(2);
  const std::string grid = ", quantize: {format: int4, group: 32, sweeps: ";
  for (const std::string target :
       {"sparsity: 0.6", "pattern: '2:4'", "sparsity: 0.5, pattern: 4x1"}) {
    SCOPED_TRACE(target);
    const auto step = [&](int sweeps) {
      return fmt::format("{{method: sparsegpt, {}{}{}}}}}", target, grid, sweeps);
    };
    const nlohmann::json inputs = Inputs(8, 96, /*dead=*/false);
    const GoldenCase before = RunSteps(inputs, {step(0)}, &pool);
    const GoldenCase after = RunSteps(inputs, {step(4)}, &pool);
    EXPECT_EQ(std::count(after.layer.pruned.begin(), after.layer.pruned.end(), 1),
              std::count(before.layer.pruned.begin(), before.layer.pruned.end(), 1));
    if (after.layer.pattern.block) {
      EXPECT_EQ(after.layer.pruned, before.layer.pruned);
    } else {
      EXPECT_NE(after.layer.pruned, before.layer.pruned);
    }
    if (!after.layer.pattern.nm) continue;
    for (auto group = after.layer.pruned.begin(); group != after.layer.pruned.end(); group += 4)
      EXPECT_EQ(std::count(group, group + 4, 1), 2);
  }
}

// What an earlier step, or an earlier run, pruned must not come back by an exchange.
TEST(RefineCodes, LeavesTheZerosOfEarlierSteps) {
  ThreadPool pool(2);
  const nlohmann::json inputs = Inputs(8, 96, /*dead=*/false);
  for (const std::string target : {"sparsity: 0.6", "pattern: '2:4'"}) {
    SCOPED_TRACE(target);
    // Magnitude knows nothing of the inputs, so that many of its zeros would be worth having back.
    const std::string first = "{method: magnitude, sparsity: 0.3}";
    const std::string second =
        "{method: sparsegpt, " + target + ", quantize: {format: int4, group: 32, sweeps: 5}}";
    const GoldenCase before = RunSteps(inputs, {first}, &pool);
    const GoldenCase after = RunSteps(inputs, {first, second}, &pool);
    ASSERT_NE(after.layer.notes.back().find("refined codes"), std::string::npos);
    for (size_t i = 0; i < after.layer.w.size(); ++i) {
      if (before.layer.pruned[i] == 0) continue;
      EXPECT_EQ(after.layer.pruned[i], 1) << i;
      EXPECT_EQ(after.layer.w[i], 0.0f) << i;
    }
  }
}

TEST(RefineCodes, DoesNotDependOnThreads) {
  ThreadPool one(1);
  ThreadPool two(2);
  const nlohmann::json inputs = Inputs(300, 64, /*dead=*/false);
  const std::vector<std::string> steps = Steps("sparsity: 0.5", "format: int4, group: 32", 3);
  const GoldenCase a = RunSteps(inputs, steps, &one);
  const GoldenCase b = RunSteps(inputs, steps, &two);
  EXPECT_EQ(a.layer.w, b.layer.w);
  EXPECT_EQ(a.layer.pruned, b.layer.pruned);
  EXPECT_EQ(a.layer.notes, b.layer.notes);
}

}  // namespace
}  // namespace harrow
