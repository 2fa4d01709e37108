#include "compress/reorder.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/recipe.h"
#include "compress/testing.h"
#include "kernels/elementwise.h"
#include "test_data.h"

namespace harrow {
namespace {

constexpr int64_t kTokens = 24;

class ReorderTest : public ::testing::Test {
 protected:
  // A tiny model (4 heads, 2 key-value heads), with weights of F32 so that nothing is rounded.
  void SetUp() override {
    testing::TinyModel tiny;
    tiny.layers = 1;
    tiny.dtype = DType::kF32;
    testing::WriteTinyModel(dir_.File("model"), tiny);
    auto checkpoint = Checkpoint::Open(dir_.File("model"));
    ASSERT_TRUE(checkpoint.ok());
    auto model = Model::Load(*checkpoint, {});
    ASSERT_TRUE(model.ok());
    model_ = std::move(model).value();
    for (int32_t t = 0; t < kTokens; ++t)
      ids_.push_back((t * 37 + 11) % 256);
  }

  std::vector<float> Logits(Observer* observer) {
    const ModelConfig& config = model_->config();
    auto state = NewForwardState(&pool_);
    auto kv = NewKvCache(config, config.layers, kTokens);
    std::vector<float> hidden(static_cast<size_t>(kTokens * config.hidden));
    EXPECT_TRUE(model_->Embed(ids_.data(), kTokens, hidden.data()).ok());
    EXPECT_TRUE(
        model_->ForwardBlock(0, hidden.data(), kTokens, 0, kv.get(), 0, state.get(), observer)
            .ok());
    std::vector<float> logits(static_cast<size_t>(kTokens * config.vocab));
    model_->Logits(hidden.data(), kTokens, state.get(), logits.data());
    return logits;
  }

  // Observes the block, then reorders it as the recipe's step wants.
  std::map<std::string, std::string> Reorder(const std::string& step,
                                             StatisticsObserver* observer) {
    const Result<Recipe> recipe =
        ParseRecipe("calibration: {file: t.txt}\nsteps: [" + step + "]", "r");
    EXPECT_TRUE(recipe.ok()) << recipe.status().ToString();
    const Result<CompressionPlan> plan = MakePlan(*recipe, *model_);
    EXPECT_TRUE(plan.ok()) << plan.status().ToString();
    Block& block = model_->blocks()[0];
    const auto need = StatisticsNeed::kInputNorms | StatisticsNeed::kHessian;
    observer->Watch({&block.o}, need);
    observer->Watch({&block.down}, need);
    dense_ = Logits(observer);
    EXPECT_TRUE(observer->EndSequence().ok());
    observer->Finish();
    auto notes =
        ReorderInputs(*plan, model_->config().head_dim, *observer, &pool_, nullptr, &block);
    EXPECT_TRUE(notes.ok()) << notes.status().ToString();
    return *notes;
  }

  testing::TempDir dir_;
  ThreadPool pool_{1};
  std::unique_ptr<Model> model_;
  std::vector<int32_t> ids_;
  std::vector<float> dense_;
};

std::vector<float> Values(const LinearLayer& layer) {
  std::vector<float> w(static_cast<size_t>(layer.rows * layer.cols));
  UnpackRows(layer.weight, 0, layer.rows, w.data());
  return w;
}

TEST_F(ReorderTest, TheModelComputesTheSame) {
  for (const std::string permute : {"heuristic", "lsa"}) {
    SetUp();
    const std::vector<float> o = Values(model_->blocks()[0].o);
    const std::vector<float> down = Values(model_->blocks()[0].down);
    StatisticsObserver observer;
    const auto notes =
        Reorder("{method: ria, pattern: \"2:4\", permute: " + permute + "}", &observer);
    ASSERT_EQ(notes.size(), 7u);
    for (const auto& [name, note] : notes) {
      const bool moves =
          name.find("o_proj") != std::string::npos || name.find("down") != std::string::npos;
      EXPECT_EQ(note.starts_with("inputs reordered"), moves) << name << ": " << note;
    }
    EXPECT_NE(Values(model_->blocks()[0].o), o);
    EXPECT_NE(Values(model_->blocks()[0].down), down);

    // The statistics went along: a forward pass sees the same ones, up to the rounding of float32
    // sums of at most 96 terms in the linears before.
    StatisticsObserver again;
    again.Watch({&model_->blocks()[0].o}, StatisticsNeed::kHessian);
    again.Watch({&model_->blocks()[0].down}, StatisticsNeed::kHessian);
    const std::vector<float> logits = Logits(&again);
    ASSERT_TRUE(again.EndSequence().ok());
    again.Finish();
    for (const LinearLayer* layer : {&model_->blocks()[0].o, &model_->blocks()[0].down}) {
      const std::vector<double>& moved = observer.Find(layer->name)->hessian();
      const std::vector<double>& seen = again.Find(layer->name)->hessian();
      const auto cols = static_cast<size_t>(layer->cols);
      for (size_t i = 0; i < cols; ++i) {
        for (size_t j = 0; j < cols; ++j) {
          const double scale = std::sqrt(seen[i * cols + i] * seen[j * cols + j]);
          EXPECT_NEAR(moved[i * cols + j], seen[i * cols + j], 1e-4 * scale);
        }
      }
    }
    // Only the order of the float32 sums of o_proj and down_proj changed: errors of the order of
    // sqrt(96) * 2^-24 of values of the order of 1, carried through a norm and the head.
    ASSERT_EQ(logits.size(), dense_.size());
    double largest = 0;
    for (size_t i = 0; i < logits.size(); ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(logits[i]) - dense_[i]));
    EXPECT_LT(largest, 96 * 0x1.0p-22);
  }
}

TEST_F(ReorderTest, OnlyWhatAMethodAsksFor) {
  StatisticsObserver observer;
  EXPECT_TRUE(Reorder("{method: ria, pattern: \"2:4\", permute: none}, {method: dsnot}", &observer)
                  .empty());
  EXPECT_EQ(Logits(nullptr), dense_);
  const auto notes =
      Reorder("{method: ria, pattern: \"2:4\", targets: \"re:(q|down)_proj\"}", &observer);
  EXPECT_EQ(notes.size(), 2u);
}

TEST_F(ReorderTest, PackedProducersStay) {
  LinearLayer& gate = model_->blocks()[0].gate;
  const std::vector<float> w = Values(gate);
  WeightSpec spec;
  spec.format = FormatId::kDensePanel;
  spec.values = ValueType::kI8;
  spec.group = 32;
  auto packed = PackWeight(spec, gate.rows, gate.cols, w.data());
  ASSERT_TRUE(packed.ok());
  gate.weight = std::move(packed).value();
  StatisticsObserver observer;
  const auto notes =
      Reorder("{method: ria, pattern: \"2:4\", targets: \"re:down_proj\"}", &observer);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes.begin()->second.find("packed already"), std::string::npos);
  EXPECT_EQ(Logits(nullptr), dense_);
}

}  // namespace
}  // namespace harrow
