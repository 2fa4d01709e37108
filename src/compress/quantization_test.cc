// How quantizers' wishes reach the stored weight.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "compress/layer.h"
#include "compress/storage.h"
#include "compress/testing.h"
#include "formats/testing.h"

namespace harrow {
namespace {

// Puts every weight on a grid of its own making: scale 0.25, zero point 5 (u4).
class CoarseQuantizer final : public Method {
 public:
  CoarseQuantizer(ValueType values, float beyond) : values_(values), beyond_(beyond) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return true; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override {
    QuantGrid grid;
    grid.group = 32;
    const int64_t groups = (layer->cols + 31) / 32;
    grid.scales.assign(static_cast<size_t>(layer->rows * groups), 0.25f);
    if (values_ == ValueType::kU4) grid.zeros.assign(grid.scales.size(), 5.0f);
    for (float& w : layer->w)
      w = std::clamp(std::nearbyint(w / 0.25f), -4.0f, 4.0f) * 0.25f;
    layer->w[7] = beyond_;
    layer->quantization =
        Quantization{values_, 32, std::make_shared<const QuantGrid>(std::move(grid))};
    return OkStatus();
  }

 private:
  ValueType values_;
  float beyond_;
};

LinearLayer RandomLayer(std::vector<float>* w, double density) {
  LinearLayer layer;
  layer.name = std::string("w");  // GCC 12 warns of assigning "w"
  layer.rows = 40;
  layer.cols = 96;
  Rng rng(3);
  const WeightSpec f32 = {FormatId::kDense, ValueType::kF32};
  *w = testing::RandomWeight(f32, layer.rows, layer.cols, density, &rng);
  layer.weight = PackWeight(f32, layer.rows, layer.cols, w->data()).value();
  return layer;
}

TEST(QuantizationTest, TheGridOfAQuantizerIsStored) {
  std::vector<float> w;
  const LinearLayer layer = RandomLayer(&w, 1);
  ThreadPool pool(1);
  for (const ValueType values : {ValueType::kI8, ValueType::kI4, ValueType::kU4}) {
    RecipeStep step;
    step.method_name = "coarse";
    step.method = std::make_unique<CoarseQuantizer>(values, 0.75f);
    LayerPlan plan;
    plan.steps = {&step};
    const Result<CompressedLayer> done =
        CompressLayer(layer, plan, Store::kSmall, nullptr, &pool, nullptr);
    ASSERT_TRUE(done.ok()) << done.status().ToString();
    EXPECT_EQ(done->report.values, ValueTypeName(values));
    std::vector<float> stored(w.size());
    UnpackRows(done->weight, 0, layer.rows, stored.data());
    for (size_t i = 0; i < w.size(); ++i) {
      const float expected =
          i == 7 ? 0.75f : std::clamp(std::nearbyint(w[i] / 0.25f), -4.0f, 4.0f) * 0.25f;
      ASSERT_EQ(stored[i], expected) << i;
    }
    // A quantizer that leaves its own grid is told so.
    step.method = std::make_unique<CoarseQuantizer>(values, 100.0f);
    const Result<CompressedLayer> bad =
        CompressLayer(layer, plan, Store::kSmall, nullptr, &pool, nullptr);
    ASSERT_FALSE(bad.ok());
    EXPECT_NE(bad.status().message().find("w: store as"), std::string::npos);
    EXPECT_NE(bad.status().message().find("row 0, column 7"), std::string::npos)
        << bad.status().message();
  }
}

// rtn gives what the packer makes of the source, in the smallest format.
TEST(QuantizationTest, RtnStoresTheRoundedSource) {
  struct Case {
    const char* recipe;
    double density;
    const char* spec;
  };
  ThreadPool pool(1);
  for (const Case& c :
       {Case{"steps: [{method: rtn, format: int4}]", 1, "dense-i4/128"},
        Case{"steps: [{method: rtn, format: int4, group: 32}]", 0.2, "bitmask-i4/32"},
        Case{"steps: [{method: rtn, format: int4, group: 64, symmetric: false}]", 1, "dense-u4/64"},
        Case{"steps: [{method: rtn, format: int4, group: 32, symmetric: false}]", 0.2,
             "bitmask-u4/32"}}) {
    std::vector<float> w;
    const LinearLayer layer = RandomLayer(&w, c.density);
    const Result<Recipe> recipe = ParseRecipe(c.recipe, "r");
    ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
    LayerPlan plan;
    plan.steps = {&recipe->steps[0]};
    const Result<CompressedLayer> done =
        CompressLayer(layer, plan, Store::kSmall, nullptr, &pool, nullptr);
    ASSERT_TRUE(done.ok()) << done.status().ToString();
    EXPECT_EQ(done->report.spec, c.spec);
    const LinearWeight expected =
        PackWeight(ParseSpec(c.spec).value(), layer.rows, layer.cols, w.data()).value();
    EXPECT_EQ(WeightChecksum(done->weight), WeightChecksum(expected)) << c.spec;
  }
}

// N:M is smaller than bitmask at the same values, and dense where the mask would cost more.
// A dense quantization has zeros, and the report says that they are no pruned weights.
TEST(QuantizationTest, ZerosOfRoundingAreCountedApart) {
  std::vector<float> w;
  LinearLayer layer = RandomLayer(&w, 0.7);
  for (size_t i = 0; i < w.size(); i += 5)
    w[i] = 1e-6f;
  layer.weight =
      PackWeight({FormatId::kDense, ValueType::kF32}, layer.rows, layer.cols, w.data()).value();
  ThreadPool pool(1);
  RecipeStep prune;
  prune.method_name = "magnitude";
  OptionReader half(YAML::Load("{sparsity: 0.5}"), "t", "");
  prune.method = FindMethod("magnitude")->make(&half);
  for (const bool pruned : {false, true}) {
    for (const std::string format : {"int8", "int4"}) {
      SCOPED_TRACE(format);
      RecipeStep round;
      round.method_name = "rtn";
      OptionReader options(YAML::Load("{group: 32, format: " + format + "}"), "t", "");
      round.method = FindMethod("rtn")->make(&options);
      LayerPlan plan;
      if (pruned) plan.steps.push_back(&prune);
      const Result<CompressedLayer> before =
          CompressLayer(layer, plan, Store::kDense, nullptr, &pool, nullptr);
      plan.steps.push_back(&round);
      const Result<CompressedLayer> done =
          CompressLayer(layer, plan, Store::kDense, nullptr, &pool, nullptr);
      ASSERT_TRUE(before.ok() && done.ok()) << done.status().ToString();
      EXPECT_EQ(before->report.rounded_to_zero, 0);
      EXPECT_EQ(done->report.rounded_to_zero, before->report.nonzeros - done->report.nonzeros);
      if (!pruned) {
        EXPECT_GT(done->report.rounded_to_zero, 0);
      }
    }
  }
}

TEST(QuantizationTest, ChoosesTheSmallestFormat) {
  LayerWork work;
  work.rows = 64;
  work.cols = 1024;
  work.quantization = Quantization{ValueType::kI4, 64, nullptr};
  const int64_t weights = work.rows * work.cols;
  const auto chosen = [&](int64_t nonzeros) {
    return SpecName(ChooseSpec(work, nonzeros, ValueType::kBf16, Store::kSmall));
  };
  EXPECT_EQ(chosen(weights), "dense-i4/64");
  EXPECT_EQ(chosen(weights * 4 / 5), "dense-i4/64");  // 1 + 3.2 bits against 4
  EXPECT_EQ(chosen(weights / 2), "bitmask-i4/64");
  work.pattern.nm = NmPattern{2, 4};
  EXPECT_EQ(chosen(weights / 2), "nm-i4/64 2:4");
  work.quantization->values = ValueType::kU4;
  EXPECT_EQ(chosen(weights / 2), "nm-u4/64 2:4");
}

}  // namespace
}  // namespace harrow
