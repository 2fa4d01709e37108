#include "base/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace harrow {

double Mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + half, values.end());
  const double upper = values[half];
  if (values.size() % 2 == 1) return upper;
  return (*std::max_element(values.begin(), values.begin() + half) + upper) / 2;
}

double QuartileSpread(std::vector<double> values) {
  const double median = Median(values);
  if (values.empty() || median == 0) return 0;
  std::sort(values.begin(), values.end());
  return (values[values.size() * 3 / 4] - values[values.size() / 4]) / median;
}

std::optional<double> SampleDeviation(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  const double mean = Mean(values);
  double squares = 0;
  for (double value : values)
    squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

std::optional<double> StandardError(const std::vector<double>& values) {
  const std::optional<double> deviation = SampleDeviation(values);
  if (!deviation) return std::nullopt;
  return *deviation / std::sqrt(static_cast<double>(values.size()));
}

std::optional<double> FractionStandardError(double p, int64_t n) {
  if (n < 2) return std::nullopt;
  return std::sqrt(p * (1 - p) / static_cast<double>(n - 1));
}

RatioSpread SpreadOfRatios(const std::vector<double>& a, const std::vector<double>& b) {
  HARROW_CHECK(a.size() == b.size());
  RatioSpread spread;
  if (a.empty()) return spread;
  std::vector<double> ratios(a.size());
  for (size_t i = 0; i < a.size(); ++i)
    ratios[i] = a[i] / b[i];
  spread.low = *std::min_element(ratios.begin(), ratios.end());
  spread.high = *std::max_element(ratios.begin(), ratios.end());
  spread.median = Median(std::move(ratios));
  return spread;
}

double MedianRatio(const std::vector<double>& a, const std::vector<double>& b) {
  return SpreadOfRatios(a, b).median;
}

}  // namespace harrow
