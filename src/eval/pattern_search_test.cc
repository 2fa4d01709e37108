// Whole searches on a tiny model.
#include "eval/pattern_search.h"

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

#include "compress/testing.h"
#include "test_data.h"

namespace harrow {
namespace {

class PatternSearchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(dir_.File("model"), testing::TinyModel());
    testing::WriteTinyText(dir_.File("text.txt"));
    options_.layer = "model.layers.1.mlp.up_proj.weight";  // 96 x 64
    options_.calibration.calibration = dir_.File("text.txt");
    options_.calibration.samples = 4;
    options_.calibration.calibration_length = 16;
  }
  PatternReport Search() {
    const auto model = LoadModel(dir_.File("model"), std::make_shared<ThreadPool>(1));
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    Result<PatternReport> report = SearchLayerPatterns(*model, options_, nullptr);
    EXPECT_TRUE(report.ok()) << report.status().ToString();
    return report.ok() ? std::move(report).value() : PatternReport();
  }
  static bool Says(const PatternReport& report, const std::string& part) {
    return std::any_of(report.notes.begin(), report.notes.end(), [&](const std::string& note) {
      return note.find(part) != std::string::npos;
    });
  }

  testing::TempDir dir_;
  PatternOptions options_;
};

TEST_F(PatternSearchTest, RiaTakesPartInNmWithoutItsPermutation) {
  options_.methods = {"ria", "wanda"};
  options_.pattern_list = {"unstructured", "2:4"};
  std::map<std::string, double> errors;
  for (const PatternPoint& point : Search().points)
    if (point.pattern == "2:4") errors[point.method] = point.relative_error;
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_GT(errors["ria (permute: none)"], 0);
  EXPECT_GT(errors["wanda"], 0);
}

// 6 blocks of 32 x 32: a sparsity of 0.1 removes none of them, 0.5 three.
TEST_F(PatternSearchTest, ASparsityOfLessThanABlockDoesNotDropThePattern) {
  options_.methods = {"magnitude"};
  options_.pattern_list = {"32x32"};
  options_.sparsity = {0.1, 0.5};
  options_.bytes_ratio = 0.6;
  const PatternReport report = Search();
  EXPECT_TRUE(Says(report, "magnitude, 32x32: a sparsity of 0.1 is less than one block"));
  EXPECT_TRUE(std::any_of(report.points.begin(), report.points.end(), [](const PatternPoint& p) {
    return p.pattern == "32x32" && p.sparsity == 0.5;
  }));
  ASSERT_EQ(report.equal_bytes.size(), 1u);
  EXPECT_LE(report.equal_bytes[0].bytes_ratio, 0.603);
}

// A sparsity of the list may itself be what comes nearest to the budget.
TEST_F(PatternSearchTest, AMeasuredSparsityCanMeetTheBudget) {
  options_.methods = {"magnitude"};
  options_.pattern_list = {"unstructured"};
  options_.sparsity = {0.5};
  options_.bytes_ratio = 0.9;
  for (const PatternPoint& point : Search().points)
    if (!point.method.empty() && point.sparsity == 0.5) options_.bytes_ratio = point.bytes_ratio;
  ASSERT_LT(options_.bytes_ratio, 0.9);
  const PatternReport report = Search();
  ASSERT_EQ(report.equal_bytes.size(), 1u);
  EXPECT_EQ(report.equal_bytes[0].sparsity, 0.5);
}

}  // namespace
}  // namespace harrow
