#include "eval/perplexity.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace harrow {
namespace {

// Token t costs t / 10 nats wherever it stands; windows are recorded.
struct FakeModel {
  std::vector<std::vector<int32_t>> windows;
  WindowScorer Scorer() {
    return [this](const std::vector<int32_t>& window) -> Result<std::vector<double>> {
      windows.push_back(window);
      std::vector<double> nll;
      for (size_t i = 1; i < window.size(); ++i)
        nll.push_back(window[i] / 10.0);
      return nll;
    };
  }
};

const std::vector<int32_t> kIds = {1, 2, 3, 4, 5, 6, 7, 8, 9};

TEST(Perplexity, GptqByHand) {
  FakeModel model;
  // Window means 0.3 (2, 3, 4) and 0.7 (6, 7, 8); token 9 is the dropped tail.
  const auto report = ComputePerplexity(kIds, {.seqlen = 4, .bos_id = 1}, model.Scorer(), nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(model.windows, (std::vector<std::vector<int32_t>>{{1, 2, 3, 4}, {5, 6, 7, 8}}));
  EXPECT_DOUBLE_EQ(report->nll, 0.5);
  EXPECT_DOUBLE_EQ(report->ppl, std::exp(0.5));
  // Sample deviation of {0.3, 0.7} is sqrt(0.08), over sqrt(2) windows.
  EXPECT_NEAR(*report->nll_stderr, 0.2, 1e-15);
  EXPECT_NEAR(*report->ppl_stderr, 0.2 * std::exp(0.5), 1e-15);
  EXPECT_EQ(report->windows, 2);
  EXPECT_EQ(report->tokens, 9);
  EXPECT_EQ(report->scored_tokens, 6);
  EXPECT_EQ(report->bos, "first window");
}

// The formula as the papers' code writes it: mean * seqlen summed, over windows * seqlen.
TEST(Perplexity, GptqEqualsThePapersFormula) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 1000; ++i)
    ids.push_back(i * i % 37);
  const int64_t seqlen = 33;
  double total = 0;
  const int64_t windows = 1000 / seqlen;
  for (int64_t w = 0; w < windows; ++w) {
    double mean = 0;
    for (int64_t i = 1; i < seqlen; ++i)
      mean += ids[w * seqlen + i] / 10.0 / (seqlen - 1);
    total += mean * seqlen;
  }
  FakeModel model;
  const auto report = ComputePerplexity(ids, {.seqlen = seqlen}, model.Scorer(), nullptr);
  ASSERT_TRUE(report.ok());
  EXPECT_NEAR(report->ppl, std::exp(total / static_cast<double>(windows * seqlen)),
              1e-12 * report->ppl);
  EXPECT_EQ(report->bos, "none");
}

TEST(Perplexity, LlamaCppScoresSecondHalvesAndOverwritesTheFirstToken) {
  FakeModel model;
  const auto report = ComputePerplexity(kIds, {.protocol = "llama.cpp", .seqlen = 4, .bos_id = 0},
                                        model.Scorer(), nullptr);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(model.windows, (std::vector<std::vector<int32_t>>{{0, 2, 3, 4}, {0, 6, 7, 8}}));
  // Targets n/2 + 1 .. n - 1 = 3: tokens 4 and 8.
  EXPECT_DOUBLE_EQ(report->nll, 0.6);
  EXPECT_EQ(report->scored_tokens, 2);
  // Its tool: sqrt((E[x^2] - E[x]^2) / (n - 1)) = sqrt((0.4 - 0.36) / 1).
  EXPECT_NEAR(*report->nll_stderr, std::sqrt(0.04), 1e-12);
  EXPECT_EQ(report->bos, "every window");
}

TEST(Perplexity, OneWindowHasNoStandardError) {
  FakeModel model;
  const auto report =
      ComputePerplexity(kIds, {.seqlen = 4, .max_windows = 1}, model.Scorer(), nullptr);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->windows, 1);
  EXPECT_FALSE(report->ppl_stderr.has_value());
}

TEST(Perplexity, TooShortTextSaysHowManyTokensAreNeeded) {
  const auto gptq = CountWindows(9, {.seqlen = 10});
  ASSERT_FALSE(gptq.ok());
  EXPECT_EQ(gptq.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(gptq.status().message().find("has 9 tokens"), std::string::npos);
  EXPECT_NE(gptq.status().message().find("at least 10"), std::string::npos);
  EXPECT_EQ(*CountWindows(10, {.seqlen = 10}), 1);
  EXPECT_EQ(*CountWindows(29, {.seqlen = 10}), 2);

  const auto llama = CountWindows(19, {.protocol = "llama.cpp", .seqlen = 10});
  ASSERT_FALSE(llama.ok());
  EXPECT_NE(llama.status().message().find("at least 20"), std::string::npos);
  EXPECT_FALSE(CountWindows(0, {.seqlen = 2}).ok());
  EXPECT_FALSE(CountWindows(100, {.seqlen = 1}).ok());
}

TEST(Perplexity, UnknownProtocolNamesTheChoices) {
  const auto result = CountWindows(100, {.protocol = "wikitext", .seqlen = 10});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("wikitext"), std::string::npos);
  EXPECT_NE(result.status().message().find("llama.cpp"), std::string::npos);
}

TEST(Perplexity, NonFiniteLikelihoodIsAnError) {
  const WindowScorer scorer = [](const std::vector<int32_t>& window) {
    std::vector<double> nll(window.size() - 1, 1.0);
    nll[1] = std::numeric_limits<double>::quiet_NaN();
    return Result<std::vector<double>>(nll);
  };
  const auto result = ComputePerplexity(kIds, {.seqlen = 4}, scorer, nullptr);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kNumerical);
  EXPECT_NE(result.status().message().find("window 0, token 2"), std::string::npos);
}

TEST(Perplexity, CancelStops) {
  std::atomic<bool> cancel{true};
  RunControl control;
  control.cancel = &cancel;
  FakeModel model;
  const auto result = ComputePerplexity(kIds, {.seqlen = 4}, model.Scorer(), &control);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kCancelled);
  EXPECT_TRUE(model.windows.empty());
}

}  // namespace
}  // namespace harrow
