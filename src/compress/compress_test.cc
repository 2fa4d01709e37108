#include "harrow/compress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "compress/layer.h"
#include "compress/layer_trials.h"
#include "compress/output_path.h"
#include "compress/recipe.h"
#include "compress/report_json.h"
#include "compress/testing.h"
#include "kernels/elementwise.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "model/model.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;
using testing::TinyModel;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// All files of a directory but the report, whose times differ.
std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename() == "harrow_report.json") continue;
    files[entry.path().filename()] = ReadAll(entry.path());
  }
  return files;
}

std::unique_ptr<Model> LoadModel(const std::string& directory) {
  auto checkpoint = Checkpoint::Open(directory);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  if (!checkpoint.ok()) return nullptr;
  auto model = Model::Load(*checkpoint, {});
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  return model.ok() ? std::move(model).value() : nullptr;
}

std::vector<float> Unpack(const LinearWeight& weight) {
  std::vector<float> w(static_cast<size_t>(weight.rows * weight.cols));
  UnpackRows(weight, 0, weight.rows, w.data());
  return w;
}

// Mean NLL in nats of windows of `ids`, each of `window` tokens.
double MeanNll(const Model& model, const std::vector<int32_t>& ids, int64_t window, int64_t most) {
  ThreadPool pool(2);
  auto state = NewForwardState(&pool);
  auto kv = NewKvCache(model.config(), model.config().layers, window);
  const int64_t hidden_size = model.config().hidden;
  const int64_t vocab = model.config().vocab;
  std::vector<float> hidden(static_cast<size_t>(window * hidden_size));
  std::vector<float> logits(static_cast<size_t>(window * vocab));
  double sum = 0;
  int64_t count = 0;
  for (int64_t begin = 0;
       begin + window <= static_cast<int64_t>(ids.size()) && begin / window < most;
       begin += window) {
    EXPECT_TRUE(
        model.Forward(ids.data() + begin, window, 0, kv.get(), state.get(), hidden.data()).ok());
    model.Logits(hidden.data(), window, state.get(), logits.data());
    for (int64_t t = 0; t + 1 < window; ++t) {
      const float* row = logits.data() + t * vocab;
      sum += LogSumExp(row, vocab) - row[ids[static_cast<size_t>(begin + t + 1)]];
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

class CompressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = dir_.File("model");
    text_ = dir_.File("text.txt");
    testing::WriteTinyModel(model_, TinyModel());
    testing::WriteTinyText(text_);
  }
  std::string Calibration() const {
    return "calibration: {file: " + text_ + ", samples: 6, sequence_length: 32}\n";
  }
  CompressOptions Options(const std::string& recipe, const std::string& output) const {
    CompressOptions options;
    options.model = model_;
    options.recipe_text = recipe;
    options.output = dir_.File(output);
    options.threads = 1;
    return options;
  }
  Result<CompressReport> Run(const std::string& recipe, const std::string& output,
                             const RunControl* control = nullptr) {
    return Compress(Options(recipe, output), control);
  }

  testing::TempDir dir_;
  std::string model_;
  std::string text_;
};

TEST_F(CompressTest, EveryMethodGivesALoadableModelOfTheDensityAskedFor) {
  const std::unique_ptr<Model> dense = LoadModel(model_);
  for (const std::string method : {"magnitude", "wanda", "ria", "sparsegpt"}) {
    for (const std::string target : {"sparsity: 0.5", "pattern: \"2:4\"", "pattern: \"1:8\""}) {
      for (const bool quantize : {false, true}) {
        if (quantize && target == "pattern: \"1:8\"") continue;
        SCOPED_TRACE(method + " " + target + (quantize ? " int8" : ""));
        std::string recipe = (method == "magnitude" ? "" : Calibration()) +
                             "steps:\n - method: " + method + "\n   " + target + "\n";
        if (quantize) recipe += " - method: rtn\n   group: 32\n";
        const Result<CompressReport> report = Run(recipe, "out");
        ASSERT_TRUE(report.ok()) << report.status().ToString();
        const std::unique_ptr<Model> model = LoadModel(dir_.File("out"));
        ASSERT_NE(model, nullptr);
        EXPECT_EQ(report->layers.size(), quantize ? 23u : 21u);
        std::map<std::string, LayerReport> layers;
        for (const LayerReport& layer : report->layers)
          layers[layer.name] = layer;
        for (const Block& block : std::as_const(*model).blocks()) {
          for (const LinearLayer* linear : block.linears()) {
            const LayerReport& layer = layers[linear->name];
            const std::vector<float> w = Unpack(linear->weight);
            const int64_t zeros = std::count(w.begin(), w.end(), 0.0f);
            EXPECT_EQ(layer.nonzeros, static_cast<int64_t>(w.size()) - zeros);
            EXPECT_EQ(layer.spec, SpecName(linear->weight.spec));
            EXPECT_EQ(layer.bytes, linear->weight.data.size());
            EXPECT_LT(layer.bytes, layer.bytes_before);
            const auto pruned = static_cast<double>(w.size()) * *layer.requested_sparsity;
            if (quantize) {  // rounding may add zeros
              EXPECT_GE(static_cast<double>(zeros), pruned);
            } else {
              EXPECT_EQ(static_cast<double>(zeros), pruned);
              EXPECT_EQ(layer.spec.substr(0, 2), target[0] == 's' ? "bi" : "nm");
            }
            EXPECT_EQ(layer.values, quantize ? "i8" : "bf16");
            EXPECT_EQ(layer.relative_error.has_value(), method == "sparsegpt");
            if (layer.relative_error) {
              EXPECT_GT(*layer.relative_error, 0);
              EXPECT_LT(*layer.relative_error, 1);
            }
          }
        }
        EXPECT_EQ(model->embedding().weight.spec.values,
                  quantize ? ValueType::kI8 : ValueType::kBf16);
        EXPECT_LT(report->resident_bytes, report->resident_bytes_before);
        EXPECT_EQ(report->resident_bytes_before > 0, true);
        uint64_t on_disk = 0;
        for (const auto& entry : fs::directory_iterator(dir_.File("out"))) {
          if (entry.path().extension() == ".safetensors") on_disk += entry.file_size();
        }
        EXPECT_EQ(report->disk_bytes, on_disk);
        const nlohmann::json saved =
            nlohmann::json::parse(ReadAll(dir_.File("out") + "/harrow_report.json"));
        EXPECT_EQ(saved["layers"].size(), report->layers.size());
        EXPECT_EQ(saved["disk_bytes"], on_disk);
        EXPECT_FALSE(fs::exists(dir_.File("out") + ".partial"));
        fs::remove_all(dir_.File("out"));
      }
    }
  }
}

// The masks of one block are those of the method on inputs that the compressed blocks before it
// produce: compressing everything equals compressing the first blocks and then, in a second run,
// the rest.
TEST_F(CompressTest, LaterBlocksSeeTheCompressedBlocksBeforeThem) {
  const std::string step = "steps: [{method: wanda, sparsity: 0.5";
  ASSERT_TRUE(Run(Calibration() + step + "}]", "all").ok());
  ASSERT_TRUE(Run(Calibration() + step + ", targets: \"re:layers.[01]\"}]", "first").ok());
  CompressOptions second = Options(Calibration() + step + ", targets: \"re:layers.2\"}]", "second");
  second.model = dir_.File("first");
  const Result<CompressReport> report = Compress(second, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_TRUE(Run(Calibration() + step + ", targets: \"re:layers.2\"}]", "alone").ok());
  const auto all = LoadModel(dir_.File("all"));
  const auto two = LoadModel(dir_.File("second"));
  const auto alone = LoadModel(dir_.File("alone"));
  bool same_as_alone = true;
  for (size_t b = 0; b < 3; ++b) {
    for (size_t i = 0; i < 7; ++i) {
      const auto expected = Unpack(std::as_const(*all).blocks()[b].linears()[i]->weight);
      EXPECT_EQ(Unpack(std::as_const(*two).blocks()[b].linears()[i]->weight), expected);
      if (b == 2 && Unpack(std::as_const(*alone).blocks()[b].linears()[i]->weight) != expected) {
        same_as_alone = false;
      }
    }
  }
  EXPECT_FALSE(same_as_alone);  // or this test could not fail
}

// AWQ scales inputs, and the weights that make them, before anything else is done to a block; that
// must not move the masks of the steps before it.
TEST_F(CompressTest, PrunersBeforeAwqSeeTheWeightsUnscaled) {
  testing::WriteTinyModel(dir_.File("loud"), TinyModel(),
                          [](const std::string& name, std::vector<float>* values) {
                            if (!name.ends_with("layernorm.weight")) return;
                            for (size_t i = 1; i < values->size(); i += 8)
                              (*values)[i] *= 16;
                          });
  for (const std::string method : {"magnitude", "ria", "sparsegpt"}) {
    SCOPED_TRACE(method);
    const std::string prune = "{method: " + method + ", sparsity: 0.5, compare: layer}";
    const std::string first = method == "sparsegpt" ? "{method: sparsegpt, sparsity: 0.5}" : prune;
    CompressOptions options = Options(Calibration() + "steps: [" + first + "]", "pruned");
    options.model = dir_.File("loud");
    ASSERT_TRUE(Compress(options, nullptr).ok());
    options.recipe_text =
        Calibration() + "steps: [" + first + ", {method: awq, format: int4, group: 32}]";
    options.output = dir_.File("both");
    const Result<CompressReport> report = Compress(options, nullptr);
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    int scaled = 0;
    for (const LayerReport& layer : report->layers) {
      for (const std::string& note : layer.notes)
        scaled += note.starts_with("inputs scaled by") && note != "inputs scaled by 1 to 1";
    }
    EXPECT_GE(scaled, 3 * 5);  // q, k, v, gate and up of every block, whose inputs are uneven
    // Later blocks have other inputs.
    const auto pruned = LoadModel(dir_.File("pruned"));
    const auto both = LoadModel(dir_.File("both"));
    ASSERT_TRUE(pruned != nullptr && both != nullptr);
    for (size_t i = 0; i < 7; ++i) {
      const LinearLayer* linear = std::as_const(*pruned).blocks()[0].linears()[i];
      const std::vector<float> alone = Unpack(linear->weight);
      const std::vector<float> w = Unpack(std::as_const(*both).blocks()[0].linears()[i]->weight);
      int64_t regrown = 0;  // rounding makes further zeros
      for (size_t k = 0; k < w.size(); ++k)
        regrown += alone[k] == 0 && w[k] != 0;
      EXPECT_EQ(regrown, 0) << linear->name;
      EXPECT_LT(std::count(w.begin(), w.end(), 0.0f), static_cast<int64_t>(w.size()) * 9 / 10);
    }
    fs::remove_all(dir_.File("pruned"));
    fs::remove_all(dir_.File("both"));
  }
  const Result<CompressReport> low_rank =
      Run(Calibration() +
              "steps: [{method: svd_llm, ratio: 0.2, residual: true}, {method: wanda, sparsity: "
              "0.5}, {method: awq}]",
          "out");
  EXPECT_NE(low_rank.status().message().find("scale: false"), std::string::npos)
      << low_rank.status().ToString();
}

// Silence of the inputs must not decide about weights.
TEST_F(CompressTest, AWeightWhoseInputsWereNeverSeenIsAnError) {
  testing::WriteTinyModel(dir_.File("silent"), TinyModel(),
                          [](const std::string& name, std::vector<float>* values) {
                            if (name == "model.layers.1.input_layernorm.weight")
                              std::fill(values->begin(), values->end(), 0.0f);
                          });
  const auto run = [&](const std::string& recipe) {
    CompressOptions options = Options(Calibration() + recipe, "out");
    options.model = dir_.File("silent");
    options.overwrite = true;
    options.restart = true;
    return Compress(options, nullptr);
  };
  for (const std::string method : {"wanda", "sparsegpt", "alps"}) {
    const Result<CompressReport> report = run("steps: [{method: " + method + ", sparsity: 0.5}]");
    EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument) << method;
    for (const char* part :
         {"model.layers.1.self_attn.q_proj.weight", "all of them were zero", "`ignore`"}) {
      EXPECT_NE(report.status().message().find(part), std::string::npos)
          << report.status().ToString();
    }
  }
  const Result<CompressReport> ignored =
      run("steps: [{method: sparsegpt, sparsity: 0.5, ignore: \"re:layers.1.self_attn\"}]");
  EXPECT_TRUE(ignored.ok()) << ignored.status().ToString();
  // What goes by the weights alone may go on.
  const Result<CompressReport> magnitude =
      run("steps: [{method: magnitude, sparsity: 0.5}]\noutput_error: true");
  ASSERT_TRUE(magnitude.ok()) << magnitude.status().ToString();
  EXPECT_NE(magnitude->layers[7].warnings.at(0).find("relative error says nothing"),
            std::string::npos)
      << magnitude->layers[7].warnings[0];
}

// What no step touches is written as it is, but not when it is no number.
TEST_F(CompressTest, ATensorThatNoStepTouchesMustBeFinite) {
  for (const std::string name :
       {"model.norm.weight", "model.layers.1.input_layernorm.weight", "model.embed_tokens.weight",
        "lm_head.weight", "model.layers.2.mlp.down_proj.weight"}) {
    SCOPED_TRACE(name);
    for (const float value : {NAN, INFINITY}) {
      testing::WriteTinyModel(dir_.File("broken"), TinyModel(),
                              [&](const std::string& tensor, std::vector<float>* values) {
                                if (tensor == name) values->back() = value;
                              });
      CompressOptions options =
          Options("steps: [{method: magnitude, sparsity: 0.5, ignore: \"re:down_proj\"}]", "out");
      options.model = dir_.File("broken");
      options.restart = true;
      const Result<CompressReport> report = Compress(options, nullptr);
      EXPECT_EQ(report.status().code(), StatusCode::kNumerical);
      EXPECT_NE(report.status().message().find(name), std::string::npos)
          << report.status().ToString();
      EXPECT_FALSE(fs::exists(dir_.File("out")));
    }
  }
}

TEST_F(CompressTest, TrialsTellWhatTakesASparsity) {
  const std::vector<std::string> able = SparsityMethods();
  for (const char* name : {"magnitude", "wanda", "ria", "sparsegpt", "alps", "lasso"})
    EXPECT_EQ(std::count(able.begin(), able.end(), name), 1) << name;
  for (const char* name : {"rtn", "gptq", "dsnot", "svd_llm"})
    EXPECT_EQ(std::count(able.begin(), able.end(), name), 0) << name;
  const std::unique_ptr<Model> model = LoadModel(model_);
  const TrialRecipe rtn = {.step = "{method: rtn}", .sparsity = 0.5};
  const auto trial = MakeTrial(rtn, *model);
  EXPECT_NE(trial.status().message().find("rtn takes no sparsity; expected one of magn"),
            std::string::npos)
      << trial.status().ToString();
  // In terms of the parts, without the place in a recipe that nobody wrote.
  const auto message = [&model](const TrialRecipe& recipe) {
    return MakeTrial(recipe, *model).status().message();
  };
  EXPECT_EQ(message({.step = "{method: wanda}", .sparsity = 0.5}),
            "--calibration: missing; the method needs text to calibrate on (.jsonl, .txt)");
  EXPECT_EQ(message({.step = "{method: magnitude}", .sparsity = 2}),
            "sparsity: expected a fraction, 0 < sparsity < 1, found \"2\"; 2 % is 0.02");
  EXPECT_EQ(message({.step = "{method: lasso}", .pattern = "2:4"}).find("pattern: "), 0U);
}

TEST_F(CompressTest, ResumesAfterTheLastFinishedBlock) {
  for (const std::string steps :
       {"steps: [{method: sparsegpt, sparsity: 0.5}, {method: rtn, group: 32}]",
        "steps: [{method: awq, format: int4, group: 32}]",
        "steps: [{method: wanda, sparsity: 0.5, ignore: \"re:down\"}]\nstore: dense",
        "steps: [{method: ria, pattern: \"2:4\", permute: lsa}, {method: dsnot}]"}) {
    const std::string recipe = Calibration() + steps;
    const Result<CompressReport> whole = Run(recipe, "whole");
    ASSERT_TRUE(whole.ok()) << whole.status().ToString();
    for (const std::string stop :
         {"block 1/3: calibrate", "block 2/3: calibrate", "block 2/3: model.layers.1.mlp",
          "block 2/3: run compressed", "block 3/3: model.layers.2.self_attn.v"}) {
      SCOPED_TRACE(stop);
      std::atomic<bool> cancel = false;
      RunControl control;
      control.cancel = &cancel;
      control.on_progress = [&](std::string_view what, int64_t done, int64_t total) {
        EXPECT_LE(done, total);
        if (what.starts_with(stop)) cancel = true;
      };
      const Result<CompressReport> stopped = Run(recipe, "out", &control);
      ASSERT_FALSE(stopped.ok());
      EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().ToString();
      EXPECT_FALSE(fs::exists(dir_.File("out")));

      // Another recipe must not continue this one's work.
      const Result<CompressReport> other =
          Run("steps: [{method: magnitude, sparsity: 0.5}]", "out");
      ASSERT_FALSE(other.ok());
      EXPECT_EQ(other.status().code(), StatusCode::kInvalidArgument);

      const Result<CompressReport> resumed = Run(recipe, "out");
      ASSERT_TRUE(resumed.ok()) << resumed.status().ToString();
      const int64_t finished = stop[6] - '1' + (stop.find("run") != std::string::npos ? 1 : 0);
      EXPECT_EQ(resumed->resumed_blocks, finished);
      EXPECT_EQ(Contents(dir_.File("out")), Contents(dir_.File("whole")));
      ASSERT_EQ(resumed->layers.size(), whole->layers.size());
      for (size_t i = 0; i < whole->layers.size(); ++i) {
        EXPECT_EQ(resumed->layers[i].name, whole->layers[i].name);
        EXPECT_EQ(resumed->layers[i].relative_error, whole->layers[i].relative_error);
        EXPECT_EQ(resumed->layers[i].bytes_before, whole->layers[i].bytes_before);
      }
      EXPECT_EQ(resumed->resident_bytes, whole->resident_bytes);
      EXPECT_EQ(resumed->resident_bytes_before, whole->resident_bytes_before);
      EXPECT_EQ(resumed->sparsity, whole->sparsity);
      fs::remove_all(dir_.File("out"));
    }
    fs::remove_all(dir_.File("whole"));
  }
}

// Cancels a run once it reports progress that begins with `stop`.
class StopAt {
 public:
  explicit StopAt(std::string stop) {
    control_.cancel = &cancel_;
    control_.on_progress = [this, stop = std::move(stop)](std::string_view what, int64_t, int64_t) {
      if (what.starts_with(stop)) cancel_ = true;
    };
  }
  const RunControl* control() const { return &control_; }

 private:
  std::atomic<bool> cancel_ = false;
  RunControl control_;
};

TEST_F(CompressTest, SecondInterruptionKeepsTheReportsOfFinishedBlocks) {
  const std::string recipe = Calibration() + "steps: [{method: sparsegpt, sparsity: 0.5}]";
  const Result<CompressReport> whole = Run(recipe, "whole");
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  const StopAt first("block 3/3: calibrate");
  const StopAt second("block 1/3: run compressed");
  for (const StopAt* stop : {&first, &second}) {
    EXPECT_EQ(Run(recipe, "out", stop->control()).status().code(), StatusCode::kCancelled);
  }
  const Result<CompressReport> resumed = Run(recipe, "out");
  ASSERT_TRUE(resumed.ok()) << resumed.status().ToString();
  EXPECT_EQ(resumed->resumed_blocks, 2);
  ASSERT_EQ(resumed->layers.size(), whole->layers.size());
  for (size_t i = 0; i < whole->layers.size(); ++i) {
    ASSERT_TRUE(whole->layers[i].damping.has_value());
    nlohmann::ordered_json expected = ReportToJson(whole->layers[i]);
    nlohmann::ordered_json found = ReportToJson(resumed->layers[i]);
    expected.erase("seconds");
    found.erase("seconds");
    EXPECT_EQ(found, expected);
  }
}

TEST_F(CompressTest, ContinuesOnlyWithTheSameArithmetic) {
  const std::string recipe = Calibration() + "steps: [{method: wanda, sparsity: 0.5}]";
  const StopAt stop("block 2/3: calibrate");
  EXPECT_EQ(Run(recipe, "out", stop.control()).status().code(), StatusCode::kCancelled);
  const auto expect_refused = [&](const CompressOptions& options) {
    const Result<CompressReport> report = Compress(options, nullptr);
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.status().message().find("other settings"), std::string::npos)
        << report.status().ToString();
  };
  CompressOptions options = Options(recipe, "out");
  options.threads = 2;
  expect_refused(options);
  options.threads = 1;
  const std::string forced(ForcedLinearKernel());
  ASSERT_TRUE(ForceLinearKernel(forced == "linear" ? "linear." : "linear").ok());
  expect_refused(options);
  ASSERT_TRUE(ForceLinearKernel(forced).ok());
  if (const Isa isa = ActiveIsa(); isa != Isa::kScalar) {
    ASSERT_TRUE(SetIsaLimit(Isa::kScalar).ok());
    expect_refused(options);
    ASSERT_TRUE(SetIsaLimit(isa).ok());
  }
  const Result<CompressReport> report = Compress(options, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->resumed_blocks, 1);
}

TEST_F(CompressTest, RestartThrowsTheUnfinishedRunAway) {
  std::atomic<bool> cancel = false;
  RunControl control;
  control.cancel = &cancel;
  control.on_progress = [&](std::string_view what, int64_t, int64_t) {
    if (what.starts_with("block 3/3")) cancel = true;
  };
  const std::string recipe = "steps: [{method: magnitude, sparsity: 0.5}]";
  ASSERT_FALSE(Run(recipe, "out", &control).ok());
  CompressOptions options = Options("steps: [{method: magnitude, sparsity: 0.25}]", "out");
  EXPECT_FALSE(Compress(options, nullptr).ok());
  options.restart = true;
  const Result<CompressReport> report = Compress(options, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->resumed_blocks, 0);
}

TEST_F(CompressTest, ExportIsBitEqualToWhatKernelsComputeWith) {
  struct Case {
    const char* steps;
    const char* dtype;
    const char* exported;
  };
  for (const Case& c :
       {Case{"steps: [{method: magnitude, sparsity: 0.6}]", "auto", "bf16"},
        Case{"steps: [{method: magnitude, sparsity: 0.6}]", "f32", "f32"},
        Case{"steps: [{method: rtn, group: 32}]", "auto", "f32"},
        Case{"steps: [{method: rtn, format: int4, group: 32}]", "auto", "f32"},
        Case{"steps: [{method: rtn, format: int4, group: 64, symmetric: false}]", "auto", "f32"},
        Case{"steps: [{method: magnitude, pattern: \"2:4\"}, {method: rtn}]", "auto", "f32"}}) {
    ASSERT_TRUE(Run(c.steps, "packed").ok());
    ExportOptions options;
    options.model = dir_.File("packed");
    options.output = dir_.File("exported");
    options.dtype = c.dtype;
    const Result<ExportReport> report = ExportDense(options, nullptr);
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    EXPECT_EQ(report->dtype, c.exported);
    const auto packed = LoadModel(dir_.File("packed"));
    const auto dense = LoadModel(dir_.File("exported"));
    ASSERT_TRUE(packed != nullptr && dense != nullptr);
    EXPECT_TRUE(dense->hf_config().packed.empty());
    EXPECT_EQ(Unpack(dense->embedding().weight), Unpack(packed->embedding().weight));
    EXPECT_EQ(Unpack(dense->head().weight), Unpack(packed->head().weight));
    for (size_t b = 0; b < 3; ++b) {
      for (size_t i = 0; i < 7; ++i) {
        const LinearWeight& weight = std::as_const(*dense).blocks()[b].linears()[i]->weight;
        EXPECT_EQ(weight.spec.format, FormatId::kDense);
        EXPECT_EQ(Unpack(weight), Unpack(std::as_const(*packed).blocks()[b].linears()[i]->weight));
      }
    }
    if (std::string(c.exported) == "bf16") {
      // Both models run in BF16, only the order of summation may differ.
      std::vector<int32_t> ids;
      for (int i = 0; i < 60; ++i)
        ids.push_back((i * 37) % 256);
      EXPECT_NEAR(MeanNll(*dense, ids, 30, 2), MeanNll(*packed, ids, 30, 2), 1e-4);
    }
    fs::remove_all(dir_.File("packed"));
    fs::remove_all(dir_.File("exported"));
  }
}

TEST_F(CompressTest, ExportDoesNotReplaceItsSource) {
  const std::map<std::string, std::string> before = Contents(model_);
  fs::create_directory_symlink(model_, dir_.File("link"));
  for (const std::string& output : {model_, model_ + "/", dir_.File("link")}) {
    ExportOptions options;
    options.model = model_;
    options.output = output;
    options.overwrite = true;
    const Result<ExportReport> report = ExportDense(options, nullptr);
    ASSERT_FALSE(report.ok()) << output;
    EXPECT_NE(report.status().message().find("made from"), std::string::npos);
  }
  EXPECT_EQ(Contents(model_), before);
}

TEST(OutputPathTest, SourceMustLieOutsideOfTheOutput) {
  EXPECT_FALSE(CheckOutputSparesSource("/absent/m", "/absent/m").ok());
  EXPECT_FALSE(CheckOutputSparesSource("/absent/m/", "/absent/x/../m").ok());
  EXPECT_FALSE(CheckOutputSparesSource("/absent/m", "/absent/m/model.bin").ok());
  EXPECT_TRUE(CheckOutputSparesSource("/absent/m", "/absent/m2").ok());
  EXPECT_TRUE(CheckOutputSparesSource("/absent/m", "/absent").ok());
  EXPECT_TRUE(CheckOutputSparesSource("/absent/m", "/absent/..m").ok());
}

TEST_F(CompressTest, ExportRefusesToRound) {
  ASSERT_TRUE(Run("steps: [{method: rtn}]", "packed").ok());
  ExportOptions options;
  options.model = dir_.File("packed");
  options.output = dir_.File("exported");
  options.dtype = "bf16";
  const Result<ExportReport> report = ExportDense(options, nullptr);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find("would round"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_.File("exported")));
  options.dtype = "f16";
  EXPECT_EQ(ExportDense(options, nullptr).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(CompressTest, PrunedThenQuantizedInTwoRunsStaysSparse) {
  ASSERT_TRUE(Run("steps: [{method: magnitude, sparsity: 0.7}]", "pruned").ok());
  CompressOptions second = Options("steps: [{method: rtn, group: 32}]", "both");
  second.model = dir_.File("pruned");
  ASSERT_TRUE(Compress(second, nullptr).ok());
  ASSERT_TRUE(
      Run("steps: [{method: magnitude, sparsity: 0.7}, {method: rtn, group: 32}]", "once").ok());
  const auto both = LoadModel(dir_.File("both"));
  const auto once = LoadModel(dir_.File("once"));
  for (size_t i = 0; i < 7; ++i) {
    const LinearWeight& weight = std::as_const(*both).blocks()[1].linears()[i]->weight;
    EXPECT_EQ(SpecName(weight.spec), "bitmask-i8/32");
    EXPECT_EQ(Unpack(weight), Unpack(std::as_const(*once).blocks()[1].linears()[i]->weight));
  }
  // And what is INT8 already is not compressed again, which is told before any work.
  ASSERT_TRUE(Run("steps: [{method: rtn, targets: \"re:layers.2\"}]", "last").ok());
  CompressOptions third =
      Options(Calibration() + "steps: [{method: wanda, sparsity: 0.9}]", "third");
  third.model = dir_.File("last");
  const Result<CompressReport> report = Compress(third, nullptr);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find("already"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_.File("third") + ".partial"));
}

TEST_F(CompressTest, WarnsWhereF32IsRoundedUnlessStoredDense) {
  TinyModel tiny;
  tiny.dtype = DType::kF32;
  tiny.tied = true;
  testing::WriteTinyModel(model_, tiny);
  Result<CompressReport> report = Run("steps: [{method: magnitude, sparsity: 0.6}]", "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_EQ(report->warnings.size(), 1u);
  for (const LayerReport& layer : report->layers)
    EXPECT_GT(layer.rounded, layer.nonzeros * 9 / 10);
  EXPECT_NE(report->warnings[0].find("BF16 values of the sparse formats"), std::string::npos);
  fs::remove_all(dir_.File("out"));
  report = Run("steps: [{method: magnitude, sparsity: 0.6}]\nstore: dense", "out");
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->warnings.empty());
  for (const LayerReport& layer : report->layers)
    EXPECT_EQ(layer.spec, "dense-f32");
  const auto dense = LoadModel(model_);
  const auto model = LoadModel(dir_.File("out"));
  const auto before = Unpack(std::as_const(*dense).blocks()[0].q.weight);
  const auto after = Unpack(std::as_const(*model).blocks()[0].q.weight);
  for (size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(after[i] == 0 || after[i] == before[i]);
}

TEST_F(CompressTest, HeadAndEmbeddingOnlyWhenNamed) {
  Result<CompressReport> report =
      Run(Calibration() + "steps: [{method: sparsegpt, sparsity: 0.5, targets: [lm_head]}]", "a");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_EQ(report->layers.size(), 1u);
  EXPECT_EQ(report->layers[0].name, "lm_head.weight");
  EXPECT_TRUE(report->layers[0].relative_error.has_value());
  report = Run("steps: [{method: magnitude, sparsity: 0.5, targets: \"re:.*\"}]", "b");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->layers.size(), 21u);
  report = Run("steps: [{method: rtn, embed: false}]", "c");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->layers.size(), 21u);
  report = Run("steps: [{method: rtn, targets: \"re:down_proj\"}]", "d");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->layers.size(), 3u);
  report = Run("steps: [{method: rtn, targets: \"re:down_proj\", embed: true}]", "e");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->layers.size(), 5u);
}

TEST_F(CompressTest, OutputErrorIsReportedForAnyMethodWhenAskedFor) {
  const Result<CompressReport> report =
      Run(Calibration() +
              "output_error: true\nsteps: [{method: magnitude, sparsity: 0.5, ignore: \"re:q\"}]",
          "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  for (const LayerReport& layer : report->layers) {
    ASSERT_TRUE(layer.relative_error.has_value()) << layer.name;
    EXPECT_GT(*layer.relative_error, 0.001);
    EXPECT_LT(*layer.relative_error, 1);
  }
}

TEST_F(CompressTest, BlockStepsNeedBlocksOfOneSize) {
  const Result<CompressReport> report =
      Run(Calibration() +
              "structure: [{method: flap, ratio: 0.3, round: 8}]\n"
              "steps: [{method: wanda, sparsity: 0.5}, {method: block_reconstruct}]",
          "out");
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kUnsupported) << report.status().ToString();
}

TEST_F(CompressTest, MistakesAreFoundBeforeAnyWork) {
  struct Bad {
    std::string recipe;
    const char* expected;
  };
  const Bad cases[] = {
      {"steps: [{method: magnitude, sparsity: 0.5, targets: nothing}]", "matches no linear"},
      {"steps: [{method: magnitude, sparsity: 0.5, targets: \"re:lm_head\"}]", "matches no linear"},
      {"steps: [{method: magnitude, sparsity: 0.5, ignore: \"re:.*\"}]", "no weight is left"},
      {"steps: [{method: magnitude, pattern: \"5:9\"}]", "needs a width that 9 divides"},
      {Calibration() + "steps: [{method: dsnot}]", "put a pruner before it"},
      {"steps: [{method: rtn}, {method: magnitude, sparsity: 0.5}]", "quantize last"},
      {Calibration() + "steps: [{method: magnitude, sparsity: 0.5, pattern: 16x1}, "
                       "{method: dsnot}]",
       "cannot keep the blocks"},
      {Calibration() + "steps: [{method: wanda, sparsity: 0.5}, {method: rtn}, "
                       "{method: block_reconstruct}]",
       "nothing left to train"},
      {Calibration() + "steps: [{method: wanda, sparsity: 0.5, targets: model.embed_tokens}]",
       "has no inputs to calibrate on"},
      {"calibration: {file: " + text_ +
           ", sequence_length: 65}\nsteps: [{method: wanda, sparsity: 0.5}]",
       "exceeds the model's context of 64"},
      {"calibration: {file: /absent.txt}\nsteps: [{method: wanda, sparsity: 0.5}]", "/absent.txt"},
      {"calibration: {file: " + text_ +
           ", samples: 500, mode: concat}\nsteps: [{method: wanda, sparsity: 0.5}]",
       "need 32000"},
      {"", "give a recipe"},
  };
  for (const Bad& bad : cases) {
    const Result<CompressReport> report = Run(bad.recipe, "out");
    ASSERT_FALSE(report.ok()) << bad.recipe;
    EXPECT_NE(report.status().message().find(bad.expected), std::string::npos)
        << report.status().ToString();
    EXPECT_FALSE(fs::exists(dir_.File("out")));
    EXPECT_FALSE(fs::exists(dir_.File("out") + ".partial"));
  }
  CompressOptions same = Options("steps: [{method: rtn}]", "x");
  same.output = model_ + "/";
  same.overwrite = true;
  EXPECT_NE(Compress(same, nullptr).status().message().find("made from"), std::string::npos);
}

TEST_F(CompressTest, NanWeightsNameTheirPlace) {
  testing::WriteTinyModel(model_, TinyModel(), [](const std::string& name, std::vector<float>* w) {
    if (name == "model.layers.1.mlp.up_proj.weight") (*w)[64 * 3 + 5] = NAN;
  });
  const Result<CompressReport> report = Run("steps: [{method: magnitude, sparsity: 0.5}]", "out");
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kNumerical);
  EXPECT_NE(report.status().message().find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
  EXPECT_NE(report.status().message().find("row 3, column 5"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_.File("out")));
}

// 256 rows are four slices.
TEST_F(CompressTest, NanWeightsNameTheirPlaceWhereOnlyQuantized) {
  testing::WriteTinyModel(model_, TinyModel(), [](const std::string& name, std::vector<float>* w) {
    if (name == "lm_head.weight") (*w)[64 * 131 + 5] = NAN;
  });
  const Result<CompressReport> report = Run("steps: [{method: rtn}]", "out");
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kNumerical);
  EXPECT_NE(report.status().message().find("row 131, column 5"), std::string::npos);
}

TEST_F(CompressTest, QuantizingInSlicesPacksTheSameBytes) {
  const Result<Recipe> recipe = ParseRecipe("steps: [{method: rtn, group: 32}]", "r");
  ASSERT_TRUE(recipe.ok());
  LayerPlan plan;
  plan.steps = {&recipe->steps[0]};
  ThreadPool pool(1);
  for (const int64_t rows : {1, 63, 64, 65, 200}) {
    LinearLayer layer;
    layer.name = "w";
    layer.rows = rows;
    layer.cols = 96;
    Rng rng(static_cast<uint64_t>(rows));
    std::vector<float> w(static_cast<size_t>(rows * layer.cols));
    for (float& value : w)
      value = static_cast<float>(rng.Normal());
    Result<LinearWeight> dense =
        PackWeight({FormatId::kDense, ValueType::kF32, 0}, rows, layer.cols, w.data());
    ASSERT_TRUE(dense.ok()) << dense.status().ToString();
    layer.weight = *dense;
    const Result<CompressedLayer> done =
        CompressLayer(layer, plan, Store::kDense, nullptr, &pool, nullptr);
    ASSERT_TRUE(done.ok()) << done.status().ToString();
    const Result<LinearWeight> expected =
        PackWeight({FormatId::kDensePanel, ValueType::kI8, 32}, rows, layer.cols, w.data());
    ASSERT_TRUE(expected.ok());
    EXPECT_EQ(SpecName(done->weight.spec), SpecName(expected->spec));
    EXPECT_EQ(WeightChecksum(done->weight), WeightChecksum(*expected));
  }
}

TEST_F(CompressTest, NanActivationsNameTheLayer) {
  testing::WriteTinyModel(model_, TinyModel(), [](const std::string& name, std::vector<float>* w) {
    if (name == "model.layers.1.input_layernorm.weight") (*w)[7] = INFINITY;
  });
  const Result<CompressReport> report =
      Run(Calibration() + "steps: [{method: wanda, sparsity: 0.5}]", "out");
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kNumerical) << report.status().ToString();
  EXPECT_NE(report.status().message().find("model.layers.1.self_attn.q_proj.weight"),
            std::string::npos)
      << report.status().ToString();
}

TEST_F(CompressTest, DeadColumnsAreReportedAndSurvive) {
  testing::WriteTinyModel(model_, TinyModel(), [](const std::string& name, std::vector<float>* w) {
    if (name == "model.layers.0.input_layernorm.weight") (*w)[7] = 0;
  });
  const Result<CompressReport> report =
      Run(Calibration() + "steps: [{method: sparsegpt, sparsity: 0.5}]", "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->layers[0].dead_columns, 1);
  EXPECT_EQ(report->warnings.size(), 3u);  // q, k, v
  const auto model = LoadModel(dir_.File("out"));
  const auto q = Unpack(std::as_const(*model).blocks()[0].q.weight);
  for (size_t row = 0; row < 64; ++row)
    EXPECT_EQ(q[row * 64 + 7], 0.0f);
}

TEST_F(CompressTest, SavesTheCalibrationIds) {
  CompressOptions options =
      Options(Calibration() + "steps: [{method: wanda, sparsity: 0.5}]", "out");
  options.save_calibration = dir_.File("ids.json");
  const Result<CompressReport> report = Compress(options, nullptr);
  ASSERT_TRUE(report.ok());
  const nlohmann::json json = nlohmann::json::parse(ReadAll(options.save_calibration));
  EXPECT_EQ(json["ids"].size(), 6u);
  EXPECT_EQ(json["ids"][5].size(), 32u);
  EXPECT_EQ(report->calibration.tokens, 192);
  EXPECT_EQ(report->calibration.text_hash.size(), 16u);
}

// METHODS.md 2.2: at 50 % SparseGPT and Wanda are far ahead of magnitude.
TEST(CompressRealModelTest, MethodsRankAsPublishedOnTinyStories) {
  const std::string model_dir = testing::SharedPath("models/TinyStories-656K");
  const std::string text = testing::SharedPath("corpora/tinystories_1MB.txt");
  HARROW_SKIP_WITHOUT(model_dir);
  HARROW_SKIP_WITHOUT(text);
  testing::TempDir dir;
  const auto tokenizer = LoadTokenizer(model_dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  // Held back: calibration text is the first 700 kB, evaluation text the rest.
  const std::string bytes = ReadAll(text);
  std::ofstream(dir.File("calibration.txt"), std::ios::binary) << bytes.substr(0, 700000);
  const auto ids = (*tokenizer)->Encode(bytes.substr(900000, 60000), SpecialTokens::kNone);
  ASSERT_TRUE(ids.ok());
  std::map<std::string, double> nll;
  nll["dense"] = MeanNll(*LoadModel(model_dir), *ids, 256, 20);
  for (const std::string method : {"magnitude", "wanda", "sparsegpt"}) {
    CompressOptions options;
    options.model = model_dir;
    options.recipe_text =
        "calibration: {file: " + dir.File("calibration.txt") +
        ", mode: concat, samples: 16, sequence_length: 256}\nsteps: [{method: " + method +
        ", sparsity: 0.5}]";
    options.output = dir.File(method);
    options.threads = 2;
    const Result<CompressReport> report = Compress(options, nullptr);
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    nll[method] = MeanNll(*LoadModel(options.output), *ids, 256, 20);
  }
  for (const auto& [name, value] : nll)
    RecordProperty(name, std::to_string(std::exp(value)));
  EXPECT_LT(nll["dense"], nll["sparsegpt"]);
  EXPECT_LT(nll["sparsegpt"], nll["wanda"]);
  EXPECT_LT(nll["wanda"], nll["magnitude"]);
}

}  // namespace
}  // namespace harrow
