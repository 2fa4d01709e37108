#include "runtime/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace harrow {
namespace {

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities)
    logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::map<int32_t, int> Draw(const SamplerOptions& options, const std::vector<float>& logits,
                            int count) {
  EXPECT_TRUE(ValidateSamplerOptions(options).ok());
  Sampler sampler(options);
  std::map<int32_t, int> seen;
  for (int i = 0; i < count; ++i)
    ++seen[sampler.Sample(logits.data(), static_cast<int64_t>(logits.size()))];
  return seen;
}

std::set<int32_t> Ids(const std::map<int32_t, int>& seen) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : seen)
    ids.insert(id);
  return ids;
}

constexpr SamplerOptions kOff = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 5};

// 0.1 0.2 0.3 0.4 over ids 3 1 0 2
const std::vector<double> kProbabilities = {0.3, 0.2, 0.4, 0.1};

TEST(Sampler, GreedyTakesTheLowestIdOfTheLikeliest) {
  Sampler sampler({.temperature = 0, .top_k = 1, .top_p = 0.1f, .min_p = 1});
  const float logits[] = {1, 4, 4, 2};
  EXPECT_EQ(sampler.Sample(logits, 4), 1);
}

// 4 standard deviations of a binomial share.
TEST(Sampler, DrawsByProbabilityAndTemperature) {
  const int draws = 40000;
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    SamplerOptions options = kOff;
    options.temperature = temperature;
    const auto seen = Draw(options, LogitsOf(kProbabilities), draws);
    double total = 0;
    for (const double p : kProbabilities)
      total += std::pow(p, 1 / temperature);
    for (int32_t id = 0; id < 4; ++id) {
      const double p = std::pow(kProbabilities[static_cast<size_t>(id)], 1 / temperature) / total;
      EXPECT_NEAR(seen.at(id) / static_cast<double>(draws), p, 4 * std::sqrt(p * (1 - p) / draws));
    }
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  SamplerOptions options = kOff;
  options.top_k = 2;
  EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 500)), (std::set<int32_t>{0, 2}));
  options.top_k = 100;
  EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 500)).size(), 4u);
  options.top_k = 1;
  EXPECT_EQ(Ids(Draw(options, {2, 3, 3, 1}, 100)), (std::set<int32_t>{1}));  // tie: lower id
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  SamplerOptions options = kOff;
  for (const auto& [p, kept] : std::map<float, size_t>{
           {0.01f, 1}, {0.39f, 1}, {0.41f, 2}, {0.69f, 2}, {0.71f, 3}, {0.91f, 4}}) {
    options.top_p = p;
    EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 1000)).size(), kept) << p;
  }
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplerOptions options = kOff;
  for (const auto& [p, kept] : std::map<float, size_t>{
           {0.2f, 4}, {0.26f, 3}, {0.49f, 3}, {0.51f, 2}, {0.74f, 2}, {0.76f, 1}, {1.0f, 1}}) {
    options.min_p = p;
    EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 1000)).size(), kept) << p;
  }
}

// top-p sees what top-k kept: 0.4 of (0.4 + 0.3) is 0.57. Temperature comes last: it must not
// change who stays.
TEST(Sampler, FiltersRunInOrder) {
  SamplerOptions options = kOff;
  options.top_k = 2;
  options.top_p = 0.5f;
  EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 500)), (std::set<int32_t>{2}));
  options = kOff;
  options.top_p = 0.69f;
  options.temperature = 50;
  EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 500)), (std::set<int32_t>{0, 2}));
  options.top_p = 1;
  options.min_p = 0.51f;
  EXPECT_EQ(Ids(Draw(options, LogitsOf(kProbabilities), 500)), (std::set<int32_t>{0, 2}));
}

TEST(Sampler, TheSeedFixesTheSequence) {
  const std::vector<float> logits(50, 1.0f);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed});
    std::vector<int32_t> ids;
    for (int i = 0; i < 20; ++i)
      ids.push_back(sampler.Sample(logits.data(), 50));
    return ids;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
}

TEST(Sampler, ExtremeLogitsAreSafe) {
  SamplerOptions options;  // the defaults: every filter on
  options.temperature = 1e-6f;
  EXPECT_EQ(Ids(Draw(options, {-3e38f, 3e38f, 0.0f}, 50)), (std::set<int32_t>{1}));
  EXPECT_EQ(Ids(Draw(options, {7.0f}, 5)), (std::set<int32_t>{0}));
}

TEST(ValidateSamplerOptions, NamesTheFlagAndItsRange) {
  EXPECT_TRUE(ValidateSamplerOptions({}).ok());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto expect = [](const SamplerOptions& options, const std::string& flag) {
    const Status status = ValidateSamplerOptions(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << flag;
    EXPECT_NE(status.message().find(flag), std::string::npos) << status.ToString();
  };
  for (const float bad : {-0.1f, nan, std::numeric_limits<float>::infinity()})
    expect({.temperature = bad}, "--temp");
  expect({.top_k = -1}, "--top-k");
  for (const float bad : {0.0f, -1.0f, 1.1f, nan})
    expect({.top_p = bad}, "--top-p");
  for (const float bad : {-0.1f, 1.1f, nan})
    expect({.min_p = bad}, "--min-p");
}

}  // namespace
}  // namespace harrow
