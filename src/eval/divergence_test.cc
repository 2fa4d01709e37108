#include "eval/divergence.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/machine.h"
#include "base/rng.h"
#include "eval/bench.h"
#include "eval/speed.h"
#include "runtime/session.h"

namespace harrow {
namespace {

TEST(Divergence, OfADistributionFromItselfIsZero) {
  Rng rng(1);
  std::vector<float> logits(777);
  for (float& value : logits)
    value = static_cast<float>(10 * rng.Normal());
  const PositionDivergence d = CompareLogits(logits.data(), logits.data(), 777, 3);
  EXPECT_EQ(d.kl, 0);
  EXPECT_TRUE(d.same_top);
  EXPECT_EQ(d.nll_p, d.nll_q);
}

TEST(Divergence, ByHand) {
  const float p[] = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const float q[] = {0, 0, 1e-3f};
  const double z = 2 + std::exp(1e-3);
  const PositionDivergence d = CompareLogits(p, q, 3, 2);
  const double want =
      0.5 * std::log(0.5 * z) + 0.25 * std::log(0.25 * z) + 0.25 * (std::log(0.25 * z) - 1e-3);
  // Inputs are float32: each logit is off by at most eps / 2 times its size (< 1.4).
  EXPECT_NEAR(d.kl, want, 4 * 1.4 * 0x1.0p-24);
  EXPECT_NEAR(d.nll_p, -std::log(0.25), 4 * 1.4 * 0x1.0p-24);
  EXPECT_NEAR(d.nll_q, std::log(z) - 1e-3, 4 * 1.4 * 0x1.0p-24);
  EXPECT_FALSE(d.same_top);
}

TEST(Divergence, IsShiftInvariantAndDoesNotOverflow) {
  const float p[] = {1, 2, 3, 4};
  const float shifted[] = {10001, 10002, 10003, 10004};
  const PositionDivergence d = CompareLogits(p, shifted, 4, 0);
  EXPECT_NEAR(d.kl, 0, 1e-12);
  EXPECT_NEAR(d.nll_p, d.nll_q, 1e-11);
  // A token that q all but excludes costs a lot and stays finite.
  const float sure[] = {1e4f, 0, 0, 0};
  EXPECT_NEAR(CompareLogits(p, sure, 4, 0).kl, 1e4, 1e4);
  EXPECT_TRUE(std::isfinite(CompareLogits(p, sure, 4, 1).nll_q));
}

// ---- whole models ----

LoadedModel TinyModel(const char* format, double density, uint64_t seed, int64_t vocab = 61) {
  HfConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.vocab_size = vocab;
  config.max_position_embeddings = 64;
  LoadedModel loaded;
  loaded.path = "tiny";
  loaded.pool = std::make_shared<ThreadPool>(2);
  Result<std::unique_ptr<Model>> model = Model::Random(config, *ParseSpec(format), density, seed);
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  loaded.model = std::move(model).value();
  return loaded;
}

std::vector<int32_t> SomeIds(int64_t count, int64_t vocab) {
  Rng rng(5);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng.Below(vocab));
  return ids;
}

TEST(Divergence, AModelAgreesWithItself) {
  const LoadedModel model = TinyModel("dense-bf16", 1, 1);
  const auto report = MeasureDivergence(model, model, SomeIds(100, 61), 32, 0, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->windows, 3);
  for (int w = 0; w < 3; ++w) {
    EXPECT_EQ(report->kl[w], 0);
    EXPECT_EQ(report->agreement[w], 1);
    EXPECT_EQ(report->nll_p[w], report->nll_q[w]);
  }
}

TEST(Divergence, LikelihoodsAreThoseOfScoring) {
  const LoadedModel p = TinyModel("dense-bf16", 1, 1);
  const LoadedModel q = TinyModel("dense-bf16", 1, 2);
  const std::vector<int32_t> ids = SomeIds(70, 61);
  const auto report = MeasureDivergence(p, q, ids, 32, 0, nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  for (const LoadedModel* model : {&p, &q}) {
    Session session(model->model.get(), model->pool.get(), {.max_tokens = 32});
    for (int w = 0; w < 2; ++w) {
      session.Reset();
      const auto nll = ScoreTokens(
          &session, std::vector<int32_t>(ids.begin() + w * 32, ids.begin() + (w + 1) * 32));
      ASSERT_TRUE(nll.ok());
      double mean = 0;
      for (double value : *nll)
        mean += value / 31;
      // The same arithmetic; batches of other sizes may take other kernels, whose activations are
      // rounded to BF16 all the same, so sums differ by float32 rounding only.
      EXPECT_NEAR(model == &p ? report->nll_p[w] : report->nll_q[w], mean, 1e-4);
    }
  }
  EXPECT_GT(report->kl[0], 0);
}

TEST(Divergence, VocabulariesMustMatch) {
  const LoadedModel p = TinyModel("dense-bf16", 1, 1, 61);
  const LoadedModel q = TinyModel("dense-bf16", 1, 1, 62);
  const auto report = MeasureDivergence(p, q, SomeIds(100, 61), 32, 0, nullptr);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find("vocabularies differ"), std::string::npos);
}

// ---- speed ----

TEST(Speed, EveryRoundMeasuresEveryModel) {
  const LoadedModel dense = TinyModel("dense-bf16", 1, 1);
  const LoadedModel sparse = TinyModel("bitmask-i8/32", 0.5, 1);
  MemoryRoof roof(dense.pool.get());
  const auto samples = MeasureSpeed({&dense, &sparse},
                                    {.n_prompt = 16, .n_gen = 8, .repetitions = 3}, &roof, nullptr);
  ASSERT_TRUE(samples.ok()) << samples.status().ToString();
  ASSERT_EQ(samples->size(), 2u);
  for (const SpeedSamples& s : *samples) {
    ASSERT_EQ(s.prefill_tps.size(), 3u);
    ASSERT_EQ(s.decode_tps.size(), 3u);
    ASSERT_EQ(s.roof_gbps.size(), 3u);
    for (double tps : s.decode_tps)
      EXPECT_GT(tps, 0);
    for (double gbps : s.roof_gbps)
      EXPECT_GT(gbps, 0.1);
  }
  EXPECT_FALSE(MeasureSpeed({&dense}, {.n_prompt = 65}, nullptr, nullptr).ok());
}

TEST(Speed, ProbeBufferExceedsTheCache) {
  ThreadPool pool(1);
  EXPECT_GT(MemoryRoof(&pool).bytes(), 2 * LastLevelCacheBytes());
}

TEST(Bench, RandomSpecDefaultsItsDensity) {
  EXPECT_EQ(ParseRandomSpec("dense-bf16", 0.5)->density, 1);
  EXPECT_EQ(ParseRandomSpec("bitmask-i8", 0.5)->density, 0.5);
  EXPECT_EQ(ParseRandomSpec("bitmask-i8/64:0.3", 0.5)->density, 0.3);
  EXPECT_EQ(ParseRandomSpec("bitmask-i8/64:0.3", 0.5)->spec.group, 64);
  EXPECT_EQ(ParseRandomSpec("nm-bf16 2:4", 0.9)->density, 0.5);
  EXPECT_FALSE(ParseRandomSpec("bitmask-i8:1.5", 0.5).ok());
  EXPECT_FALSE(ParseRandomSpec("bitmask-i8:0", 0.5).ok());
  EXPECT_FALSE(ParseRandomSpec("", 0.5).ok());
  EXPECT_FALSE(ParseRandomSpec("sparse", 0.5).ok());
}

}  // namespace
}  // namespace harrow
