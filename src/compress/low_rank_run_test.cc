// Whole runs with low-rank methods: what is stored runs, exports and resumes.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "compress/testing.h"
#include "harrow/compress.h"
#include "model/model.h"
#include "test_data.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;
using testing::TinyModel;

class LowRankRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = dir_.File("model");
    text_ = dir_.File("text.txt");
    testing::WriteTinyModel(model_, TinyModel{.layers = 2});
    testing::WriteTinyText(text_);
  }
  Result<CompressReport> Run(const std::string& steps, const std::string& output,
                             const RunControl* control = nullptr) {
    CompressOptions options;
    options.model = model_;
    options.recipe_text = "calibration: {file: " + text_ +
                          ", samples: 6, sequence_length: 32}\noutput_error: true\nsteps:\n" +
                          steps;
    options.output = dir_.File(output);
    options.threads = 1;
    return Compress(options, control);
  }
  static std::vector<float> LogitsOf(const std::string& directory) {
    const auto checkpoint = Checkpoint::Open(directory);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    const auto model = Model::Load(*checkpoint, {});
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    ThreadPool pool(1);
    const auto state = NewForwardState(&pool);
    const auto kv = NewKvCache((*model)->config(), (*model)->config().layers, 24);
    std::vector<int32_t> ids(24);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>((i * 37 + 5) % 256);
    std::vector<float> hidden(ids.size() * 64), logits(ids.size() * 256);
    EXPECT_TRUE((*model)->Forward(ids.data(), 24, 0, kv.get(), state.get(), hidden.data()).ok());
    (*model)->Logits(hidden.data(), 24, state.get(), logits.data());
    return logits;
  }
  // |a - b| / |b|
  static double Distance(const std::vector<float>& a, const std::vector<float>& b) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
      norm += std::pow(static_cast<double>(b[i]), 2);
    }
    return std::sqrt(difference / norm);
  }
  static std::map<std::string, std::string> WeightFiles(const std::string& directory) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(directory)) {
      const std::string name = entry.path().filename();
      if (name == "harrow_report.json") continue;
      files[name] = *ReadFile(entry.path(), uint64_t{1} << 30);
    }
    return files;
  }
  static double MeanError(const CompressReport& report) {
    double sum = 0;
    for (const LayerReport& layer : report.layers)
      sum += layer.relative_error.value_or(1e9);
    return sum / static_cast<double>(report.layers.size());
  }

  testing::TempDir dir_;
  std::string model_;
  std::string text_;
};

constexpr char kPruneResidual[] =
    "  - {method: svd_llm, ratio: 0.2, residual: true}\n  - {method: wanda, sparsity: 0.5}\n";

TEST_F(LowRankRunTest, FactorsReplaceTheWeight) {
  const auto report = Run("  - {method: svd_llm, ratio: 0.5}\n", "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_EQ(report->layers.size(), 14u);
  uint64_t before = 0;
  uint64_t after = 0;
  for (const LayerReport& layer : report->layers) {
    EXPECT_EQ(layer.rank, layer.rows * layer.cols / 2 / (layer.rows + layer.cols)) << layer.name;
    EXPECT_EQ(layer.spec, fmt::format("low-rank {}", layer.rank));
    EXPECT_EQ(layer.bytes, static_cast<uint64_t>(2 * layer.rank * (layer.rows + layer.cols)));
    before += layer.bytes_before;
    after += layer.bytes;
    EXPECT_LT(*layer.relative_error, 1.0) << layer.name;
  }
  EXPECT_LE(after, before / 2);
  EXPECT_EQ(report->resident_bytes_before - report->resident_bytes, before - after);

  const auto checkpoint = Checkpoint::Open(dir_.File("out"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ((*checkpoint)->config().harrow_version, 2);
  EXPECT_FALSE((*checkpoint)->tensors().Contains("model.layers.0.mlp.up_proj.weight"));
  EXPECT_EQ((*checkpoint)->LinearTensors("model.layers.0.mlp.up_proj.weight").size(), 2u);
}

// Residual and factors against one dense float32 product of their sum: activations, the inner ones
// too, are rounded to BF16 on the way, 2^-8 each.
TEST_F(LowRankRunTest, RunsAsItsDenseExport) {
  ASSERT_TRUE(Run(kPruneResidual, "out").ok());
  const auto exported =
      ExportDense({.model = dir_.File("out"), .output = dir_.File("dense")}, nullptr);
  ASSERT_TRUE(exported.ok()) << exported.status().ToString();
  EXPECT_EQ(exported->dtype, "f32");
  const std::vector<float> low_rank = LogitsOf(dir_.File("out"));
  const std::vector<float> dense = LogitsOf(dir_.File("dense"));
  EXPECT_LT(Distance(low_rank, dense), 0.02);
  const auto checkpoint = Checkpoint::Open(dir_.File("out"));
  ASSERT_TRUE(checkpoint.ok());
  const auto q = (*checkpoint)->Linear("model.layers.0.self_attn.q_proj.weight", 64, 64);
  ASSERT_TRUE(q.ok()) << q.status().ToString();
  EXPECT_EQ(FormatText(*q), "bitmask-bf16 + low-rank 6");
  // The bound tells models apart: the source is further away.
  EXPECT_GT(Distance(LogitsOf(model_), dense), 0.05);
}

TEST_F(LowRankRunTest, ProductLowersTheErrorOfPruningAndQuantizing) {
  const auto pruned = Run("  - {method: wanda, sparsity: 0.5}\n", "pruned");
  const auto split = Run(kPruneResidual, "split");
  const auto corrected = Run(
      "  - {method: wanda, sparsity: 0.5}\n  - {method: lowrank_correction, ratio: 0.2}\n", "c");
  const auto quantized =
      Run("  - {method: wanda, sparsity: 0.5}\n  - {method: rtn, embed: false}\n"
          "  - {method: lowrank_correction, ratio: 0.2, weighting: diagonal}\n",
          "q");
  for (const auto* report : {&pruned, &split, &corrected, &quantized})
    ASSERT_TRUE(report->ok()) << report->status().ToString();
  EXPECT_LT(MeanError(*split), MeanError(*pruned));
  EXPECT_LT(MeanError(*corrected), MeanError(*pruned));
  EXPECT_LT(MeanError(*quantized), MeanError(*pruned));
  EXPECT_EQ(quantized->layers[0].values, "i8");
  EXPECT_EQ(quantized->layers[0].rank, 6);
}

// Methods that go back to the original weight go back to what the product left of it.
TEST_F(LowRankRunTest, StepsAfterASplitApproximateTheResidual) {
  const auto split = Run(kPruneResidual, "split");
  ASSERT_TRUE(split.ok()) << split.status().ToString();
  for (const char* step : {"{method: reconstruct}", "{method: dsnot}"}) {
    const auto refined = Run(fmt::format("{}  - {}\n", kPruneResidual, step), "refined");
    ASSERT_TRUE(refined.ok()) << refined.status().ToString();
    EXPECT_LT(MeanError(*refined), 1.2 * MeanError(*split)) << step;
    std::filesystem::remove_all(dir_.File("refined"));
  }
  const auto alps =
      Run("  - {method: svd_llm, ratio: 0.2, residual: true}\n  - {method: alps, sparsity: 0.5}\n",
          "alps");
  ASSERT_TRUE(alps.ok()) << alps.status().ToString();
  EXPECT_LT(MeanError(*alps), MeanError(*split));
  EXPECT_EQ(Run(fmt::format("{}  - {{method: reconstruct, target: dense}}\n", kPruneResidual), "d")
                .status()
                .code(),
            StatusCode::kUnsupported);
}

TEST_F(LowRankRunTest, ResumesToTheSameBytes) {
  ASSERT_TRUE(Run(kPruneResidual, "whole").ok());
  std::atomic<bool> cancel = false;
  RunControl stop;
  stop.cancel = &cancel;
  stop.on_progress = [&cancel](std::string_view what, int64_t, int64_t) {
    if (what.find("block 2/2") != std::string_view::npos) cancel = true;
  };
  EXPECT_EQ(Run(kPruneResidual, "resumed", &stop).status().code(), StatusCode::kCancelled);
  const auto report = Run(kPruneResidual, "resumed");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->resumed_blocks, 1);
  EXPECT_EQ(report->layers[0].rank, 6);
  EXPECT_EQ(WeightFiles(dir_.File("resumed")), WeightFiles(dir_.File("whole")));
}

TEST_F(LowRankRunTest, PlansThatCannotBeAreRefused) {
  const struct {
    const char* steps;
    const char* message;
  } kCases[] = {
      {"  - {method: svd_llm, rank: 65}\n", "rank 65 of a weight [64, 64], expected at most 64"},
      {"  - {method: svd_llm, rank: 40}\n", "expected a rank of at most 31"},
      {"  - {method: svd_llm, rank: 8}\n  - {method: wanda, sparsity: 0.5}\n",
       "`residual: true` leaves a residual"},
      {"  - {method: svd_llm, rank: 8, residual: true}\n  - {method: asvd, rank: 4}\n",
       "has a low-rank product already"},
      {"  - {method: lowrank_correction, rank: 4}\n", "nothing to correct"},
      {"  - {method: wanda, sparsity: 0.5}\n  - {method: lowrank_correction, rank: 4}\n"
       "  - {method: rtn}\n",
       "must be the last step"},
      {"  - {method: asvd, rank: 4, targets: [lm_head, model.embed_tokens]}\n", "embedding"},
  };
  for (const auto& c : kCases) {
    const auto report = Run(c.steps, "out");
    EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(report.status().message().find(c.message), std::string::npos)
        << report.status().ToString();
    EXPECT_FALSE(fs::exists(dir_.File("out.partial")));
  }
}

TEST_F(LowRankRunTest, ALowRankModelIsNotCompressedAgain) {
  ASSERT_TRUE(Run("  - {method: svd_llm, rank: 8}\n", "first").ok());
  model_ = dir_.File("first");
  const auto again = Run("  - {method: wanda, sparsity: 0.5}\n", "second");
  EXPECT_NE(again.status().message().find("stored low-rank already"), std::string::npos)
      << again.status().ToString();
  // What no step touches is passed through.
  const auto head = Run("  - {method: wanda, sparsity: 0.5, targets: lm_head}\n", "second");
  ASSERT_TRUE(head.ok()) << head.status().ToString();
  const auto checkpoint = Checkpoint::Open(dir_.File("second"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ((*checkpoint)->config().low_rank.size(), 14u);
}

}  // namespace
}  // namespace harrow
