#include "eval/change_scorer.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "eval/loaded_model.h"

namespace harrow {
namespace {

LoadedModel TinyModel(int threads) {
  HfConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 61;
  config.max_position_embeddings = 64;
  LoadedModel loaded;
  loaded.path = "tiny";
  loaded.pool = std::make_shared<ThreadPool>(threads);
  loaded.model = std::move(Model::Random(config, *ParseSpec("dense-bf16"), 1, 3)).value();
  return loaded;
}

std::vector<int32_t> SomeIds(int64_t count) {
  Rng rng(5);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng.Below(61));
  return ids;
}

// Every second weight gone.
LinearWeight Halved(const LinearWeight& weight) {
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  UnpackRows(weight, 0, weight.rows, values.data());
  for (size_t i = 0; i < values.size(); i += 2)
    values[i] = 0;
  return std::move(PackWeight(weight.spec, weight.rows, weight.cols, values.data())).value();
}

TEST(ChangeScorer, AgreesWithTwoWholeModels) {
  const std::vector<int32_t> ids = SomeIds(100);
  const LoadedModel dense = TinyModel(2);
  for (const int32_t block : {0, 2}) {
    LoadedModel changed = TinyModel(2);
    LinearLayer& down = changed.model->blocks()[static_cast<size_t>(block)].down;
    const LinearWeight halved = Halved(down.weight);
    const LinearWeight before = down.weight;

    const auto scorer =
        ChangeScorer::Create(changed.model.get(), changed.pool.get(), ids, 32, 3, nullptr);
    ASSERT_TRUE(scorer.ok()) << scorer.status().ToString();
    for (int32_t b = 0; b < block; ++b)
      ASSERT_TRUE((*scorer)->Advance().ok());
    down.weight = halved;
    const Result<DivergenceReport> fast = (*scorer)->Score();
    ASSERT_TRUE(fast.ok()) << fast.status().ToString();
    const Result<DivergenceReport> slow = MeasureDivergence(dense, changed, ids, 32, 3, nullptr);
    ASSERT_TRUE(slow.ok()) << slow.status().ToString();
    ASSERT_EQ(fast->kl.size(), 3u);
    EXPECT_GT(fast->kl[0], 1e-3);
    for (size_t w = 0; w < 3; ++w) {
      // The same sums of the same float32 logits, but for the batches they were computed in: a
      // logit (below 20) may differ by some units in its last place.
      const double bound = 20 * 64 * 0x1.0p-23;
      EXPECT_NEAR(fast->nll_p[w], slow->nll_p[w], bound);
      EXPECT_NEAR(fast->nll_q[w], slow->nll_q[w], bound);
      EXPECT_NEAR(fast->kl[w], slow->kl[w], 2 * bound);
    }
    // Back to what it was: nothing is left of the change.
    down.weight = before;
    const Result<DivergenceReport> restored = (*scorer)->Score();
    ASSERT_TRUE(restored.ok());
    EXPECT_EQ(restored->kl, std::vector<double>(3, 0.0));
    EXPECT_EQ(restored->nll_p, restored->nll_q);
  }
}

TEST(ChangeScorer, DoesNotDependOnTheNumberOfThreads) {
  const std::vector<int32_t> ids = SomeIds(64);
  std::vector<std::vector<double>> kl;
  for (const int threads : {1, 3}) {
    LoadedModel model = TinyModel(threads);
    const auto scorer =
        ChangeScorer::Create(model.model.get(), model.pool.get(), ids, 32, 2, nullptr);
    ASSERT_TRUE(scorer.ok());
    LinearLayer& q = model.model->blocks()[0].q;
    q.weight = Halved(q.weight);
    kl.push_back((*scorer)->Score()->kl);
  }
  EXPECT_EQ(kl[0], kl[1]);
}

TEST(ChangeScorer, RewindStandsInFrontOfTheFirstBlock) {
  const std::vector<int32_t> ids = SomeIds(32);
  LoadedModel model = TinyModel(1);
  const auto scorer =
      ChangeScorer::Create(model.model.get(), model.pool.get(), ids, 32, 1, nullptr);
  ASSERT_TRUE(scorer.ok());
  LinearLayer& up = model.model->blocks()[0].up;
  const LinearWeight before = up.weight;
  const LinearWeight after = Halved(before);
  up.weight = after;
  const double first = (*scorer)->Score()->kl[0];
  up.weight = before;
  ASSERT_TRUE((*scorer)->Advance().ok());
  up.weight = after;
  EXPECT_EQ((*scorer)->Score()->kl[0], 0);  // the change lies behind it
  ASSERT_TRUE((*scorer)->Rewind().ok());
  EXPECT_EQ((*scorer)->Score()->kl[0], first);
  EXPECT_GT(first, 0);
}

}  // namespace
}  // namespace harrow
