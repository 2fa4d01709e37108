// Whole studies of a tiny model.
#include "eval/study.h"

#include <atomic>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "compress/testing.h"
#include "test_data.h"

namespace harrow {
namespace {

class StudyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(dir_.File("model"), testing::TinyModel());
    testing::WriteTinyText(dir_.File("text.txt"));
    std::filesystem::create_directory(dir_.File("recipes"));
    options_.model = dir_.File("model");
    options_.recipes = dir_.File("recipes");
    options_.output = dir_.File("out");
    options_.text = dir_.File("text.txt");
    options_.seqlen = 16;
    options_.limit = 2;
    options_.n_prompt = 4;
    options_.n_gen = 2;
    options_.repetitions = 1;
    options_.min_seconds = 0;
    options_.baselines = false;
  }
  void WriteRecipe(const std::string& name, const std::string& recipe) {
    std::ofstream(dir_.File("recipes/" + name + ".yaml")) << recipe;
  }
  // `on_progress` may set cancel_.
  Result<StudyReport> Run(const std::function<void(std::string_view)>& on_progress) {
    cancel_ = false;
    RunControl control;
    control.cancel = &cancel_;
    control.on_progress = [&](std::string_view what, int64_t, int64_t) { on_progress(what); };
    return RunStudy(options_, std::make_shared<ThreadPool>(1), &control);
  }

  testing::TempDir dir_;
  StudyOptions options_;
  std::atomic<bool> cancel_ = false;
};

TEST_F(StudyTest, InterruptedWhileMeasuringItKeepsTheCompressedModel) {
  WriteRecipe("half", "steps: [{method: magnitude, sparsity: 0.5}]");
  const Result<StudyReport> cut = Run([&](std::string_view what) {
    if (what.find("half: compare") != std::string_view::npos) cancel_ = true;
  });
  ASSERT_EQ(cut.status().code(), StatusCode::kCancelled) << cut.status().ToString();
  EXPECT_FALSE(std::filesystem::is_empty(dir_.File("out/models")));

  int64_t compressing = 0;
  int64_t measuring = 0;
  const auto count = [&](std::string_view what) {
    compressing += what.find("half: block") != std::string_view::npos;
    measuring += what.find("half: compare") != std::string_view::npos;
  };
  const Result<StudyReport> report = Run(count);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(compressing, 0);
  EXPECT_GT(measuring, 0);
  ASSERT_EQ(report->points.size(), 2u);
  EXPECT_EQ(report->points[1].sparsity, 0.5);
  EXPECT_EQ(report->points[1].methods, std::vector<std::string>{"magnitude"});
  EXPECT_TRUE(report->points[1].sparse);
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("out/models")));

  // Another recipe of the same name does not take what is not its own.
  WriteRecipe("half", "steps: [{method: magnitude, sparsity: 0.25}]");
  const Result<StudyReport> other = Run(count);
  ASSERT_TRUE(other.ok()) << other.status().ToString();
  EXPECT_GT(compressing, 0);
  EXPECT_EQ(other->points[1].sparsity, 0.25);
}

TEST_F(StudyTest, TellsSparseQuantizedAndSmallerApart) {
  const std::string calibration =
      "calibration: {file: " + dir_.File("text.txt") + ", samples: 4, sequence_length: 16}\n";
  WriteRecipe("a_int8", "steps: [{method: rtn, group: 32}]\nstore: dense");
  WriteRecipe("b_flap", calibration + "structure: [{method: flap, ratio: 0.3, round: 8}]");
  WriteRecipe("c_svd", calibration + "steps: [{method: svd_llm, ratio: 0.3}]");
  WriteRecipe("d_both", "steps: [{method: magnitude, sparsity: 0.5}, {method: rtn, group: 32}]");
  const Result<StudyReport> report = Run([](std::string_view) {});
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  std::string forms;
  for (const StudyPoint& point : report->points) {
    forms += point.name + (point.sparse ? " sparse" : "") + (point.quantized ? " quantized" : "") +
             (point.smaller ? " smaller" : "") + "; ";
  }
  EXPECT_EQ(forms,
            "dense; a_int8 quantized; b_flap smaller; c_svd smaller; d_both sparse quantized; ");
}

}  // namespace
}  // namespace harrow
