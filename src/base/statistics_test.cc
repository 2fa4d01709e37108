#include "base/statistics.h"

#include <cmath>

#include <gtest/gtest.h>

namespace harrow {
namespace {

TEST(Statistics, MeanAndMedian) {
  EXPECT_EQ(Mean({}), 0);
  EXPECT_DOUBLE_EQ(Mean({1, 2, 6}), 3);
  EXPECT_EQ(Median({}), 0);
  EXPECT_EQ(Median({7}), 7);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({9, 1, 5, 4}), 4.5);
}

TEST(Statistics, DeviationAndStandardErrorByHand) {
  EXPECT_FALSE(SampleDeviation({}).has_value());
  EXPECT_FALSE(SampleDeviation({3}).has_value());
  EXPECT_FALSE(StandardError({3}).has_value());
  // Mean 5, squares 9 + 1 + 1 + 9 = 20.
  EXPECT_DOUBLE_EQ(*SampleDeviation({2, 4, 6, 8}), std::sqrt(20.0 / 3));
  EXPECT_DOUBLE_EQ(*StandardError({2, 4, 6, 8}), std::sqrt(20.0 / 3) / 2);
  EXPECT_EQ(*SampleDeviation({4, 4, 4}), 0);
}

TEST(Statistics, FractionErrorIsTheStandardErrorOfZerosAndOnes) {
  const std::vector<double> trials = {1, 0, 0, 1, 1, 0, 1, 1, 1, 0};
  EXPECT_NEAR(*FractionStandardError(0.6, 10), *StandardError(trials), 1e-15);
  EXPECT_FALSE(FractionStandardError(1, 1).has_value());
  EXPECT_EQ(*FractionStandardError(1, 5), 0);
}

TEST(Statistics, MedianRatioPairsRepetitions) {
  // 2, 3 and 10: the median of ratios, not the ratio of medians (40 / 10).
  EXPECT_DOUBLE_EQ(MedianRatio({20, 90, 40}, {10, 30, 4}), 3);
  const RatioSpread spread = SpreadOfRatios({20, 90, 40}, {10, 30, 4});
  EXPECT_DOUBLE_EQ(spread.low, 2);
  EXPECT_DOUBLE_EQ(spread.high, 10);
}

}  // namespace
}  // namespace harrow
