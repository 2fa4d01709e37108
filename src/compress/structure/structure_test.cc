#include "compress/structure/structure.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "compress/testing.h"
#include "harrow/compress.h"
#include "test_data.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;
using testing::TinyModel;

constexpr int64_t kHidden = 64, kFfn = 96, kTokens = 40;

// The generators of scripts/golden/structure_reference.py.
std::vector<float> Bells(uint64_t seed, int64_t count) {
  Rng rng(seed);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    double total = -2;
    for (int k = 0; k < 4; ++k)
      total += rng.Uniform();
    values.push_back(static_cast<float>(total));
  }
  return values;
}

std::vector<float> Inputs(uint64_t seed, int64_t cols) {
  std::vector<float> x = Bells(seed, kTokens * cols);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto j = static_cast<int64_t>(i) % cols;
    x[i] = x[i] * static_cast<float>(1 + j * 7 % 11) + static_cast<float>(j % 3);
  }
  return x;
}

std::unique_ptr<StructureMethod> Make(const std::string& yaml, Status* status) {
  OptionReader options(YAML::Load(yaml), "test", "");
  std::unique_ptr<StructureMethod> method =
      FindStructureMethod(options.String("method", ""))->make(&options);
  *status = options.Finish();
  return method;
}

std::unique_ptr<Model> Open(const std::string& directory, bool lazy = false) {
  const auto checkpoint = Checkpoint::Open(directory);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  if (!checkpoint.ok()) return nullptr;
  auto model = Model::Load(*checkpoint, {.lazy_blocks = lazy});
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  return model.ok() ? std::move(model).value() : nullptr;
}

class StructureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = dir_.File("model");
    text_ = dir_.File("text.txt");
    testing::WriteTinyModel(model_, TinyModel{.dtype = DType::kF32},
                            [](const std::string& name, std::vector<float>* values) {
                              const size_t at = std::string("model.layers.").size();
                              if (name.ends_with("o_proj.weight")) {
                                *values =
                                    Bells(100 + std::stoul(name.substr(at)), kHidden * kHidden);
                              } else if (name.ends_with("down_proj.weight")) {
                                *values = Bells(200 + std::stoul(name.substr(at)), kHidden * kFfn);
                              }
                            });
    testing::WriteTinyText(text_);
    std::ifstream file(testing::SourcePath("tests/golden/structure.json"));
    golden_ = nlohmann::json::parse(file);
  }
  CompressOptions Options(const std::string& recipe, const std::string& output) const {
    CompressOptions options;
    options.model = model_;
    options.recipe_text =
        "calibration: {file: " + text_ + ", samples: 6, sequence_length: 32}\n" + recipe;
    options.output = dir_.File(output);
    options.threads = 1;
    return options;
  }
  Result<CompressReport> Run(const std::string& recipe, const std::string& output,
                             const RunControl* control = nullptr) const {
    return Compress(Options(recipe, output), control);
  }
  static std::vector<float> Logits(const Model& model) {
    ThreadPool pool(1);
    const auto state = NewForwardState(&pool);
    const auto kv = NewKvCache(model.config(), model.config().layers, 30);
    std::vector<int32_t> ids(30);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>((i * 37 + 5) % 256);
    std::vector<float> hidden(ids.size() * kHidden), logits(ids.size() * 256);
    // In two parts, so that the cache of every layer is read back.
    EXPECT_TRUE(model.Forward(ids.data(), 20, 0, kv.get(), state.get(), hidden.data()).ok());
    EXPECT_TRUE(
        model.Forward(ids.data() + 20, 10, 20, kv.get(), state.get(), hidden.data() + 20 * kHidden)
            .ok());
    model.Logits(hidden.data(), 30, state.get(), logits.data());
    return logits;
  }

  testing::TempDir dir_;
  std::string model_;
  std::string text_;
  nlohmann::json golden_;
};

TEST_F(StructureTest, FlapDecidesAsTheReference) {
  const std::unique_ptr<Model> model = Open(model_, /*lazy=*/true);
  for (const nlohmann::json& c : golden_["flap"]) {
    Status status;
    const auto method =
        Make(fmt::format("method: flap\nratio: {}\nround: 1", c["ratio"].get<double>()), &status);
    ASSERT_TRUE(status.ok()) << status.ToString();
    const std::unique_ptr<StructureRun> run = method->Start(*model);
    for (int32_t b = 0; b < 3; ++b) {
      ASSERT_TRUE(model->LoadBlock(b).ok());
      const Block& block = model->blocks()[static_cast<size_t>(b)];
      const auto seed = static_cast<uint64_t>(b);
      const std::vector<float> o = Inputs(300 + seed, kHidden);
      const std::vector<float> down = Inputs(400 + seed, kFfn);
      run->OnLinearInput(block.q.name, down.data(), kTokens, kHidden);  // none of its business
      for (const int64_t first : {0, 10}) {                             // in two steps
        const int64_t count = first == 0 ? 10 : kTokens - 10;
        run->OnLinearInput(block.o.name, o.data() + first * kHidden, count, kHidden);
        run->OnLinearInput(block.down.name, down.data() + first * kFfn, count, kFfn);
      }
      ASSERT_TRUE(run->EndSequence(b, nullptr, nullptr, kTokens).ok());
      ASSERT_TRUE(run->EndBlock(b, block).ok());
      model->ReleaseBlock(b);
    }
    const auto decisions = run->Decide();
    ASSERT_TRUE(decisions.ok()) << decisions.status().ToString();
    for (size_t b = 0; b < 3; ++b) {
      SCOPED_TRACE(fmt::format("ratio {} block {}", c["ratio"].get<double>(), b));
      const BlockDecision& decision = (*decisions)[b];
      EXPECT_EQ(decision.neurons, c["neurons"][b].get<std::vector<int32_t>>());
      // A layer keeps one group where the reference keeps none, and says so.
      const auto groups = c["groups"][b].get<std::vector<int32_t>>();
      if (groups.empty()) {
        EXPECT_EQ(decision.kv_groups.size(), 1u);
        EXPECT_FALSE(decision.warnings.empty());
      } else {
        EXPECT_EQ(decision.kv_groups, groups);
      }
    }
  }
}

TEST_F(StructureTest, FlapRoundsNeuronsUp) {
  const auto report = Run("structure: [{method: flap, ratio: 0.4, round: 32}]\n", "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  for (const StructureBlockReport& block : report->structure[0].blocks) {
    EXPECT_EQ(block.ffn % 32, 0);
    EXPECT_GE(block.ffn, 32);
    EXPECT_EQ(block.heads, 2 * block.kv_heads);
  }
}

TEST_F(StructureTest, FlapReportsTheRatioThatItReached) {
  for (const double asked : {0.3, 0.95}) {
    SCOPED_TRACE(asked);
    CompressOptions options =
        Options(fmt::format("structure: [{{method: flap, ratio: {}, round: 32}}]", asked), "out");
    options.overwrite = true;
    const Result<CompressReport> report = Compress(options, nullptr);
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    const StructureReport& step = report->structure.at(0);
    // From the shapes that were written: 3 blocks of 64 x 64 + 2 * 32 x 64 + 64 x 64 + 3 * 96 x 64.
    const std::unique_ptr<Model> model = Open(dir_.File("out"));
    int64_t weights = 0;
    for (const Block& block : std::as_const(*model).blocks()) {
      for (const LinearLayer* linear : block.linears())
        weights += linear->rows * linear->cols;
    }
    EXPECT_DOUBLE_EQ(step.ratio, 1 - static_cast<double>(weights) / (3 * 64 * (64 * 3 + 96 * 3)));
    EXPECT_EQ(step.requested_ratio, asked);
    bool warned = false;
    for (const std::string& warning : report->warnings)
      warned |= warning.find(fmt::format("asked to remove {}", asked)) != std::string::npos;
    EXPECT_EQ(warned, std::fabs(step.ratio - asked) > 0.01);
    // A group of 2 heads and 32 neurons stay in every block.
    if (asked == 0.95) {
      EXPECT_LT(step.ratio, 0.7);
    }
  }
}

TEST_F(StructureTest, FlapReportsDeadInputsAndNamesWhatIsNoNumber) {
  const auto run = [&](const std::string& name, size_t index, float value, size_t count) {
    testing::WriteTinyModel(dir_.File("edited"), TinyModel{.dtype = DType::kF32},
                            [&](const std::string& tensor, std::vector<float>* values) {
                              if (tensor == name)
                                std::fill_n(values->begin() + static_cast<int64_t>(index), count,
                                            value);
                            });
    CompressOptions options = Options("structure: [{method: flap, ratio: 0.2}]", "out");
    options.model = dir_.File("edited");
    options.overwrite = true;
    options.restart = true;
    return Compress(options, nullptr);
  };
  // A gate of 0 lets nothing through: neurons 5 and 6 of block 1.
  const auto dead = run("model.layers.1.mlp.gate_proj.weight", 5 * kHidden, 0, 2 * kHidden);
  ASSERT_TRUE(dead.ok()) << dead.status().ToString();
  bool warned = false;
  for (const std::string& warning : dead->warnings) {
    warned |= warning.find("model.layers.1.mlp.down_proj.weight: 2 of 96 inputs were zero") !=
              std::string::npos;
  }
  EXPECT_TRUE(warned);
  // Not the weight whose input it spoils.
  for (const std::string name :
       {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.2.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight"}) {
    const auto broken = run(name, 7, NAN, 1);
    EXPECT_EQ(broken.status().code(), StatusCode::kNumerical);
    EXPECT_NE(broken.status().message().find(name + ": element 7 is nan"), std::string::npos)
        << broken.status().ToString();
  }
}

TEST_F(StructureTest, ShortGptScoresAsTheReference) {
  const std::unique_ptr<Model> model = Open(model_, /*lazy=*/true);
  Status status;
  const auto method = Make("method: shortgpt\ndrop: 2", &status);
  ASSERT_TRUE(status.ok()) << status.ToString();
  const std::unique_ptr<StructureRun> run = method->Start(*model);
  for (int32_t b = 0; b < 3; ++b) {
    const auto seed = static_cast<uint64_t>(b);
    const std::vector<float> before = Bells(500 + seed, kTokens * kHidden);
    std::vector<float> after = Bells(600 + seed, kTokens * kHidden);
    for (size_t i = 0; i < after.size(); ++i)
      after[i] = before[i] + after[i] * 0.25f * static_cast<float>(1 + b * 2 % 3);
    ASSERT_TRUE(run->EndSequence(b, before.data(), after.data(), 15).ok());
    ASSERT_TRUE(
        run->EndSequence(b, before.data() + 15 * kHidden, after.data() + 15 * kHidden, kTokens - 15)
            .ok());
  }
  const auto decisions = run->Decide();
  ASSERT_TRUE(decisions.ok());
  double most = 0;
  for (size_t b = 0; b < 3; ++b) {
    const double expected = golden_["shortgpt"][b];
    // The script rounds before + change to float32 in numpy as the test does.
    EXPECT_NEAR(*(*decisions)[b].score, expected, 1e-9);
    most = std::max(most, expected);
  }
  for (const BlockDecision& decision : *decisions)
    EXPECT_EQ(decision.dropped, *decision.score < most - 1e-9);
  const std::vector<float> zeros(kHidden, 0.0f);
  EXPECT_EQ(run->EndSequence(1, zeros.data(), zeros.data(), 1).code(), StatusCode::kNumerical);
}

// A model without its middle block is the same as running only the others.
TEST_F(StructureTest, DroppedBlocksLeaveAPlainModel) {
  const auto report = Run("structure: [{method: shortgpt, drop: 1}]\n", "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_EQ(report->structure.size(), 1u);
  int64_t dropped = -1;
  double lowest = 1e9;
  for (const StructureBlockReport& block : report->structure[0].blocks) {
    if (!block.kept) dropped = block.block;
    lowest = std::min(lowest, *block.score);
  }
  ASSERT_GE(dropped, 0);
  EXPECT_EQ(*report->structure[0].blocks[static_cast<size_t>(dropped)].score, lowest);
  EXPECT_GT(report->resident_bytes_before, report->resident_bytes);
  EXPECT_FALSE(fs::exists(dir_.File("out.structure-0")));
  const auto checkpoint = Checkpoint::Open(dir_.File("out"));
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ((*checkpoint)->config().num_hidden_layers, 2);
  EXPECT_EQ((*checkpoint)->config().harrow_version, 0);

  const std::unique_ptr<Model> small = Open(dir_.File("out"));
  std::unique_ptr<Model> dense = Open(model_);
  // Zeros in o and down make a block the identity.
  Block& block = dense->blocks()[static_cast<size_t>(dropped)];
  for (LinearLayer* layer : {&block.o, &block.down}) {
    const std::vector<float> zeros(static_cast<size_t>(layer->rows * layer->cols));
    layer->weight = PackWeight(layer->weight.spec, layer->rows, layer->cols, zeros.data()).value();
  }
  EXPECT_EQ(Logits(*small), Logits(*dense));
}

// The cut model against the dense one with zeros in the columns of o and down that left, and the
// same biases; and the biases against the mean inputs, gathered here.
TEST_F(StructureTest, FlapIsTheDenseModelWithPartsZeroed) {
  CompressOptions options = Options("structure: [{method: flap, ratio: 0.6, round: 8}]\n", "out");
  options.save_calibration = dir_.File("ids.json");
  const auto report = Compress(options, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  const auto checkpoint = Checkpoint::Open(dir_.File("out"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ((*checkpoint)->config().layers.size(), 3u);
  const std::unique_ptr<Model> small = Open(dir_.File("out"));
  std::unique_ptr<Model> dense = Open(model_);

  bool cut_heads = false;
  for (size_t b = 0; b < 3; ++b) {
    SCOPED_TRACE(b);
    const Block& kept = std::as_const(*small).blocks()[b];
    Block& whole = dense->blocks()[b];
    cut_heads = cut_heads || kept.kv_heads < whole.kv_heads;
    // Whether row r of a kept weight is in the whole one tells which units stayed.
    const auto zero_others = [](const LinearLayer& cut_rows, const LinearLayer& all_rows,
                                int64_t unit_rows, int64_t unit_cols, LinearLayer* columns) {
      std::vector<float> a(static_cast<size_t>(cut_rows.cols)), c(a.size());
      std::vector<float> w(static_cast<size_t>(columns->rows * columns->cols));
      UnpackRows(columns->weight, 0, columns->rows, w.data());
      int64_t next = 0;
      for (int64_t unit = 0; unit * unit_rows < all_rows.rows; ++unit) {
        UnpackRows(all_rows.weight, unit * unit_rows, unit * unit_rows + 1, a.data());
        if (next < cut_rows.rows) UnpackRows(cut_rows.weight, next, next + 1, c.data());
        if (next < cut_rows.rows && a == c) {
          next += unit_rows;
          continue;
        }
        for (int64_t i = 0; i < columns->rows; ++i) {
          std::fill_n(w.begin() + i * columns->cols + unit * unit_cols, unit_cols, 0.0f);
        }
      }
      EXPECT_EQ(next, cut_rows.rows);
      columns->weight =
          PackWeight(columns->weight.spec, columns->rows, columns->cols, w.data()).value();
    };
    zero_others(kept.k, whole.k, 16, 32, &whole.o);
    zero_others(kept.up, whole.up, 1, 1, &whole.down);
    ASSERT_FALSE(kept.down.bias.empty());
    whole.o.bias_name = kept.o.bias_name;
    whole.o.bias = kept.o.bias;
    whole.down.bias_name = kept.down.bias_name;
    whole.down.bias = kept.down.bias;
  }
  EXPECT_TRUE(cut_heads);
  const std::vector<float> got = Logits(*small);
  const std::vector<float> expected = Logits(*dense);
  double norm = 0;
  double difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    norm += std::pow(static_cast<double>(expected[i]), 2);
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(expected[i]), 2);
  }
  // Float32 sums in another order, over three blocks.
  EXPECT_LT(std::sqrt(difference / norm), 1e-5);

  // Mean inputs of block 0 of the untouched model.
  class Means final : public Observer {
   public:
    void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override {
      if (name != "model.layers.0.mlp.down_proj.weight") return;
      sums.resize(static_cast<size_t>(k));
      for (int64_t i = 0; i < m * k; ++i)
        sums[static_cast<size_t>(i % k)] += static_cast<double>(x[i]);
      tokens += m;
    }
    std::vector<double> sums;
    int64_t tokens = 0;
  } means;
  const std::unique_ptr<Model> original = Open(model_);
  ThreadPool pool(1);
  const auto state = NewForwardState(&pool);
  const nlohmann::json ids =
      nlohmann::json::parse(*ReadFile(dir_.File("ids.json"), 1 << 20))["ids"];
  for (const nlohmann::json& sequence : ids) {
    const auto tokens = sequence.get<std::vector<int32_t>>();
    const auto kv = NewKvCache(original->config(), 1, 32);
    std::vector<float> hidden(32 * kHidden);
    ASSERT_TRUE(original->Embed(tokens.data(), 32, hidden.data()).ok());
    ASSERT_TRUE(
        original->ForwardBlock(0, hidden.data(), 32, 0, kv.get(), 0, state.get(), &means).ok());
  }
  const LinearLayer& down = original->blocks()[0].down;
  std::vector<float> all(static_cast<size_t>(down.rows * down.cols)), zeroed(all.size());
  UnpackRows(down.weight, 0, down.rows, all.data());
  UnpackRows(std::as_const(*dense).blocks()[0].down.weight, 0, down.rows, zeroed.data());
  for (int64_t i = 0; i < down.rows; ++i) {
    double bias = 0;
    double magnitude = 0;
    for (int64_t j = 0; j < down.cols; ++j) {
      const auto at = static_cast<size_t>(i * down.cols + j);
      const double term = (static_cast<double>(all[at]) - static_cast<double>(zeroed[at])) *
                          means.sums[static_cast<size_t>(j)] / static_cast<double>(means.tokens);
      bias += term;
      magnitude += std::fabs(term);
    }
    EXPECT_NEAR(std::as_const(*small).blocks()[0].down.bias[static_cast<size_t>(i)], bias,
                1e-6 * magnitude + 1e-12);
  }
}

TEST_F(StructureTest, StepsFollowStructureAndExport) {
  const auto report =
      Run("structure: [{method: shortgpt, drop: 1}, {method: flap, ratio: 0.2, round: 8}]\n"
          "steps: [{method: wanda, sparsity: 0.5}]\n",
          "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->structure.size(), 2u);
  EXPECT_GE(report->seconds, report->structure[0].seconds + report->structure[1].seconds);
  EXPECT_EQ(report->layers.size(), 14u);
  for (const char* left : {"out.structure-0", "out.structure-1", "out.partial"})
    EXPECT_FALSE(fs::exists(dir_.File(left))) << left;
  const std::unique_ptr<Model> packed = Open(dir_.File("out"));
  ASSERT_TRUE(ExportDense({.model = dir_.File("out"), .output = dir_.File("dense")}, nullptr).ok());
  const std::unique_ptr<Model> dense = Open(dir_.File("dense"));
  EXPECT_EQ(dense->hf_config().layers, packed->hf_config().layers);
  EXPECT_EQ(dense->blocks()[0].down.bias, packed->blocks()[0].down.bias);
}

TEST_F(StructureTest, AnInterruptedRunTakesTheStructureOver) {
  const std::string recipe =
      "structure: [{method: flap, ratio: 0.3, round: 8}]\nsteps: [{method: wanda, sparsity: "
      "0.5}]\n";
  ASSERT_TRUE(Run(recipe, "whole").ok());
  std::atomic<bool> cancel = false;
  bool again = false;
  RunControl control;
  control.cancel = &cancel;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    if (what.starts_with("flap")) again = true;
    if (what.starts_with("block 2/3")) cancel = true;
  };
  EXPECT_EQ(Run(recipe, "out", &control).status().code(), StatusCode::kCancelled);
  EXPECT_TRUE(again);
  EXPECT_TRUE(fs::exists(dir_.File("out.structure-0/config.json")));
  // Other settings do not take it over.
  const auto other = Run("structure: [{method: flap, ratio: 0.4, round: 8}]\n", "out");
  EXPECT_NE(other.status().message().find("--restart"), std::string::npos);
  cancel = false;
  again = false;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    if (what.starts_with("flap")) again = true;
  };
  const auto report = Run(recipe, "out", &control);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_FALSE(again);
  EXPECT_EQ(report->structure[0].blocks.size(), 3u);
  for (const auto& entry : fs::directory_iterator(dir_.File("whole"))) {
    const std::string name = entry.path().filename();
    if (name == "harrow_report.json") continue;
    EXPECT_EQ(*ReadFile(entry.path(), 1 << 30), *ReadFile(dir_.File("out/" + name), 1 << 30));
  }
  EXPECT_FALSE(fs::exists(dir_.File("out.structure-0")));
}

TEST_F(StructureTest, MistakesAboutOutputAndTargetsAreFoundBeforeAnyWork) {
  bool worked = false;
  RunControl control;
  control.on_progress = [&](std::string_view, int64_t, int64_t) { worked = true; };
  const std::string wanda = "steps: [{method: wanda, sparsity: 0.5";
  const struct {
    std::string recipe;
    const char* message;
  } kCases[] = {
      {"structure: [{method: flap, ratio: 0.3}]\n" + wanda + ", targets: nothing}]\n",
       "\"nothing\" matches no linear weight"},
      // Two blocks are left, and they are 0 and 1.
      {"structure: [{method: shortgpt, drop: 1}]\n" + wanda +
           ", targets: model.layers.2.mlp.up_proj}]\n",
       "matches no linear weight"},
      {"structure: [{method: shortgpt, drop: 1}, {method: shortgpt, drop: 2}]\n",
       "drop: 2 of the model's 2 blocks"},
  };
  for (const auto& c : kCases) {
    const auto report = Run(c.recipe, "out", &control);
    EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument) << c.recipe;
    EXPECT_NE(report.status().message().find(c.message), std::string::npos)
        << report.status().ToString();
  }
  fs::create_directories(dir_.File("full"));
  std::ofstream(dir_.File("full/config.json")) << "{}";
  const auto exists = Run("structure: [{method: flap, ratio: 0.3}]\n", "full", &control);
  EXPECT_NE(exists.status().message().find("--overwrite"), std::string::npos)
      << exists.status().ToString();
  EXPECT_FALSE(worked);
}

TEST_F(StructureTest, ARunThatFailsOnAMistakeLeavesNothingThatItMade) {
  const std::string flap = "structure: [{method: flap, ratio: 0.3, round: 8}]\nsteps: ";
  // Widths are known only when the neurons have left.
  const std::string mistake = flap + "[{method: wanda, pattern: \"2:7\"}]\n";
  bool worked = false;
  RunControl control;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    worked = worked || what.starts_with("flap");
  };
  EXPECT_EQ(Run(mistake, "out", &control).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(worked);
  EXPECT_FALSE(fs::exists(dir_.File("out.structure-0")));
  // What an interrupted run needs stays.
  std::atomic<bool> cancel = false;
  control.cancel = &cancel;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    if (what.starts_with("block 2/3")) cancel = true;
  };
  const std::string recipe = flap + "[{method: wanda, sparsity: 0.5}]\n";
  EXPECT_EQ(Run(recipe, "out", &control).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(Run(mistake, "out").status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(fs::exists(dir_.File("out.structure-0/config.json")));
  const auto resumed = Run(recipe, "out");
  ASSERT_TRUE(resumed.ok()) << resumed.status().ToString();
  EXPECT_EQ(resumed->resumed_blocks, 1);
  EXPECT_FALSE(fs::exists(dir_.File("out.structure-0")));
}

TEST_F(StructureTest, MistakesAreNamed) {
  const struct {
    const char* recipe;
    const char* message;
  } kCases[] = {
      {"structure: [{method: shortgpt, drop: 3}]\n", "drop: 3 of the model's 3 blocks"},
      {"structure: [{method: shortgpt}]\n", "drop: missing"},
      {"structure: [{method: flap}]\n", "ratio"},
      {"structure: [{method: flap, ratio: 1}]\n", "ratio"},
      {"structure: [{method: flap, ratio: 0.5, round: 128}]\n", "round: 128 neurons"},
      {"structure: [{method: slimming}]\n", "expected shortgpt | flap, found \"slimming\""},
      {"structure: []\n", "expected a list of 1 to 100"},
      {"store: auto\n", "steps: missing"},
  };
  for (const auto& c : kCases) {
    const auto report = Run(c.recipe, "out");
    EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument) << c.recipe;
    EXPECT_NE(report.status().message().find(c.message), std::string::npos)
        << report.status().ToString();
  }
  CompressOptions none = Options("", "out");
  none.recipe_text = "structure: [{method: shortgpt, drop: 1}]\n";
  EXPECT_NE(Compress(none, nullptr).status().message().find("calibration: missing"),
            std::string::npos);
  // One token is too little to score by variance.
  CompressOptions little = Options("", "out");
  little.recipe_text = "calibration: {file: " + text_ +
                       ", samples: 1, sequence_length: 1}\nstructure: [{method: flap, ratio: 0.3}]";
  EXPECT_EQ(Compress(little, nullptr).status().code(), StatusCode::kNumerical);
  ASSERT_TRUE(Run("steps: [{method: wanda, sparsity: 0.5}]\n", "packed").ok());
  model_ = dir_.File("packed");
  const auto packed = Run("structure: [{method: shortgpt, drop: 1}]\n", "out");
  EXPECT_NE(packed.status().message().find("need a dense model"), std::string::npos)
      << packed.status().ToString();
}

}  // namespace
}  // namespace harrow
