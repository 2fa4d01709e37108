// Means, medians and standard errors of small samples.
#ifndef HARROW_BASE_STATISTICS_H_
#define HARROW_BASE_STATISTICS_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace harrow {

// All return 0 for an empty sample.
double Mean(const std::vector<double>& values);
double Median(std::vector<double> values);
// Interquartile range over median, of the values at ranks n / 4 and 3 n / 4; 0 when the median is.
double QuartileSpread(std::vector<double> values);

// With divisor n - 1; nothing for fewer than two values.
std::optional<double> SampleDeviation(const std::vector<double>& values);
// SampleDeviation / sqrt(n).
std::optional<double> StandardError(const std::vector<double>& values);
// Of a fraction p of n trials: sqrt(p (1 - p) / (n - 1)), which equals StandardError of the n zeros
// and ones.
std::optional<double> FractionStandardError(double p, int64_t n);

// Of a[i] / b[i]; the lists have the same length.
struct RatioSpread {
  double low = 0;
  double median = 0;
  double high = 0;
};
RatioSpread SpreadOfRatios(const std::vector<double>& a, const std::vector<double>& b);
double MedianRatio(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace harrow

#endif  // HARROW_BASE_STATISTICS_H_
