// Logits of tiny models as Hugging Face computes them (scripts/golden/llama_logits.py).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/model.h"
#include "test_data.h"
#include "tier_test.h"

namespace harrow {
namespace {

struct Golden {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  std::vector<std::vector<double>> logits;
  double bound = 0;
};

// What this implementation may err by, through the deviations that the script measured:
// * summation in float32: a dot product of K terms errs by at most K 2^-24 sum|x||w|, and the
//   element-wise steps between (norm, rope, softmax, gate) by at most another K / 2 + 16 units;
// * kernels of BF16 weights round activations to BF16: half a unit of 2^-8.
// The script's errors are random and so are ours; 2 allows for the tail beyond its trials.
double Bound(const nlohmann::json& expected, const Model& model) {
  const ModelConfig& c = model.config();
  const double k = std::max({c.hidden, c.ffn, c.heads * c.head_dim});
  double bound = expected["sum_deviation"].get<double>() * (1.5 * k + 16) * 0x1p-24;
  if (model.head().weight.spec.values == ValueType::kBf16)
    bound += expected["input_deviation"].get<double>() * 0x1p-9;
  return 2 * bound;
}

class LlamaGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string folder = testing::SourcePath("tests/golden/" + GetParam());
    auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    auto model = Model::Load(*checkpoint, {});
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(model).value();
    std::ifstream file(folder + "/expected.json");
    const nlohmann::json expected = nlohmann::json::parse(file);
    golden_.ids = expected["ids"].get<std::vector<int32_t>>();
    golden_.positions = expected["positions"].get<std::vector<int64_t>>();
    golden_.logits = expected["logits"].get<std::vector<std::vector<double>>>();
    golden_.bound = Bound(expected, *model_);
  }

  // Runs the sequence in calls of `chunk` tokens, in steps of at most `batch`, and compares.
  void Check(int64_t chunk, int64_t batch, int threads) {
    SCOPED_TRACE(::testing::Message() << "chunk " << chunk << " batch " << batch);
    const ModelConfig& c = model_->config();
    ThreadPool pool(threads);
    auto state = NewForwardState(&pool, batch);
    const int64_t count = static_cast<int64_t>(golden_.ids.size());
    auto kv = NewKvCache(c, c.layers, count);
    std::vector<float> hidden(static_cast<size_t>(count * c.hidden));
    std::vector<float> logits(static_cast<size_t>(count * c.vocab));
    for (int64_t at = 0; at < count; at += chunk) {
      const int64_t n = std::min(chunk, count - at);
      const Status status = model_->Forward(golden_.ids.data() + at, n, at, kv.get(), state.get(),
                                            hidden.data() + at * c.hidden);
      ASSERT_TRUE(status.ok()) << status.ToString();
    }
    model_->Logits(hidden.data(), count, state.get(), logits.data());
    double worst = 0;
    for (size_t p = 0; p < golden_.positions.size(); ++p) {
      ASSERT_EQ(golden_.logits[p].size(), static_cast<size_t>(c.vocab));
      for (size_t i = 0; i < golden_.logits[p].size(); ++i) {
        const double got = logits[static_cast<size_t>(golden_.positions[p] * c.vocab) + i];
        worst = std::max(worst, std::fabs(got - golden_.logits[p][i]));
      }
    }
    EXPECT_LE(worst, golden_.bound);
    RecordProperty("worst_over_bound", std::to_string(worst / golden_.bound));
  }

  std::unique_ptr<Model> model_;
  Golden golden_;
};

TEST_P(LlamaGolden, PrefillChunksAndDecodeMatchHuggingFace) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    const Isa before = ActiveIsa();
    if (!SetIsaLimit(isa).ok()) continue;
    SCOPED_TRACE(IsaName(isa));
    Check(48, 512, 2);
    Check(48, 7, 1);
    Check(13, 5, 1);
    Check(1, 1, 1);
    ASSERT_TRUE(SetIsaLimit(before).ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LlamaGolden,
                         ::testing::Values("llama_gqa_untied_f32", "llama_mha_tied_bf16",
                                           "llama_rope3_f16", "llama_linear_f32",
                                           "llama_headdim_f32", "llama_relu_bf16"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace harrow
