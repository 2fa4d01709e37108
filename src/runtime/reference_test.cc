// Real checkpoints against a float64 implementation that is not ours (../shared/data).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "kernels/isa.h"
#include "model/model.h"
#include "runtime/session.h"
#include "test_data.h"

namespace harrow {
namespace {

std::unique_ptr<Model> LoadModel(const std::string& directory) {
  auto checkpoint = Checkpoint::Open(directory);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.status().ToString();
    return nullptr;
  }
  auto model = Model::Load(*checkpoint, {});
  if (!model.ok()) {
    ADD_FAILURE() << model.status().ToString();
    return nullptr;
  }
  return std::move(model).value();
}

std::vector<double> Score(const Model& model, ThreadPool* pool, const std::vector<int32_t>& ids,
                          int64_t batch) {
  Session session(&model, pool, {.batch = batch});
  auto nll = ScoreTokens(&session, ids);
  EXPECT_TRUE(nll.ok()) << nll.status().ToString();
  return nll.ok() ? *nll : std::vector<double>();
}

// Every weight times 1 + a random number within +-unit, as dense float32.
void PerturbWeights(Model* model, double unit, Rng* rng) {
  const auto perturb = [&](LinearLayer* layer) {
    std::vector<float> w(static_cast<size_t>(layer->rows * layer->cols));
    UnpackRows(layer->weight, 0, layer->rows, w.data());
    for (float& f : w)
      f = static_cast<float>(f * (1 + unit * (2 * rng->Uniform() - 1)));
    auto packed = PackWeight({.format = FormatId::kDense, .values = ValueType::kF32}, layer->rows,
                             layer->cols, w.data());
    ASSERT_TRUE(packed.ok()) << packed.status().ToString();
    layer->weight = *packed;
  };
  for (Block& block : model->blocks()) {
    for (LinearLayer* layer : block.linears())
      perturb(layer);
  }
  perturb(&model->head());
}

// A float32 dot product of K terms is the exact one of weights that are off by at most K 2^-24 each
// (Higham, Accuracy and Stability, section 3.1), and the element-wise steps between two layers add
// at most K / 2 + 16 units to its inputs. So how far NLLs move under random changes of all weights
// by `unit`, scaled to that size, says what float32 may cost; 2 allows for the tail beyond three
// trials. The reference is printed with 6 decimals.
double NllBound(const std::string& directory, ThreadPool* pool, const std::vector<int32_t>& ids) {
  constexpr double kUnit = 0x1p-13;
  std::unique_ptr<Model> model = LoadModel(directory);
  const ModelConfig& c = model->config();
  const double k = std::max({c.hidden, c.ffn, c.heads * c.head_dim});
  const std::vector<double> clean = Score(*model, pool, ids, 512);
  double worst = 0;
  Rng rng(1);
  for (int trial = 0; trial < 3; ++trial) {
    model = LoadModel(directory);
    PerturbWeights(model.get(), kUnit, &rng);
    const std::vector<double> moved = Score(*model, pool, ids, 512);
    for (size_t i = 0; i < clean.size(); ++i)
      worst = std::max(worst, std::fabs(moved[i] - clean[i]));
  }
  return 2 * worst / kUnit * (1.5 * k + 16) * 0x1p-24 + 0.5e-6;
}

void CheckAgainstReference(const std::string& directory, const std::string& reference) {
  std::ifstream file(reference);
  const nlohmann::json expected = nlohmann::json::parse(file);
  const std::unique_ptr<Model> model = LoadModel(directory);
  ASSERT_NE(model, nullptr);
  ThreadPool pool(1);
  const double bound =
      NllBound(directory, &pool, expected["texts"][0]["ids"].get<std::vector<int32_t>>());
  EXPECT_LT(bound, 0.02);  // or the comparison would say nothing
  double worst = 0;
  for (const nlohmann::json& text : expected["texts"]) {
    const std::vector<int32_t> ids = text["ids"].get<std::vector<int32_t>>();
    const std::vector<double> want = text["nll"].get<std::vector<double>>();
    for (const int64_t batch : {512, 50}) {
      const std::vector<double> got = Score(*model, &pool, ids, batch);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_NEAR(got[i], want[i], bound) << "token " << i + 1;
        worst = std::max(worst, std::fabs(got[i] - want[i]));
      }
    }
  }
  ::testing::Test::RecordProperty("worst", fmt::format("{:.3g} of {:.3g}", worst, bound));

  const nlohmann::json& greedy = expected["greedy"];
  const std::vector<int32_t> prompt = greedy["prompt_ids"].get<std::vector<int32_t>>();
  std::vector<int32_t> want = greedy["ids"].get<std::vector<int32_t>>();  // the prompt included
  ASSERT_GT(want.size(), prompt.size());
  want.erase(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
  Session session(model.get(), &pool, {});
  Sampler sampler({.temperature = 0});
  std::vector<int32_t> got;
  auto stats = Generate(
      &session, prompt, static_cast<int64_t>(want.size()), {}, &sampler,
      [&](int32_t id) {
        got.push_back(id);
        return true;
      },
      nullptr);
  ASSERT_TRUE(stats.ok()) << stats.status().ToString();
  EXPECT_EQ(got, want);
}

TEST(Reference, TinyStories656K) {
  const std::string directory = testing::SharedPath("models/TinyStories-656K");
  const std::string reference =
      testing::SharedPath("golden/reference-logits/TinyStories-656K.json");
  HARROW_SKIP_WITHOUT(directory);
  HARROW_SKIP_WITHOUT(reference);
  CheckAgainstReference(directory, reference);
}

TEST(Reference, Stories260KConvertedFromLlama2c) {
  const std::string source = testing::SharedPath("models/stories260K/stories260K.bin");
  const std::string reference = testing::SharedPath("golden/reference-logits/stories260K.json");
  HARROW_SKIP_WITHOUT(source);
  HARROW_SKIP_WITHOUT(reference);
  testing::TempDir folder;
  const Status converted = ConvertLlama2c(source, "", folder.File("model"), false);
  ASSERT_TRUE(converted.ok()) << converted.ToString();
  CheckAgainstReference(folder.File("model"), reference);
}

}  // namespace
}  // namespace harrow
