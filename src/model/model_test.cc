#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "formats/testing.h"
#include "kernels/linear.h"
#include "model/rope.h"
#include "test_data.h"

namespace harrow {
namespace {

HfConfig SmallConfig() {
  HfConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 80;
  config.max_position_embeddings = 128;
  return config;
}

constexpr WeightSpec kF32 = {.format = FormatId::kDense, .values = ValueType::kF32};

std::unique_ptr<Model> MakeRandom(const HfConfig& config, const WeightSpec& spec = kF32,
                                  double density = 1) {
  auto model = Model::Random(config, spec, density, 7);
  if (!model.ok()) {
    ADD_FAILURE() << model.status().ToString();
    return nullptr;
  }
  return std::move(model).value();
}

std::string GoldenFolder(const std::string& name) {
  return testing::SourcePath("tests/golden/" + name);
}

Result<std::unique_ptr<Model>> LoadFolder(const std::string& folder, bool lazy = false) {
  auto checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  return Model::Load(*checkpoint, {.lazy_blocks = lazy});
}

// Copies a golden model with some fields of config.json changed.
void CopyWithConfig(const std::string& name, const std::string& folder,
                    const nlohmann::json& changes) {
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(GoldenFolder(name) + "/model.safetensors",
                             folder + "/model.safetensors");
  std::ifstream file(GoldenFolder(name) + "/config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config.update(changes);
  ASSERT_TRUE(WriteFileAtomically(folder + "/config.json", config.dump()).ok());
}

void ExpectError(const Status& status, StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const std::string& part : parts)
    EXPECT_NE(status.message().find(part), std::string::npos) << status.ToString();
}

std::vector<float> Hidden(const Model& model, const std::vector<int32_t>& ids, int64_t batch,
                          int threads = 1) {
  ThreadPool pool(threads);
  auto state = NewForwardState(&pool, batch);
  const int64_t count = static_cast<int64_t>(ids.size());
  auto kv = NewKvCache(model.config(), model.config().layers, count);
  std::vector<float> hidden(static_cast<size_t>(count * model.config().hidden));
  const Status status = model.Forward(ids.data(), count, 0, kv.get(), state.get(), hidden.data());
  EXPECT_TRUE(status.ok()) << status.ToString();
  return hidden;
}

std::vector<int32_t> SomeIds(int64_t count, int32_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(i * 37 % vocab));
  return ids;
}

// ---- rope ----

TEST(Rope, PlainAndLinear) {
  HfConfig config = SmallConfig();
  config.rope_theta = 500000;
  auto plain = RopeInverseFrequencies(config);
  ASSERT_TRUE(plain.ok());
  ASSERT_EQ(plain->size(), 8u);
  EXPECT_EQ((*plain)[0], 1.0f);
  EXPECT_FLOAT_EQ((*plain)[4], static_cast<float>(1 / std::sqrt(500000.0)));
  config.rope_scaling = {.type = "linear", .factor = 4};
  auto linear = RopeInverseFrequencies(config);
  ASSERT_TRUE(linear.ok());
  for (size_t i = 0; i < 8; ++i)
    EXPECT_FLOAT_EQ((*linear)[i], (*plain)[i] / 4);
}

// Llama 3.1's own numbers: pairs that turn more than 4 times in 8192 tokens stay, those under one
// turn are stretched 8 times, and between the two the stretch falls monotonically.
TEST(Rope, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  HfConfig config = SmallConfig();
  config.head_dim = 128;
  config.rope_theta = 500000;
  auto plain = RopeInverseFrequencies(config);
  config.rope_scaling = {.type = "llama3",
                         .factor = 8,
                         .low_freq_factor = 1,
                         .high_freq_factor = 4,
                         .original_max_position_embeddings = 8192};
  auto scaled = RopeInverseFrequencies(config);
  ASSERT_TRUE(plain.ok() && scaled.ok());
  int blended = 0;
  float last_ratio = 1;
  for (size_t i = 0; i < 64; ++i) {
    const double turns = 8192 * static_cast<double>((*plain)[i]) / (2 * M_PI);
    const float ratio = (*plain)[i] / (*scaled)[i];
    EXPECT_GE(ratio, last_ratio * (1 - 1e-6f));
    last_ratio = ratio;
    if (turns > 4) {
      EXPECT_EQ(ratio, 1.0f);
    } else if (turns < 1) {
      EXPECT_NEAR(ratio, 8.0f, 1e-5f);
    } else {
      ++blended;
      EXPECT_NEAR(1 / ratio, 1 / 8.0 + (7 / 8.0) * (turns - 1) / 3, 1e-6);
    }
  }
  EXPECT_GT(blended, 2);
}

TEST(Rope, RefusesWhatItCannotCompute) {
  HfConfig config = SmallConfig();
  config.rope_scaling.type = "yarn";
  ExpectError(RopeInverseFrequencies(config).status(), StatusCode::kUnsupported, {"\"yarn\""});
  config.rope_scaling = {.type = "linear", .factor = 0};
  ExpectError(RopeInverseFrequencies(config).status(), StatusCode::kInvalidArgument, {"factor 0"});
  config.rope_scaling = {.type = "linear", .factor = std::nan("")};
  ExpectError(RopeInverseFrequencies(config).status(), StatusCode::kInvalidArgument, {"factor"});
  config.rope_scaling = {.type = "llama3", .factor = 8};
  ExpectError(RopeInverseFrequencies(config).status(), StatusCode::kInvalidArgument,
              {"original_max_position_embeddings"});
  config.rope_scaling = {.type = "llama3",
                         .factor = 8,
                         .low_freq_factor = 4,
                         .high_freq_factor = 4,
                         .original_max_position_embeddings = 10};
  ExpectError(RopeInverseFrequencies(config).status(), StatusCode::kInvalidArgument,
              {"low_freq_factor 4"});
}

// ---- binding ----

TEST(Bind, NamesWhatIsNotSupported) {
  const auto error = [](const HfConfig& config) {
    return Model::Random(config, kF32, 1, 0).status();
  };
  HfConfig config = SmallConfig();
  config.architecture = "GPT2LMHeadModel";
  ExpectError(error(config), StatusCode::kUnsupported, {"GPT2LMHeadModel", "LlamaForCausalLM"});
  config = SmallConfig();
  config.attention_bias = true;
  ExpectError(error(config), StatusCode::kUnsupported, {"attention_bias"});
  config = SmallConfig();
  config.mlp_bias = true;
  ExpectError(error(config), StatusCode::kUnsupported, {"mlp_bias"});
  config = SmallConfig();
  config.hidden_act = "gelu";
  ExpectError(error(config), StatusCode::kUnsupported, {"\"gelu\""});
  config = SmallConfig();
  config.num_key_value_heads = 3;
  ExpectError(error(config), StatusCode::kInvalidArgument, {"num_key_value_heads 3"});
  config = SmallConfig();
  config.head_dim = 15;
  ExpectError(error(config), StatusCode::kInvalidArgument, {"head_dim 15"});
  config = SmallConfig();
  config.hidden_size = 0;
  ExpectError(error(config), StatusCode::kInvalidArgument, {"hidden_size is 0"});
  config = SmallConfig();
  config.num_attention_heads = 1 << 16;
  config.head_dim = 1 << 16;
  ExpectError(error(config), StatusCode::kInvalidArgument, {"num_attention_heads * head_dim"});
}

TEST(Load, NamesMissingAndMisshapenTensors) {
  testing::TempDir dir;
  CopyWithConfig("llama_linear_f32", dir.File("missing"), {{"num_hidden_layers", 3}});
  CopyWithConfig("llama_linear_f32", dir.File("shape"), {{"intermediate_size", 57}});
  CopyWithConfig("llama_linear_f32", dir.File("untied"), {{"tie_word_embeddings", false}});
  for (const bool lazy : {false, true}) {
    ExpectError(LoadFolder(dir.File("missing"), lazy).status(), StatusCode::kNotFound,
                {"model.layers.2."});
    ExpectError(LoadFolder(dir.File("shape"), lazy).status(), StatusCode::kCorruption,
                {"model.layers.0.mlp.gate_proj.weight", "[56, 32]", "[57, 32]"});
    ExpectError(LoadFolder(dir.File("untied"), lazy).status(), StatusCode::kNotFound,
                {"lm_head.weight"});
  }
}

TEST(Load, LazyBlocksComeAndGo) {
  const std::string folder = GoldenFolder("llama_gqa_untied_f32");
  auto eager = LoadFolder(folder), lazy = LoadFolder(folder, true);
  ASSERT_TRUE(eager.ok() && lazy.ok());
  Model& model = **lazy;
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears()) {
      EXPECT_TRUE(linear->weight.empty());
      EXPECT_GT(linear->rows * linear->cols, 0);
    }
  }
  const uint64_t unloaded = model.ResidentBytes();
  for (int32_t i = 0; i < model.config().layers; ++i)
    ASSERT_TRUE(model.LoadBlock(i).ok());
  EXPECT_EQ(model.ResidentBytes(), (*eager)->ResidentBytes());
  const std::vector<int32_t> ids = SomeIds(9, model.config().vocab);
  EXPECT_EQ(Hidden(model, ids, 512), Hidden(**eager, ids, 512));
  for (int32_t i = 0; i < model.config().layers; ++i)
    model.ReleaseBlock(i);
  EXPECT_TRUE(model.blocks()[1].down.weight.empty());
  EXPECT_LT(model.ResidentBytes(), unloaded + 4096);
  ASSERT_TRUE(model.LoadBlock(1).ok());
  EXPECT_FALSE(model.blocks()[1].down.weight.empty());
}

// Every matrix packed, the embedding too: the same hidden states as the matrices it unpacks to.
TEST(Load, PackedWeightsComputeWithTheValuesTheyUnpackTo) {
  auto source = LoadFolder(GoldenFolder("llama_gqa_untied_f32"));
  ASSERT_TRUE(source.ok());
  Model& model = **source;
  const WeightSpec spec = {.format = FormatId::kBitmask, .values = ValueType::kBf16, .group = 0};
  testing::TempDir dir;
  auto writer = CheckpointWriter::Create(dir.File("packed"), {});
  ASSERT_TRUE(writer.ok()) << writer.status().ToString();
  ASSERT_TRUE((*writer)->BeginShard("all").ok());
  std::vector<const LinearLayer*> layers = {&model.embedding(), &model.head()};
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears())
      layers.push_back(linear);
  }
  std::vector<std::vector<float>> dense;  // what each packed matrix stands for
  for (const LinearLayer* layer : layers) {
    std::vector<float>& w = dense.emplace_back(static_cast<size_t>(layer->rows * layer->cols));
    UnpackRows(layer->weight, 0, layer->rows, w.data());
    for (float& f : w)
      f = std::fabs(f) < 0.05f ? 0.0f : f;
    auto packed = PackWeight(spec, layer->rows, layer->cols, w.data());
    ASSERT_TRUE(packed.ok()) << packed.status().ToString();
    UnpackRows(*packed, 0, layer->rows, w.data());
    ASSERT_TRUE((*writer)->AddLinear(layer->name, *packed).ok());
  }
  auto checkpoint = Checkpoint::Open(GoldenFolder("llama_gqa_untied_f32"));
  ASSERT_TRUE(checkpoint.ok());
  for (const std::string& name : (*checkpoint)->tensors().names()) {
    if (name.find("norm") == std::string::npos) continue;
    auto view = (*checkpoint)->tensors().Find(name);
    ASSERT_TRUE(view.ok() && (*writer)->AddTensor(name, *view).ok());
  }
  ASSERT_TRUE((*writer)->EndShard().ok());
  const Status finished = (*writer)->Finish(model.hf_config(), "", "");
  ASSERT_TRUE(finished.ok()) << finished.ToString();

  auto loaded = LoadFolder(dir.File("packed"));
  ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
  EXPECT_EQ((*loaded)->head().weight.spec, spec);
  const int64_t width = model.config().hidden;
  std::vector<float> rows(static_cast<size_t>(3 * width));
  const int32_t ids[] = {0, 17, 89};
  ASSERT_TRUE((*loaded)->Embed(ids, 3, rows.data()).ok());
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < width; ++j)
      EXPECT_EQ(rows[static_cast<size_t>(i * width + j)],
                dense[0][static_cast<size_t>(ids[i] * width + j)]);
  }
  auto lazy = LoadFolder(dir.File("packed"), true);
  ASSERT_TRUE(lazy.ok()) << lazy.status().ToString();
  for (int32_t i = 0; i < 2; ++i)
    ASSERT_TRUE((*lazy)->LoadBlock(i).ok());
  const std::vector<int32_t> text = SomeIds(12, 90);
  EXPECT_EQ(Hidden(**lazy, text, 512), Hidden(**loaded, text, 512));
  (*lazy)->ReleaseBlock(0);
}

// ---- random models ----

int64_t CountNonZeros(const LinearWeight& weight) {
  auto count = ValidateWeight(weight);
  EXPECT_TRUE(count.ok()) << count.status().ToString();
  return count.ok() ? *count : -1;
}

TEST(Random, DensityIsExactAndMemoryIsDistinct) {
  const WeightSpec specs[] = {
      {.format = FormatId::kBitmask, .values = ValueType::kBf16},
      {.format = FormatId::kBitmask, .values = ValueType::kI8, .group = 32},
      {.format = FormatId::kBitmask, .values = ValueType::kI4, .group = 64},
      {.format = FormatId::kBitmask, .values = ValueType::kU4, .group = 32}};
  HfConfig config = SmallConfig();
  config.vocab_size = 128;
  config.intermediate_size = 64;  // all row counts but k's and v's are multiples of 64
  for (const WeightSpec& spec : specs) {
    for (const double density : {0.25, 0.5, 1.0}) {
      const std::unique_ptr<Model> model = MakeRandom(config, spec, density);
      ASSERT_NE(model, nullptr);
      const Block& block = model->blocks()[0];
      for (const LinearLayer* layer : {&block.q, &block.o, &block.gate, &block.down,
                                       static_cast<const LinearLayer*>(&model->head())}) {
        EXPECT_EQ(static_cast<double>(CountNonZeros(layer->weight)),
                  density * static_cast<double>(layer->rows * layer->cols))
            << layer->name;
      }
      EXPECT_NE(model->blocks()[0].q.weight.data.data(), model->blocks()[1].q.weight.data.data());
      EXPECT_NE(model->blocks()[0].q.weight.data.data(), model->blocks()[0].o.weight.data.data());
    }
  }
}

TEST(Random, KeepsNOfEveryM) {
  const WeightSpec spec = {
      .format = FormatId::kNm, .values = ValueType::kBf16, .keep_n = 2, .of_m = 4};
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig(), spec, 0.9);
  ASSERT_NE(model, nullptr);
  std::vector<float> w(96 * 64);
  UnpackRows(model->blocks()[2].gate.weight, 0, 96, w.data());
  for (size_t i = 0; i < w.size(); i += 4) {
    int kept = 0;
    for (size_t j = i; j < i + 4; ++j)
      kept += w[j] != 0;
    ASSERT_EQ(kept, 2);
  }
}

TEST(Random, CountsTheBytesOfAToken) {
  const WeightSpec bf16 = {.format = FormatId::kDense, .values = ValueType::kBf16};
  HfConfig config = SmallConfig();
  const std::unique_ptr<Model> model = MakeRandom(config, bf16);
  ASSERT_NE(model, nullptr);
  const uint64_t block = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64);
  const uint64_t norms = 4 * 64 * 7;
  EXPECT_EQ(model->WeightBytesPerToken(), 3 * block + 2 * 80 * 64 + 2 * 64 + norms);
  EXPECT_EQ(model->ResidentBytes(), 3 * block + 2 * 2 * 80 * 64 + norms);
  EXPECT_EQ(model->KernelNames(1).size(), 1u);
  for (const float f : Hidden(*model, SomeIds(5, 80), 512))
    ASSERT_TRUE(std::isfinite(f));
}

TEST(Random, ThreadsDoNotChangeTheWeights) {
  const WeightSpec spec = {.format = FormatId::kDense, .values = ValueType::kF32};
  ThreadPool pool(3);
  const auto parallel = Model::Random(SmallConfig(), spec, 0.5, 7, &pool);
  ASSERT_TRUE(parallel.ok()) << parallel.status().ToString();
  const std::vector<int32_t> ids = SomeIds(5, 80);
  EXPECT_EQ(Hidden(**parallel, ids, 512), Hidden(*MakeRandom(SmallConfig(), spec, 0.5), ids, 512));
}

TEST(Random, RefusesAnImpossibleDensity) {
  for (const double density : {0.0, -1.0, 1.5, std::nan("")})
    ExpectError(Model::Random(SmallConfig(), kF32, density, 0).status(),
                StatusCode::kInvalidArgument, {"density"});
}

// ---- forward ----

TEST(Forward, StepsOfAnySizeGiveTheSameHiddenStates) {
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig());
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = SomeIds(100, 80);
  const std::vector<float> whole = Hidden(*model, ids, 512);
  // Kernels may sum in another order for another number of tokens: 3 layers of float32 on values of
  // order 1 to 10, K <= 96.
  const double bound = 10 * 3 * 2 * (1.5 * 96 + 16) * 0x1p-24;
  for (const int64_t batch : {1, 7, 64}) {
    const std::vector<float> stepped = Hidden(*model, ids, batch);
    for (size_t i = 0; i < whole.size(); ++i)
      ASSERT_NEAR(stepped[i], whole[i], bound);
  }
}

// Logits of a prompt in two steps and of single tokens after it, in every format that Harrow has.
TEST(Forward, ThreadsDoNotChangeABitInAnyFormat) {
  HfConfig config = SmallConfig();
  config.hidden_size = 192;
  config.intermediate_size = 960;
  config.num_hidden_layers = 1;
  config.vocab_size = 1000;
  config.head_dim = 48;
  const std::vector<int32_t> ids = SomeIds(46, config.vocab_size);
  constexpr int64_t kPrompt = 43, kBatch = 30;
  const auto logits = [&](const Model& model, int threads) {
    ThreadPool pool(threads);
    auto state = NewForwardState(&pool, kBatch);
    const int64_t count = static_cast<int64_t>(ids.size());
    auto kv = NewKvCache(model.config(), model.config().layers, count);
    std::vector<float> hidden(static_cast<size_t>(count * model.config().hidden));
    std::vector<float> out(static_cast<size_t>(count * model.config().vocab));
    for (int64_t at = 0; at < count;) {
      const int64_t n = at == 0 ? kPrompt : 1;
      float* x = hidden.data() + at * model.config().hidden;
      EXPECT_TRUE(model.Forward(ids.data() + at, n, at, kv.get(), state.get(), x).ok());
      model.Logits(x, n, state.get(), out.data() + at * model.config().vocab);
      at += n;
    }
    return out;
  };
  for (const WeightSpec& spec : testing::AllSpecs()) {
    for (const Activations activations : {Activations::kInt8, Activations::kBf16}) {
      if (activations == Activations::kBf16 && !IsQuantized(spec.values)) continue;
      SCOPED_TRACE(SpecName(spec) + ", x " + std::string(ActivationsName(activations)));
      SetQuantizedActivations(activations);
      const auto model = MakeRandom(config, spec, spec.of_m > 0 ? 1 : 0.5);
      ASSERT_NE(model, nullptr);
      const std::vector<float> one = logits(*model, 1);
      EXPECT_TRUE(std::all_of(one.begin(), one.end(), [](float v) { return std::isfinite(v); }));
      for (const int threads : {2, 3, 5})
        EXPECT_EQ(one, logits(*model, threads)) << threads << " threads";
    }
  }
  SetQuantizedActivations(Activations::kInt8);
}

// Wide enough for the element-wise steps to be cut between threads.
TEST(Forward, ThreadsDoNotChangeTheResult) {
  HfConfig config = SmallConfig();
  config.hidden_size = 1024;
  config.intermediate_size = 1500;
  config.head_dim = 256;
  config.num_hidden_layers = 1;
  const std::unique_ptr<Model> model = MakeRandom(config);
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = SomeIds(70, 80);
  EXPECT_EQ(Hidden(*model, ids, 512, 3), Hidden(*model, ids, 512, 1));
}

TEST(Forward, NamesTokensOutsideTheVocabulary) {
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig());
  ASSERT_NE(model, nullptr);
  float hidden[128];
  for (const int32_t bad : {-1, 80}) {
    const int32_t ids[] = {3, bad};
    ExpectError(model->Embed(ids, 2, hidden), StatusCode::kInvalidArgument,
                {"token 1", std::to_string(bad), "80"});
  }
}

TEST(Forward, RefusesMoreTokensThanTheCacheHolds) {
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig());
  ASSERT_NE(model, nullptr);
  ThreadPool pool(1);
  auto state = NewForwardState(&pool);
  auto kv = NewKvCache(model->config(), 3, 4);
  std::vector<float> hidden(5 * 64);
  const std::vector<int32_t> ids = SomeIds(5, 80);
  EXPECT_TRUE(model->Forward(ids.data(), 4, 0, kv.get(), state.get(), hidden.data()).ok());
  ExpectError(model->Forward(ids.data(), 5, 0, kv.get(), state.get(), hidden.data()),
              StatusCode::kResourceLimit, {"5 tokens"});
  ExpectError(model->ForwardBlock(0, hidden.data(), 1, 4, kv.get(), 0, state.get(), nullptr),
              StatusCode::kResourceLimit, {"5 tokens"});
}

class Recorder : public Observer {
 public:
  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override {
    seen.push_back(fmt::format("{} {} {}", name, m, k));
    EXPECT_TRUE(std::isfinite(x[m * k - 1]));
  }
  std::vector<std::string> seen;
};

TEST(Forward, TheObserverSeesEveryLinearInputInOrder) {
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig());
  ASSERT_NE(model, nullptr);
  ThreadPool pool(1);
  auto state = NewForwardState(&pool, 4);
  auto kv = NewKvCache(model->config(), 1, 6);
  std::vector<float> hidden(6 * 64, 0.5f);
  Recorder recorder;
  ASSERT_TRUE(
      model->ForwardBlock(1, hidden.data(), 6, 0, kv.get(), 0, state.get(), &recorder).ok());
  std::vector<std::string> want;
  for (const int m : {4, 2}) {
    for (const LinearLayer* linear : model->blocks()[1].linears())
      want.push_back(fmt::format("{} {} {}", linear->name, m, linear->cols));
  }
  EXPECT_EQ(recorder.seen, want);
  EXPECT_EQ(want[5].substr(0, 35), "model.layers.1.mlp.up_proj.weight 4");
}

// ---- KV ----

TEST(KvCache, GrowsByBlocksThatStayWhereTheyAre) {
  const std::unique_ptr<Model> model = MakeRandom(SmallConfig());
  ASSERT_NE(model, nullptr);
  for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kI8}) {
    auto kv = NewKvCache(model->config(), 2, 1000, type);
    ASSERT_TRUE(kv->Reserve(1));
    EXPECT_EQ(kv->layer(0).stride, 1);
    EXPECT_EQ(kv->layer(0).layout.type, type);
    EXPECT_EQ(kv->layer(0).layout.head_dim, model->config().head_dim);
    const int64_t heads = model->config().kv_heads;
    std::vector<std::byte*> before;
    for (int64_t grown = 1; grown <= 16; ++grown) {
      ASSERT_TRUE(kv->Reserve(std::min<int64_t>(grown * kKvBlockTokens, 1000)));
      std::vector<std::byte*> all, first;
      for (const int32_t layer : {0, 1}) {
        const KvView view = kv->layer(layer);
        ASSERT_GE(view.stride, grown);
        ASSERT_LE(view.stride, 16);
        for (int64_t head = 0; head < heads; ++head) {
          first.push_back(view.block(head, 0));
          all.insert(all.end(), view.blocks + head * view.stride,
                     view.blocks + (head + 1) * view.stride);
        }
      }
      if (grown == 1) before = first;
      EXPECT_EQ(first, before);
      std::sort(all.begin(), all.end());
      for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(all[i]) % 64, 0u);
        if (i == 0) continue;
        EXPECT_GE(all[i] - all[i - 1], kv->layer(0).layout.block_bytes);
      }
    }
    EXPECT_FALSE(kv->Reserve(1001));
    EXPECT_EQ(kv->layer(1).stride, 16);
  }
}

TEST(KvCache, Int8SaysWhichHeadsItTakes) {
  ModelConfig config;
  config.head_dim = kMaxI8HeadDim;
  EXPECT_TRUE(CheckKvType(config, KvType::kI8).ok());
  config.head_dim += 2;
  EXPECT_TRUE(CheckKvType(config, KvType::kBf16).ok());
  const Status status = CheckKvType(config, KvType::kI8);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("1026"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace harrow
