#include "compress/rescale.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/testing.h"
#include "test_data.h"

namespace harrow {
namespace {

class RescaleTest : public ::testing::Test {
 protected:
  // Loads block 0 of a tiny model, whose ffn norm has a zero, and gathers what AWQ needs.
  void Load(DType dtype, const std::string& recipe) {
    const std::string directory = dir_.File("model");
    testing::TinyModel tiny;
    tiny.dtype = dtype;
    testing::WriteTinyModel(directory, tiny, [](const std::string& name, std::vector<float>* v) {
      if (name.ends_with("post_attention_layernorm.weight")) (*v)[3] = 0;
    });
    auto checkpoint = Checkpoint::Open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    checkpoint_ = *checkpoint;
    auto model = Model::Load(checkpoint_, {.lazy_blocks = true});
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(model).value();
    ASSERT_TRUE(model_->LoadBlock(0).ok());
    auto parsed = ParseRecipe("calibration: {file: x.txt}\nsteps: " + recipe, "test");
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    recipe_ = std::move(parsed).value();
    auto plan = MakePlan(recipe_, *model_);
    ASSERT_TRUE(plan.ok()) << plan.status().ToString();
    plan_ = std::move(plan).value();

    Rng rng(5);
    input_.resize(static_cast<size_t>(kTokens * model_->config().hidden));
    for (size_t i = 0; i < input_.size(); ++i)
      input_[i] = static_cast<float>(rng.Normal() * (i % 8 == 1 ? 8 : 1));
    const Block& block = model_->blocks()[0];
    const StatisticsNeed need = StatisticsNeed::kHessian | StatisticsNeed::kInputAbsSums;
    observer_.Watch({&block.q, &block.k, &block.v}, need);
    observer_.Watch({&block.o}, need);
    observer_.Watch({&block.gate, &block.up}, need);
    observer_.Watch({&block.down}, need);
    before_ = Forward(&observer_);
    ASSERT_TRUE(observer_.EndSequence().ok());
    observer_.Finish();
  }
  std::vector<float> Forward(Observer* observer) {
    auto state = NewForwardState(&pool_);
    auto kv = NewKvCache(model_->config(), 1, kTokens);
    std::vector<float> hidden = input_;
    EXPECT_TRUE(
        model_->ForwardBlock(0, hidden.data(), kTokens, 0, kv.get(), 0, state.get(), observer)
            .ok());
    return hidden;
  }
  Result<ScaledInputs> Scale() {
    return ScaleInputs(plan_, checkpoint_->tensors(), observer_, &pool_, nullptr,
                       &model_->blocks()[0]);
  }

  static constexpr int64_t kTokens = 40;
  testing::TempDir dir_;
  ThreadPool pool_{1};
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  Recipe recipe_;
  CompressionPlan plan_;
  StatisticsObserver observer_;
  std::vector<float> input_;
  std::vector<float> before_;
};

TEST_F(RescaleTest, TheBlockComputesTheSame) {
  Load(DType::kF32, "[{method: awq, format: int4, group: 32}]");
  Block& block = model_->blocks()[0];
  const std::vector<float> norm = block.ffn_norm;
  const Result<ScaledInputs> scaled = Scale();
  ASSERT_TRUE(scaled.ok()) << scaled.status().ToString();
  EXPECT_EQ(scaled->norms.size(), 2u);
  EXPECT_NE(block.ffn_norm, norm);
  EXPECT_EQ(block.ffn_norm[3], 0.0f);
  for (const char* name : {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}) {
    bool found = false;
    for (const auto& [weight, note] : scaled->notes) {
      if (weight.find(name) == std::string::npos) continue;
      found = true;
      EXPECT_TRUE(note.starts_with("inputs scaled by")) << note;
    }
    EXPECT_TRUE(found) << name;
  }
  // The model shares value heads between query heads.
  EXPECT_NE(scaled->notes.at(block.o.name).find("query heads share"), std::string::npos);

  const std::vector<float> after = Forward(nullptr);
  double difference = 0;
  double size = 0;
  double change = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    difference += std::pow(static_cast<double>(after[i]) - before_[i], 2);
    size += std::pow(static_cast<double>(before_[i]), 2);
    change += std::pow(static_cast<double>(before_[i]) - input_[i], 2);
  }
  // Every product w * x is rounded a few times more, each by 2^-24 at random; sums of 64 or 96 of
  // them can cancel, which 64 allows for.
  EXPECT_LT(std::sqrt(difference), 64 * 0x1.0p-24 * std::sqrt(size));
  EXPECT_GT(std::sqrt(change), 0.01 * std::sqrt(size));
}

TEST_F(RescaleTest, NormsKeepTheirTypeAndTheWeightsMakeUpForIt) {
  Load(DType::kBf16, "[{method: awq, format: int4, group: 32}]");
  Block& block = model_->blocks()[0];
  const std::vector<float> norm = block.attention_norm;
  std::vector<float> w(static_cast<size_t>(block.k.rows * block.k.cols));
  UnpackRows(block.k.weight, 0, block.k.rows, w.data());
  const double h_before = observer_.Find(block.q.name)->hessian()[1];
  const Result<ScaledInputs> scaled = Scale();
  ASSERT_TRUE(scaled.ok()) << scaled.status().ToString();
  const TensorView& view = scaled->norms.at(block.attention_norm_name);
  EXPECT_EQ(view.dtype, DType::kBf16);
  EXPECT_EQ(view.shape, (Shape{model_->config().hidden}));
  std::vector<float> stored(norm.size());
  ToFloat32(view, 0, view.elements(), stored.data());
  EXPECT_EQ(stored, block.attention_norm);
  std::vector<float> rescaled(w.size());
  UnpackRows(block.k.weight, 0, block.k.rows, rescaled.data());
  bool any = false;
  for (size_t i = 0; i < w.size(); ++i) {
    const size_t j = i % norm.size();
    any = any || stored[j] != norm[j];
    const double product = static_cast<double>(w[i]) * norm[j];
    EXPECT_NEAR(static_cast<double>(rescaled[i]) * stored[j], product,
                0x1.01p-24 * std::fabs(product));
  }
  EXPECT_TRUE(any);
  const double ratio = static_cast<double>(stored[0]) * stored[1] / (norm[0] * norm[1]);
  EXPECT_NEAR(observer_.Find(block.q.name)->hessian()[1], h_before * ratio,
              1e-6 * std::fabs(h_before));
}

TEST_F(RescaleTest, NothingIsScaledWhereTheStepDoesNotHaveAllThatItTakes) {
  // up_proj is left out, so gate cannot be scaled, nor down, whose inputs up makes.
  Load(DType::kBf16, "[{method: awq, format: int4, group: 32, ignore: \"re:up_proj\"}]");
  const Block& block = model_->blocks()[0];
  const std::vector<float> norm = block.ffn_norm;
  const Result<ScaledInputs> scaled = Scale();
  ASSERT_TRUE(scaled.ok()) << scaled.status().ToString();
  EXPECT_EQ(scaled->norms.size(), 1u);
  EXPECT_EQ(block.ffn_norm, norm);
  EXPECT_NE(scaled->notes.at(block.gate.name).find("up_proj.weight is not in the same step"),
            std::string::npos);
  EXPECT_NE(scaled->notes.at(block.down.name).find("up_proj.weight is not in the same step"),
            std::string::npos);
  EXPECT_EQ(scaled->notes.count(block.up.name), 0u);
}

}  // namespace
}  // namespace harrow
