// Allocation through whole runs, and calibration by input groups.
#include "compress/allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "compress/layer.h"
#include "compress/recipe.h"
#include "compress/testing.h"
#include "harrow/compress.h"
#include "test_data.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

// The recipe must not parse, or not run, with a message that has `expected` in it.
void ExpectMistake(const std::string& recipe, const std::string& expected) {
  const Result<Recipe> parsed = ParseRecipe(recipe, "r.yaml");
  ASSERT_FALSE(parsed.ok()) << recipe;
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(parsed.status().message().find(expected), std::string::npos)
      << parsed.status().ToString();
}

TEST(AllocationRecipeTest, MistakesNameTheKey) {
  const std::string steps = "steps: [{method: magnitude, sparsity: 0.5}, {method: rtn}]\n";
  ExpectMistake(steps + "allocation: owl", "allocation: expected a mapping");
  ExpectMistake(steps + "allocation: {}", "allocation.method: missing; expected uniform | owl");
  ExpectMistake(steps + "allocation: {method: best}", "allocation.method: expected uniform | owl");
  ExpectMistake(steps + "allocation: {method: uniform, steps: [2]}",
                "numbers of steps from 0 to 1");
  ExpectMistake(steps + "allocation: {method: uniform, steps: [0, 0]}", "different numbers");
  ExpectMistake(steps + "allocation: {method: uniform, steps: [1]}",
                "step 1 (rtn) has no sparsity");
  ExpectMistake(steps + "allocation: {method: uniform, lambda: 1}",
                "allocation.lambda: unknown key");
  ExpectMistake(steps + "allocation: {method: uniform, min: 0.9, max: 0.4}", "0.9 is above max");
  ExpectMistake(steps + "allocation: {method: uniform, max: 1}", "allocation.max: expected");
  const auto caps = [&steps](const std::string& list) {
    return steps + "allocation: {method: uniform, caps: " + list + "}";
  };
  ExpectMistake(caps("{match: q}"), "allocation.caps: expected a list of 1 to 1000 mappings");
  ExpectMistake(caps("[]"), "allocation.caps: expected a list of 1 to 1000 mappings");
  ExpectMistake(caps("[3]"), "allocation.caps[0]: expected a mapping");
  ExpectMistake(caps("[{max: 0.5}]"), "allocation.caps[0].match: missing");
  ExpectMistake(caps("[{match: a, max: 0.5}, {match: b}]"), "allocation.caps[1].max: missing");
  ExpectMistake(caps("[{match: \"re:(\", max: 0.5}]"), "is not a regular expression");
  ExpectMistake(caps("[{match: a, max: 1}]"), "caps[0].max: expected a sparsity below 1");
  ExpectMistake(caps("[{match: a, min: 0.5, max: 0.4}]"), "caps[0].min: 0.5 is above max, 0.4");
  ExpectMistake(caps("[{match: a, maxi: 0.5, max: 0.4}]"), "caps[0].maxi: unknown key");
  ExpectMistake(steps + "allocation: {method: owl}", "calibration: missing");
  ExpectMistake("steps: [{method: rtn}]\nallocation: {method: uniform}", "no step has a sparsity");
  ExpectMistake(
      "steps: [{method: magnitude, sparsity: 0.5, targets: \"re:q_proj\"},"
      " {method: magnitude, pattern: \"2:4\", targets: \"re:k_proj\"}]\n"
      "allocation: {method: uniform}",
      "N:M and other steps cannot share an allocation");
}

TEST(AllocationRecipeTest, CanonicalTextIsARecipe) {
  for (const std::string allocation : {"{method: owl}", "{method: dlp, steps: [1], min: 0.2}",
                                       "{method: alphapruning, embed: true}",
                                       "{method: dlp, caps: [{match: \"re:q_proj\", max: 0.3},"
                                       " {match: [lm_head, \"re:mlp\"], min: 0.2, max: 0.8}]}",
                                       "{method: sensitivity, file: s.json, max: 0.9}"}) {
    const Result<Recipe> recipe = ParseRecipe(
        "calibration: {file: t.txt}\n"
        "steps: [{method: wanda, sparsity: 0.5}, {method: sparsegpt, sparsity: 0.7}]\n"
        "allocation: " +
            allocation,
        "r.yaml");
    ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
    const Result<Recipe> again = ParseRecipe(recipe->canonical, "canonical");
    ASSERT_TRUE(again.ok()) << again.status().ToString();
    EXPECT_EQ(again->canonical, recipe->canonical);
    EXPECT_EQ(again->allocation->steps, recipe->allocation->steps);
    ASSERT_EQ(again->allocation->caps.size(), recipe->allocation->caps.size());
    EXPECT_EQ(again->allocation->caps.back().min, recipe->allocation->caps.back().min);
    EXPECT_EQ(again->allocation->caps.back().max, recipe->allocation->caps.back().max);
    EXPECT_EQ(again->allocation->caps.back().match, recipe->allocation->caps.back().match);
  }
}

class AllocationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Blocks differ, so that allocations do; wide enough for N:M and to see tenths of a percent.
    testing::WriteTinyModel(model_, {}, [](const std::string& name, std::vector<float>* values) {
      const float power = name.find("layers.0.") != std::string::npos   ? 1.0f
                          : name.find("layers.1.") != std::string::npos ? 2.0f
                                                                        : 3.0f;
      if (name.find("proj") == std::string::npos) return;
      for (float& value : *values)
        value = std::copysign(std::pow(std::fabs(value), power), value);
    });
    testing::WriteTinyText(text_);
  }
  std::string Calibration() const {
    return "calibration: {file: " + text_ + ", samples: 4, sequence_length: 32}\n";
  }
  Result<CompressReport> Run(const std::string& recipe, const RunControl* control = nullptr) {
    CompressOptions options;
    options.model = model_;
    options.recipe_text = recipe;
    options.output = dir_.File("out");
    options.threads = 1;
    options.overwrite = true;
    return Compress(options, control);
  }
  void ExpectError(const std::string& recipe, const std::string& expected) {
    const Result<CompressReport> report = Run(recipe);
    ASSERT_FALSE(report.ok()) << recipe;
    EXPECT_NE(report.status().message().find(expected), std::string::npos)
        << report.status().ToString();
    fs::remove_all(dir_.File("out.partial"));
  }
  // Mean over the weights of the layers that were allocated to.
  static double MeanAllocated(const CompressReport& report) {
    double sum = 0;
    double weights = 0;
    for (const LayerReport& layer : report.layers) {
      if (!layer.allocated_sparsity) continue;
      sum += *layer.allocated_sparsity * static_cast<double>(layer.rows * layer.cols);
      weights += static_cast<double>(layer.rows * layer.cols);
    }
    return sum / weights;
  }

  testing::TempDir dir_;
  std::string model_ = dir_.File("model");
  std::string text_ = dir_.File("text.txt");
};

TEST_F(AllocationTest, EveryAllocatorMeetsTheMeanAndThePrunersMeetTheAllocation) {
  std::ofstream file(dir_.File("s.json"));
  file << R"({"layers": [)";
  for (int b = 0; b < 3; ++b) {
    for (const char* name : {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate",
                             "mlp.up", "mlp.down"}) {
      file << fmt::format(
          R"({}{{"name": "model.layers.{}.{}_proj.weight", "points": [)"
          R"({{"sparsity": 0.5, "loss_increase": 0.1}},{{"sparsity": 0.9, "loss_increase": {}}}]}})",
          b == 0 && std::string(name) == "self_attn.q" ? "" : ",", b, name, 1 + b);
    }
  }
  file << "]}";
  file.close();
  for (const std::string& allocation : std::vector<std::string>{
           "method: uniform", "method: owl, lambda: 0.1", "method: dlp",
           "method: alphapruning, epsilon: 0.2", "method: alphapruning, min: 0.6, max: 0.75",
           "method: sensitivity, file: " + dir_.File("s.json")}) {
    SCOPED_TRACE(allocation);
    // Magnitude compares within the whole layer: exact to one weight.
    const Result<CompressReport> report =
        Run(Calibration() + "steps: [{method: magnitude, sparsity: 0.7}]\nallocation: {" +
            allocation + "}");
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    ASSERT_EQ(report->layers.size(), 21u);
    EXPECT_NEAR(MeanAllocated(*report), 0.7, 1e-12);
    bool differ = false;
    double weights = 0;
    double pruned = 0;
    for (const LayerReport& layer : report->layers) {
      const auto count = static_cast<double>(layer.rows * layer.cols);
      const double zeros = count - static_cast<double>(layer.nonzeros);
      EXPECT_LE(std::fabs(zeros - *layer.allocated_sparsity * count), 1.0) << layer.name;
      EXPECT_EQ(layer.requested_sparsity, layer.allocated_sparsity);
      differ = differ || *layer.allocated_sparsity != *report->layers[0].allocated_sparsity;
      if (allocation.find("min") != std::string::npos) {
        EXPECT_GE(*layer.allocated_sparsity, 0.6);
        EXPECT_LE(*layer.allocated_sparsity, 0.75);
      }
      weights += count;
      pruned += zeros;
    }
    EXPECT_EQ(differ, allocation != "method: uniform");
    EXPECT_NEAR(pruned, 0.7 * weights, 21);
    EXPECT_FALSE(fs::exists(dir_.File("out.partial")));
    EXPECT_FALSE(fs::exists(dir_.File("out") + "/harrow_allocation.json"));
  }
}

// All allocators: total exact within rounding, every cap obeyed, general and special ones.
TEST_F(AllocationTest, CapsOfSingleWeightsAreObeyedAndTheRestShared) {
  std::ofstream file(dir_.File("s.json"));
  file << R"({"layers": [)";
  for (int b = 0; b < 3; ++b) {
    for (const char* name : {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate",
                             "mlp.up", "mlp.down"}) {
      file << fmt::format(R"({}{{"name": "model.layers.{}.{}_proj", "points": [)"
                          R"({{"sparsity": 0.9, "loss_increase": {}}}]}})",
                          b == 0 && std::string(name) == "self_attn.q" ? "" : ",", b, name, 1 + b);
    }
  }
  file << "]}";
  file.close();
  for (const std::string& method : std::vector<std::string>{
           "uniform", "owl, lambda: 0.1", "dlp, alpha: 0.1", "alphapruning, epsilon: 0.2",
           "sensitivity, file: " + dir_.File("s.json")}) {
    SCOPED_TRACE(method);
    const Result<CompressReport> report =
        Run(Calibration() +
            "steps: [{method: magnitude, sparsity: 0.6}]\n"
            "allocation: {method: " +
            method +
            ", max: 0.85, caps: [{match: \"re:down_proj\", max: 0.4},"
            " {match: model.layers.0.self_attn.q_proj, max: 0},"
            " {match: [model.layers.2.mlp.down_proj.weight, \"re:layers.1.*v_proj\"], min: 0.7,"
            " max: 0.75}]}");
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    EXPECT_TRUE(report->warnings.empty());
    EXPECT_NEAR(MeanAllocated(*report), 0.6, 1e-12);
    double weights = 0;
    double pruned = 0;
    for (const LayerReport& layer : report->layers) {
      double low = 0;
      double high = 0.85;
      if (layer.name.find("down_proj") != std::string::npos) high = 0.4;
      if (layer.name == "model.layers.0.self_attn.q_proj.weight") high = 0;
      if (layer.name == "model.layers.2.mlp.down_proj.weight" ||
          layer.name == "model.layers.1.self_attn.v_proj.weight") {
        low = 0.7;
        high = 0.75;
      }
      EXPECT_GE(*layer.allocated_sparsity, low) << layer.name;
      EXPECT_LE(*layer.allocated_sparsity, high) << layer.name;
      const auto count = static_cast<double>(layer.rows * layer.cols);
      const double zeros = count - static_cast<double>(layer.nonzeros);
      EXPECT_LE(std::fabs(zeros - *layer.allocated_sparsity * count), 1.0) << layer.name;
      if (method == "uniform" && low == 0 && high == 0.85) {  // what was taken away, in equal parts
        EXPECT_GT(*layer.allocated_sparsity, 0.6);
        EXPECT_EQ(layer.allocated_sparsity, report->layers[1].allocated_sparsity);
      }
      weights += count;
      pruned += zeros;
    }
    EXPECT_NEAR(pruned, 0.6 * weights, 21);
  }
}

TEST_F(AllocationTest, CapsOfNmAreThoseThatItCanExpress) {
  const auto recipe = [this](const std::string& caps) {
    return Calibration() +
           "steps: [{method: wanda, pattern: \"4:8\"}]\n"
           "allocation: {method: owl, M: 3, caps: [" +
           caps + "]}";
  };
  const Result<CompressReport> report =
      Run(recipe("{match: \"re:down_proj\", max: 0.45}, {match: \"re:up_proj\", min: 0.55}"));
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  for (const LayerReport& layer : report->layers) {
    const bool down = layer.name.find("down_proj") != std::string::npos;
    const bool up = layer.name.find("up_proj") != std::string::npos;
    EXPECT_LE(layer.sparsity, down ? 0.375 : 0.875);
    EXPECT_GE(layer.sparsity, up ? 0.625 : 0.125);
  }
  ExpectError(recipe("{match: \"re:down_proj\", max: 0.1}"),
              "which caps[0].max 0.1 does not allow; leave it out by `ignore`");
}

TEST_F(AllocationTest, CapsThatMeanNothingOrTooMuchAreTold) {
  const auto recipe = [](const std::string& caps) {
    return "steps: [{method: magnitude, sparsity: 0.7, targets: \"re:mlp\"}]\n"
           "allocation: {method: uniform, caps: [" +
           caps + "]}";
  };
  ExpectError(recipe("{match: \"re:mlp\", max: 0.6}, {match: \"re:layers.1.mlp\", max: 0.65}"),
              "a mean sparsity of 0.7 cannot be met: the caps (caps[0].max 0.6, caps[1].max 0.65) "
              "allow a mean of at most 0.6167");
  ExpectError(recipe("{match: \"re:mlp\", min: 0.8}"),
              "(caps[0].min 0.8) ask for a mean of at least");
  ExpectError(recipe("{match: \"re:typo\", max: 0.6}"),
              "caps[0].match: \"re:typo\" matches no linear weight of the model");
  ExpectError(recipe("{match: \"re:embed\", max: 0.6}"), "by their whole name");
  for (const std::string match : {"\"re:q_proj\"", "model.embed_tokens", "lm_head"}) {
    const Result<CompressReport> report = Run(recipe("{match: " + match + ", max: 0.6}"));
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    ASSERT_EQ(report->warnings.size(), 1u);
    EXPECT_NE(report->warnings[0].find("the cap does nothing"), std::string::npos);
  }
}

TEST_F(AllocationTest, UniformIsARecipeWithoutAllocation) {
  const std::string steps = Calibration() + "steps: [{method: wanda, sparsity: 0.6}]\n";
  const Result<CompressReport> without = Run(steps);
  const Result<CompressReport> with = Run(steps + "allocation: {method: uniform}");
  ASSERT_TRUE(without.ok() && with.ok());
  for (size_t i = 0; i < without->layers.size(); ++i) {
    EXPECT_EQ(without->layers[i].nonzeros, with->layers[i].nonzeros);
    EXPECT_EQ(without->layers[i].allocated_sparsity, std::nullopt);
    EXPECT_EQ(with->layers[i].allocated_sparsity, 0.6);
  }
}

TEST_F(AllocationTest, AppliesToTheStepsNamedAndScoresTheirWeights) {
  const Result<CompressReport> report =
      Run(Calibration() +
          "steps: [{method: wanda, sparsity: 0.3, targets: \"re:mlp\"},"
          " {method: sparsegpt, sparsity: 0.6}]\n"
          "allocation: {method: dlp, steps: [1]}");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_NEAR(MeanAllocated(*report), 0.6, 1e-12);
  // Both steps are allocated: a weight's entry is that of its last step.
  const Result<CompressReport> both =
      Run(Calibration() +
          "steps: [{method: wanda, sparsity: 0.3, targets: \"re:mlp\"},"
          " {method: sparsegpt, sparsity: 0.6, targets: \"re:self_attn\"}]\n"
          "allocation: {method: owl, M: 3}");
  ASSERT_TRUE(both.ok()) << both.status().ToString();
  double sums[2] = {0, 0};
  double weights[2] = {0, 0};
  for (const LayerReport& layer : both->layers) {
    const size_t k = layer.name.find("mlp") == std::string::npos;
    sums[k] += *layer.allocated_sparsity * static_cast<double>(layer.rows * layer.cols);
    weights[k] += static_cast<double>(layer.rows * layer.cols);
  }
  EXPECT_NEAR(sums[0] / weights[0], 0.3, 1e-12);
  EXPECT_NEAR(sums[1] / weights[1], 0.6, 1e-12);
}

TEST_F(AllocationTest, PatternsAreRoundedWithAWarning) {
  const Result<CompressReport> report =
      Run(Calibration() +
          "steps: [{method: wanda, pattern: \"4:8\"}]\nallocation: {method: owl, M: 3}");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_FALSE(report->warnings.empty());
  EXPECT_NE(report->warnings[0].find("only by rounding to 1/8"), std::string::npos)
      << report->warnings[0];
  bool differ = false;
  for (const LayerReport& layer : report->layers) {
    EXPECT_LE(std::fabs(*layer.requested_sparsity - *layer.allocated_sparsity), 1.0 / 16 + 1e-12);
    EXPECT_EQ(layer.pattern, fmt::format("keep {} of 8", std::lround(8 - 8 * layer.sparsity)));
    differ = differ || layer.pattern != report->layers[0].pattern;
  }
  EXPECT_TRUE(differ);
}

TEST_F(AllocationTest, EmbeddingAndHeadTakePartByChoice) {
  const std::string steps =
      "steps: [{method: magnitude, sparsity: 0.6, targets: [\"re:.\", model.embed_tokens, "
      "lm_head]}]\n";
  const Result<CompressReport> out = Run(steps + "allocation: {method: alphapruning}");
  ASSERT_TRUE(out.ok()) << out.status().ToString();
  EXPECT_NEAR(MeanAllocated(*out), 0.6, 1e-12);
  const Result<CompressReport> in = Run(steps + "allocation: {method: alphapruning, embed: true}");
  ASSERT_TRUE(in.ok()) << in.status().ToString();
  EXPECT_NEAR(MeanAllocated(*in), 0.6, 1e-12);
  for (const CompressReport* report : {&*out, &*in}) {
    for (const LayerReport& layer : report->layers) {
      const bool outer =
          layer.name == "model.embed_tokens.weight" || layer.name == "lm_head.weight";
      EXPECT_EQ(layer.allocated_sparsity.has_value(), !outer || report == &*in) << layer.name;
      if (outer && report == &*out) {
        EXPECT_EQ(layer.requested_sparsity, 0.6);
      }
    }
  }
  ExpectError(Calibration() + steps + "allocation: {method: owl, embed: true}",
              "model.embed_tokens.weight is an embedding and has no inputs");
  const Result<CompressReport> head =
      Run(Calibration() +
          "steps: [{method: wanda, sparsity: 0.6, targets: [\"re:.\", lm_head]}]\n"
          "allocation: {method: dlp, embed: true}");
  ASSERT_TRUE(head.ok()) << head.status().ToString();
  EXPECT_TRUE(head->layers.back().allocated_sparsity.has_value());
  EXPECT_NEAR(MeanAllocated(*head), 0.6, 1e-12);
  ExpectError(
      "steps: [{method: magnitude, sparsity: 0.5, targets: lm_head}]\n"
      "allocation: {method: alphapruning}",
      "prunes no weight in the blocks; set `embed: true`");
}

TEST_F(AllocationTest, WhatCannotBeIsAnErrorBeforeOrAfterTheScores) {
  const std::string steps = "steps: [{method: magnitude, sparsity: 0.9}]\n";
  ExpectError(Calibration() + steps + "allocation: {method: owl, lambda: 0.4}",
              "would get a sparsity of");
  ExpectError(steps + "allocation: {method: alphapruning, max: 0.8}", "max 0.8");
  std::ofstream(dir_.File("bad.json")) << "{\"layers\": [";
  ExpectError(steps + "allocation: {method: sensitivity, file: " + dir_.File("bad.json") + "}",
              "bad.json");
}

TEST_F(AllocationTest, InterruptedRunsTakeTheScoresOver) {
  const std::string recipe =
      Calibration() + "steps: [{method: wanda, sparsity: 0.6}]\nallocation: {method: owl, M: 3}";
  const Result<CompressReport> whole = Run(recipe);
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  for (const std::string stop : {"dense block 2/3", "dense block 3/3", "block 2/3: calibrate"}) {
    SCOPED_TRACE(stop);
    std::atomic<bool> cancel = false;
    std::vector<std::string> seen;
    RunControl control;
    control.cancel = &cancel;
    control.on_progress = [&](std::string_view what, int64_t done, int64_t total) {
      EXPECT_LE(done, total);
      seen.emplace_back(what);
      if (what.starts_with(stop)) cancel = true;
    };
    EXPECT_EQ(Run(recipe, &control).status().code(), StatusCode::kCancelled);
    cancel = false;
    seen.clear();
    control.on_progress = [&](std::string_view what, int64_t, int64_t) { seen.emplace_back(what); };
    const Result<CompressReport> resumed = Run(recipe, &control);
    ASSERT_TRUE(resumed.ok()) << resumed.status().ToString();
    const bool again = std::any_of(seen.begin(), seen.end(), [](const std::string& what) {
      return what.starts_with("dense block");
    });
    EXPECT_EQ(again, stop.starts_with("dense"));
    ASSERT_EQ(resumed->layers.size(), whole->layers.size());
    for (size_t i = 0; i < whole->layers.size(); ++i) {
      EXPECT_EQ(resumed->layers[i].allocated_sparsity, whole->layers[i].allocated_sparsity);
      EXPECT_EQ(resumed->layers[i].nonzeros, whole->layers[i].nonzeros);
    }
  }
}

TEST_F(AllocationTest, AnotherSensitivityFileDoesNotContinueARun) {
  const auto write = [this](double loss) {
    std::ofstream(dir_.File("s.json"))
        << fmt::format(R"({{"layers": [{{"name": "model.layers.0.mlp.up_proj",)"
                       R"( "points": [{{"sparsity": 0.9, "loss_increase": {}}}]}},)"
                       R"({{"name": "model.layers.1.mlp.up_proj",)"
                       R"( "points": [{{"sparsity": 0.9, "loss_increase": 1}}]}}]}})",
                       loss);
  };
  const std::string recipe =
      "steps: [{method: magnitude, sparsity: 0.5, targets: \"re:layers.[01].mlp.up\"}]\n"
      "allocation: {method: sensitivity, file: " +
      dir_.File("s.json") + "}";
  write(2);
  std::atomic<bool> cancel = false;
  RunControl control;
  control.cancel = &cancel;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    if (what.starts_with("block 2/3")) cancel = true;
  };
  EXPECT_EQ(Run(recipe, &control).status().code(), StatusCode::kCancelled);
  write(0.5);
  const Result<CompressReport> other = Run(recipe);
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.status().message().find("other settings"), std::string::npos)
      << other.status().ToString();
  write(2);
  EXPECT_TRUE(Run(recipe).ok());
}

TEST_F(AllocationTest, ShortFormWritesTheSection) {
  PruneOptions options;
  options.method = "magnitude";
  options.sparsity = 0.5;
  EXPECT_EQ(PruneRecipe(options)->find("allocation"), std::string::npos);
  options.allocation = "alphapruning";
  const Result<std::string> text = PruneRecipe(options);
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  EXPECT_EQ(ParseRecipe(*text, "r")->allocation->method_name, "alphapruning");
  options.allocation = "sensitivity";
  EXPECT_FALSE(PruneRecipe(options).ok());
  options.sensitivity = "s.json";
  EXPECT_TRUE(PruneRecipe(options).ok());
}

// Notes which weights read the same values.
class GroupObserver final : public Observer {
 public:
  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override {
    const std::vector<float> input(x, x + m * k);
    if (groups.empty() || input != last_) groups.emplace_back();
    groups.back().emplace_back(name);
    last_ = input;
  }
  std::vector<std::vector<std::string>> groups;

 private:
  std::vector<float> last_;
};

TEST_F(AllocationTest, InputGroupsAreThoseOfTheForwardPass) {
  auto checkpoint = Checkpoint::Open(model_);
  ASSERT_TRUE(checkpoint.ok());
  auto model = Model::Load(*checkpoint, {});
  ASSERT_TRUE(model.ok());
  ThreadPool pool(1);
  auto state = NewForwardState(&pool);
  auto kv = NewKvCache((*model)->config(), 1, 4);
  std::vector<float> hidden(4 * 64, 0.5f);
  GroupObserver observer;
  ASSERT_TRUE(
      (*model)->ForwardBlock(0, hidden.data(), 4, 0, kv.get(), 0, state.get(), &observer).ok());
  std::vector<std::vector<std::string>> expected;
  for (const auto& group : (*model)->blocks()[0].input_groups()) {
    expected.emplace_back();
    for (const LinearLayer* linear : group)
      expected.back().push_back(linear->name);
  }
  EXPECT_EQ(observer.groups, expected);
}

// Two experts behind a router that sends one of them no token and the other few: the block lists a
// group for each, and each knows what it saw.
TEST(ExpertCalibrationTest, EveryGroupCountsItsTokens) {
  LinearLayer experts[3];
  StatisticsObserver observer;
  std::vector<float> w(8 * 8);
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = static_cast<float>(i % 7) - 3;
  for (int e = 0; e < 3; ++e) {
    experts[e].name = fmt::format("experts.{}.up.weight", e);
    experts[e].rows = experts[e].cols = 8;
    experts[e].weight = *PackWeight({FormatId::kDense, ValueType::kF32}, 8, 8, w.data());
    observer.Watch({&experts[e]}, StatisticsNeed::kInputNorms);
  }
  const std::vector<float> tokens(8 * 6, 1.0f);
  for (int sequence = 0; sequence < 2; ++sequence) {
    observer.OnLinearInput("experts.0.up.weight", tokens.data(), 6, 8);
    if (sequence == 0) observer.OnLinearInput("experts.1.up.weight", tokens.data(), 3, 8);
    ASSERT_TRUE(observer.EndSequence().ok());
  }
  observer.Finish();
  const Result<Recipe> recipe =
      ParseRecipe("calibration: {file: t.txt}\nsteps: [{method: wanda, sparsity: 0.5}]", "r.yaml");
  ASSERT_TRUE(recipe.ok());
  LayerPlan plan;
  plan.steps = {&recipe->steps[0]};
  ThreadPool pool(1);
  const int64_t expected[] = {12, 3, 0};
  const std::string warnings[] = {"", "saw 3 calibration tokens, fewer than its width of 8"};
  for (int e = 0; e < 3; ++e) {
    const auto statistics = observer.Take(experts[e].name);
    ASSERT_NE(statistics, nullptr);
    const Result<CompressedLayer> done =
        CompressLayer(experts[e], plan, Store::kDense, statistics.get(), &pool, nullptr);
    EXPECT_EQ(statistics->tokens(), expected[e]);
    if (expected[e] == 0) {  // nothing but chance would decide
      EXPECT_EQ(done.status().code(), StatusCode::kInvalidArgument);
      for (const std::string& part : {experts[e].name, std::string("no calibration token reached")})
        EXPECT_NE(done.status().message().find(part), std::string::npos)
            << done.status().ToString();
      continue;
    }
    ASSERT_TRUE(done.ok()) << done.status().ToString();
    EXPECT_EQ(done->report.calibration_tokens, expected[e]);
    std::string found;
    for (const std::string& warning : done->report.warnings)
      found += warning + "\n";
    if (warnings[e].empty()) {
      EXPECT_EQ(found, "");
    } else {
      EXPECT_NE(found.find(experts[e].name + ": its input " + warnings[e]), std::string::npos)
          << found;
    }
  }
}

}  // namespace
}  // namespace harrow
