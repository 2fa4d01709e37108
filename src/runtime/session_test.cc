#include "runtime/session.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/elementwise.h"

namespace harrow {
namespace {

constexpr int32_t kVocab = 70;

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() : pool_(1) {
    HfConfig config;
    config.architecture = "LlamaForCausalLM";
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 8;
    config.vocab_size = kVocab;
    config.max_position_embeddings = 40;
    auto model =
        Model::Random(config, {.format = FormatId::kDense, .values = ValueType::kF32}, 1, 3);
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(model).value();
    for (int32_t i = 0; i < 30; ++i)
      ids_.push_back(i * 31 % kVocab);
  }

  std::vector<std::vector<float>> AllLogits(const SessionOptions& options) {
    Session session(model_.get(), &pool_, options);
    std::vector<std::vector<float>> rows;
    const Status status = session.AppendAll(ids_.data(), static_cast<int64_t>(ids_.size()),
                                            [&](int64_t i, const float* logits) {
                                              EXPECT_EQ(i, static_cast<int64_t>(rows.size()));
                                              rows.emplace_back(logits, logits + kVocab);
                                            });
    EXPECT_TRUE(status.ok()) << status.ToString();
    return rows;
  }

  // Kernels may sum in another order for another number of tokens: float32, two layers, K <= 48,
  // logits of order 1 to 10.
  static void ExpectClose(const std::vector<float>& a, const float* b) {
    const double bound = 10 * 2 * 2 * (1.5 * 48 + 16) * 0x1p-24;
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], bound);
  }

  ThreadPool pool_;
  std::unique_ptr<Model> model_;
  std::vector<int32_t> ids_;
};

void ExpectError(const Status& status, StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const std::string& part : parts)
    EXPECT_NE(status.message().find(part), std::string::npos) << status.ToString();
}

TEST_F(SessionTest, EveryWayOfAppendingGivesTheSameLogits) {
  const auto whole = AllLogits({});
  ASSERT_EQ(whole.size(), ids_.size());
  for (const int64_t batch : {1, 4, 29})
    for (size_t i = 0; i < whole.size(); ++i)
      ExpectClose(whole[i], AllLogits({.batch = batch})[i].data());
  Session session(model_.get(), &pool_, {.batch = 4});
  size_t at = 0;
  for (const size_t count : {1u, 1u, 9u, 4u, 15u}) {
    auto logits = session.Append(ids_.data() + at, static_cast<int64_t>(count));
    ASSERT_TRUE(logits.ok()) << logits.status().ToString();
    at += count;
    EXPECT_EQ(session.position(), static_cast<int64_t>(at));
    ExpectClose(whole[at - 1], *logits);
  }
  session.Rewind(5);
  EXPECT_EQ(session.position(), 5);
  auto logits = session.Append(ids_.data() + 5, 2);
  ASSERT_TRUE(logits.ok());
  ExpectClose(whole[6], *logits);
  session.Reset();
  EXPECT_EQ(session.position(), 0);
  logits = session.Append(ids_.data(), 3);
  ASSERT_TRUE(logits.ok());
  ExpectClose(whole[2], *logits);
}

// A rounded cache changes the logits, but no more than its rounding can. Rows of random weights
// have norm 1 and their inputs an rms of 1, so q, k, v and logits have one of 1 too. Let e be that
// of the rounding errors of k and v: uniform within 2^-9 in BF16, where kernels may round queries
// and attention weights likewise (sqrt(2) for twice as many errors), and within 1/254 of the
// largest of 8 normal numbers, whose rms is 2, in int8. Independent errors add as squares: v puts e
// into what is attended, k through the scores at most as much again. Relative to x, whose rms is
// above 0.58 (embeddings are uniform in [-1, 1]), that is 2.5 e; the FFN and the second layer
// double its square each: 5 e. And no less than v alone, were it averaged over 30 keys and x twice
// as large.
TEST_F(SessionTest, CacheTypesRoundAndNoMore) {
  const auto exact = AllLogits({});
  for (const bool int8 : {false, true}) {
    const auto rounded = AllLogits({.cache_type = int8 ? KvType::kI8 : KvType::kBf16});
    double squares = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      for (size_t j = 0; j < exact[i].size(); ++j)
        squares += std::pow(rounded[i][j] - exact[i][j], 2);
    }
    const double rms = std::sqrt(squares / static_cast<double>(exact.size() * kVocab));
    const double e = (int8 ? 2 / 254.0 : std::sqrt(2) * 0x1p-9) / std::sqrt(3);
    EXPECT_LT(rms, 5 * e);
    EXPECT_GT(rms, e / 2 / std::sqrt(30));
  }
}

TEST_F(SessionTest, CacheTypeFlag) {
  const Result<KvType> type = ResolveCacheType("int8", model_->config());
  ASSERT_TRUE(type.ok());
  EXPECT_EQ(*type, KvType::kI8);
  ExpectError(ResolveCacheType("q8_0", model_->config()).status(), StatusCode::kInvalidArgument,
              {"--cache-type", "'q8_0'", "f32, bf16 or int8"});
  ModelConfig wide = model_->config();
  wide.head_dim = 2048;
  ExpectError(ResolveCacheType("int8", wide).status(), StatusCode::kUnsupported,
              {"int8", "1024", "2048"});
}

TEST_F(SessionTest, FailedCallsLeaveTheSequenceAlone) {
  Session session(model_.get(), &pool_, {.max_tokens = 10, .batch = 4});
  EXPECT_EQ(session.capacity(), 10);
  ASSERT_TRUE(session.Append(ids_.data(), 7).ok());
  ExpectError(session.Append(ids_.data(), 4).status(), StatusCode::kResourceLimit,
              {"full", "7 tokens", "4 more", "10"});
  ExpectError(session.Append(ids_.data(), std::numeric_limits<int64_t>::max()).status(),
              StatusCode::kResourceLimit, {"full"});
  ExpectError(session.Append(ids_.data(), 0).status(), StatusCode::kInvalidArgument, {"no tokens"});
  const int32_t bad[] = {1, kVocab};
  ExpectError(session.Append(bad, 2).status(), StatusCode::kInvalidArgument, {"token 1", "70"});
  EXPECT_EQ(session.position(), 7);
  auto logits = session.Append(ids_.data() + 7, 3);
  ASSERT_TRUE(logits.ok());
  ExpectClose(AllLogits({})[9], *logits);
}

TEST_F(SessionTest, ScoresAreTheNllOfTheNextToken) {
  const auto rows = AllLogits({});
  Session session(model_.get(), &pool_, {.max_tokens = 29});  // the last token is not run
  ASSERT_TRUE(session.Append(ids_.data(), 5).ok());           // forgotten
  auto nll = ScoreTokens(&session, ids_);
  ASSERT_TRUE(nll.ok()) << nll.status().ToString();
  ASSERT_EQ(nll->size(), 29u);
  for (size_t i = 0; i < 29; ++i) {
    double sum = 0;
    for (const float logit : rows[i])
      sum += std::exp(static_cast<double>(logit));
    EXPECT_NEAR((*nll)[i], std::log(sum) - rows[i][static_cast<size_t>(ids_[i + 1])], 1e-4);
  }
  auto none = ScoreTokens(&session, {5});
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->empty());
  ExpectError(ScoreTokens(&session, {5, kVocab}).status(), StatusCode::kInvalidArgument,
              {"token 1"});
}

class GenerateTest : public SessionTest {
 protected:
  Result<GenerateStats> Run(Session* session, int64_t count, const std::vector<int32_t>& stop,
                            const RunControl* control = nullptr) {
    Sampler sampler(sampling_);
    got_.clear();
    return Generate(
        session, {ids_.begin(), ids_.begin() + 6}, count, stop, &sampler,
        [this](int32_t id) {
          got_.push_back(id);
          return got_.size() < limit_;
        },
        control);
  }
  SamplerOptions sampling_ = {.temperature = 0};
  size_t limit_ = 1000;
  std::vector<int32_t> got_;
};

TEST_F(GenerateTest, GreedyFollowsTheArgMaxUntilTheEnd) {
  Session session(model_.get(), &pool_, {.batch = 4});
  auto stats = Run(&session, 8, {});
  ASSERT_TRUE(stats.ok()) << stats.status().ToString();
  EXPECT_EQ(stats->prompt_tokens, 6);
  EXPECT_EQ(stats->new_tokens, 8);
  EXPECT_GT(stats->prefill_seconds, 0);
  EXPECT_GT(stats->decode_seconds, 0);
  const std::vector<int32_t> greedy = got_;
  ASSERT_EQ(greedy.size(), 8u);

  Session manual(model_.get(), &pool_, {});
  auto logits = manual.Append(ids_.data(), 6);
  for (const int32_t id : greedy) {
    ASSERT_TRUE(logits.ok());
    EXPECT_EQ(id, ArgMax(*logits, kVocab));
    logits = manual.Append(&id, 1);
  }
}

TEST_F(GenerateTest, StopIdsAndTheCallbackEndIt) {
  sampling_ = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 4};
  Session session(model_.get(), &pool_, {});
  ASSERT_TRUE(Run(&session, 8, {}).ok());
  const std::vector<int32_t> free_run = got_;
  ASSERT_EQ(free_run.size(), 8u);
  size_t first = 1;  // the first id unlike all before it: stops there and not earlier
  while (std::count(free_run.begin(), free_run.begin() + static_cast<std::ptrdiff_t>(first),
                    free_run[first]) > 0) {
    ASSERT_LT(++first, free_run.size());
  }
  session.Reset();
  auto stats = Run(&session, 8, {9999, free_run[first]});
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(got_, std::vector<int32_t>(free_run.begin(),
                                       free_run.begin() + static_cast<std::ptrdiff_t>(first)));
  EXPECT_EQ(stats->new_tokens, static_cast<int64_t>(first));

  session.Reset();
  limit_ = 3;
  ASSERT_TRUE(Run(&session, 8, {}).ok());
  EXPECT_EQ(got_.size(), 3u);
}

TEST_F(GenerateTest, StopsWhereTheContextEnds) {
  Session session(model_.get(), &pool_, {.max_tokens = 9});
  auto stats = Run(&session, 100, {});
  ASSERT_TRUE(stats.ok()) << stats.status().ToString();
  EXPECT_EQ(stats->new_tokens, 4);  // positions 6, 7, 8 run; the last one predicts a fourth
  EXPECT_EQ(session.position(), 9);
  auto none = Run(&session, 0, {});
  ExpectError(none.status(), StatusCode::kResourceLimit, {"does not fit", "9", "6 more"});
}

TEST_F(GenerateTest, NothingToDoAndCancellation) {
  Session session(model_.get(), &pool_, {});
  Sampler sampler({.temperature = 0});
  ExpectError(Generate(&session, {}, 5, {}, &sampler, nullptr, nullptr).status(),
              StatusCode::kInvalidArgument, {"no tokens"});
  auto stats = Run(&session, 0, {});
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->new_tokens, 0);
  EXPECT_EQ(session.position(), 6);

  std::atomic<bool> cancel{true};
  RunControl control;
  control.cancel = &cancel;
  session.Reset();
  ExpectError(Run(&session, 5, {}, &control).status(), StatusCode::kCancelled, {});
  EXPECT_EQ(session.position(), 0);

  cancel = false;
  int64_t count = 0;
  auto some = Generate(
      &session, {1, 2, 3}, 20, {}, &sampler,
      [&](int32_t) {
        if (++count == 2) cancel = true;
        return true;
      },
      &control);
  ASSERT_TRUE(some.ok()) << some.status().ToString();  // what there is, with its figures
  EXPECT_EQ(some->new_tokens, 2);
}

TEST_F(GenerateTest, NonFiniteLogitsAreAnError) {
  model_->blocks()[1].attention_norm[3] = std::numeric_limits<float>::quiet_NaN();
  Session session(model_.get(), &pool_, {});
  ExpectError(Run(&session, 5, {}).status(), StatusCode::kNumerical, {"not finite"});
  ExpectError(ScoreTokens(&session, ids_).status(), StatusCode::kNumerical, {"token 1"});
}

}  // namespace
}  // namespace harrow
