// How activations are rounded, and what it costs on inputs with channels far larger than the rest.
#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <vector>

#include "base/float16.h"
#include "kernels/linear.h"
#include "kernels/testing.h"

namespace harrow {
namespace {

using testing::RandomX;

constexpr int64_t kCols = 2048;
constexpr int64_t kRows = 64;
constexpr float kOutlier = 100;

float Quantize(const float* x, int64_t count, int8_t* q) {
  int32_t sum;
  return ActiveRounding().i8(x, count, q, &sum);
}

// Normal values; those of `channels` are kOutlier times larger and at least kOutlier.
std::vector<float> XWithOutliers(const std::set<int64_t>& channels, Rng* rng) {
  std::vector<float> x = RandomX(kCols, rng);
  for (const int64_t channel : channels)
    x[static_cast<size_t>(channel)] = kOutlier * (1 + std::fabs(x[static_cast<size_t>(channel)]));
  return x;
}

std::set<int64_t> RandomChannels(size_t count, Rng* rng) {
  std::set<int64_t> channels;
  while (channels.size() < count)
    channels.insert(static_cast<int64_t>(rng->Below(kCols)));
  return channels;
}

// x with one scale for `group` inputs; for kCols, a token, that is what the kernels do not do.
std::vector<float> Rounded(const std::vector<float>& x, int64_t group) {
  std::vector<int8_t> q(static_cast<size_t>(group));
  std::vector<float> rounded;
  for (int64_t begin = 0; begin < kCols; begin += group) {
    const float scale = Quantize(x.data() + begin, group, q.data());
    for (const int8_t code : q)
      rounded.push_back(scale * static_cast<float>(code));
  }
  return rounded;
}

std::vector<float> RoundedToBf16(std::vector<float> x) {
  for (float& v : x)
    v = Bf16ToF32(F32ToBf16(v));
  return x;
}

// ||a - b||
double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(sum);
}

class Problem {
 public:
  Problem(const char* spec, uint64_t seed) : rng_(seed) {
    const WeightSpec parsed = ParseSpec(spec).value();
    const std::vector<float> w = testing::RandomWeight(parsed, kRows, kCols, 1, &rng_);
    weight_ = PackWeight(parsed, kRows, kCols, w.data()).value();
    values_.resize(w.size());
    UnpackRows(weight_, 0, kRows, values_.data());
  }
  Rng* rng() { return &rng_; }
  float w(int64_t row, int64_t col) const {
    return values_[static_cast<size_t>(row * kCols + col)];
  }

  std::vector<double> Exact(const std::vector<float>& x) const {
    std::vector<double> y(kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < kCols; ++c) {
        y[static_cast<size_t>(r)] +=
            static_cast<double>(w(r, c)) * static_cast<double>(x[static_cast<size_t>(c)]);
      }
    }
    return y;
  }
  // By the kernel that Linear() takes.
  std::vector<double> Product(const std::vector<float>& x, Activations activations) const {
    SetQuantizedActivations(activations);
    const std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch(NewLinearScratch());
    std::vector<float> y(kRows);
    const LinearOp op = {&weight_, y.data(), kRows};
    Linear({nullptr, scratch.get()}, {&op, 1}, x.data(), kCols, 1, kCols);
    SetQuantizedActivations(Activations::kInt8);
    return {y.begin(), y.end()};
  }

 private:
  Rng rng_;
  LinearWeight weight_;
  std::vector<float> values_;
};

// The error of an output is at most half a step of each group's scale times the group's sum of |w|:
// an outlier spoils its own group and no other. (2^-20 of the products for sums in float32.)
TEST(ActivationTest, AnOutlierStaysInItsGroup) {
  struct Case {
    const char* spec;
    int64_t group;
  };
  for (const Case& c : {Case{"dense-i8/32", 32}, Case{"dense-i8/64", 64}, Case{"dense-i8/128", 128},
                        Case{"dense-i8/512", 128}, Case{"dense-i4/32", 32}}) {
    SCOPED_TRACE(c.spec);
    Problem problem(c.spec, 31);
    const int64_t channel = 700;
    const std::vector<float> x = XWithOutliers({channel}, problem.rng());
    // The same without the outlier's group: the rest must not have felt it.
    std::vector<float> rest = x;
    const int64_t begin = channel / c.group * c.group;
    std::fill_n(rest.begin() + begin, c.group, 0.0f);
    const std::vector<double> got = problem.Product(x, Activations::kInt8);
    const std::vector<double> got_rest = problem.Product(rest, Activations::kInt8);
    const std::vector<double> exact = problem.Exact(x);
    const std::vector<double> exact_rest = problem.Exact(rest);
    const std::vector<float> rounded_per_token = Rounded(x, kCols);
    const std::vector<double> per_token = problem.Exact(rounded_per_token);
    double error_rest = 0;
    double error_token = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      double bound = 0;
      double bound_rest = 0;
      double absolute = 0;
      for (int64_t g = 0; g < kCols; g += c.group) {
        double largest = 0;
        double weights = 0;
        for (int64_t i = g; i < g + c.group; ++i) {
          const double magnitude = std::fabs(static_cast<double>(x[static_cast<size_t>(i)]));
          largest = std::max(largest, magnitude);
          weights += std::fabs(static_cast<double>(problem.w(r, i)));
          absolute += std::fabs(static_cast<double>(problem.w(r, i))) * magnitude;
        }
        const double part = largest / 127 / 2 * weights;
        bound += part;
        if (g != begin) bound_rest += part;
      }
      const size_t at = static_cast<size_t>(r);
      EXPECT_LE(std::fabs(got[at] - exact[at]), bound + 0x1p-20 * absolute);
      EXPECT_LE(std::fabs(got_rest[at] - exact_rest[at]), bound_rest + 0x1p-20 * absolute);
      error_rest += std::fabs(got_rest[at] - exact_rest[at]);
      error_token += std::fabs(per_token[at] - exact[at]);
    }
    // Weights have random signs, so given the errors e of the inputs those of the 64 outputs are
    // independent and normal, of deviation ||e|| times that of a weight; the mean of their
    // magnitudes has a relative deviation of sqrt((pi / 2 - 1) / 64) = 0.094. Five of those.
    const double ratio = Distance(rounded_per_token, x) / Distance(Rounded(rest, c.group), rest);
    EXPECT_GT(error_token, error_rest * ratio * (1 - 0.47) / (1 + 0.47));
    // Both roundings leave uniform errors: of a step above kOutlier / 127 and of steps below 5 /
    // 127, because 2048 normal numbers stay below 5.
    EXPECT_GT(ratio, kOutlier / 5);
  }
}

// ||y - exact|| over ||exact of the ordinary channels||: how much of what they say is lost.
double Lost(const std::vector<double>& y, const std::vector<double>& exact,
            const std::vector<double>& ordinary) {
  double error = 0;
  double norm = 0;
  for (size_t r = 0; r < y.size(); ++r) {
    error += (y[r] - exact[r]) * (y[r] - exact[r]);
    norm += ordinary[r] * ordinary[r];
  }
  return std::sqrt(error / norm);
}

// Prints the table of decision 007. Weights have random signs, so given the errors e of the inputs
// Lost() is expected to be ||e|| / ||x of the ordinary channels||; 64 rows leave both norms with a
// relative deviation of at most sqrt(2 / 64) / 2, the quotient with 1/8, and the mean of 16 draws
// with 1/32. Five of those are allowed.
TEST(ActivationTest, LossByGroupSize) {
  for (const size_t outliers : {0, 2, 8}) {
    for (const int64_t size : {32, 64, 128}) {
      double group = 0, token = 0, bf16 = 0;           // lost
      double of_group = 0, of_token = 0, of_bf16 = 0;  // relative to what is expected
      constexpr int kDraws = 16;
      for (uint64_t draw = 0; draw < kDraws; ++draw) {
        Problem problem(("dense-i8/" + std::to_string(size)).c_str(), 40 + draw);
        const std::set<int64_t> channels = RandomChannels(outliers, problem.rng());
        const std::vector<float> x = XWithOutliers(channels, problem.rng());
        std::vector<float> ordinary_x = x;
        for (const int64_t channel : channels)
          ordinary_x[static_cast<size_t>(channel)] = 0;
        const std::vector<double> exact = problem.Exact(x);
        const std::vector<double> ordinary = problem.Exact(ordinary_x);
        const double norm = Distance(ordinary_x, std::vector<float>(kCols));
        const auto add = [&](const std::vector<double>& y, const std::vector<float>& rounded,
                             double* lost, double* of_expected) {
          const double loss = Lost(y, exact, ordinary);
          *lost += loss / kDraws;
          *of_expected += loss / (Distance(rounded, x) / norm) / kDraws;
        };
        const std::vector<float> per_token = Rounded(x, kCols);
        add(problem.Product(x, Activations::kInt8), Rounded(x, size), &group, &of_group);
        add(problem.Exact(per_token), per_token, &token, &of_token);
        add(problem.Product(x, Activations::kBf16), RoundedToBf16(x), &bf16, &of_bf16);
      }
      std::printf("%zu outliers, groups of %d: by group %.4f, by token %.4f, bf16 %.4f\n", outliers,
                  static_cast<int>(size), group, token, bf16);
      EXPECT_NEAR(of_group, 1, 5.0 / 32);
      EXPECT_NEAR(of_token, 1, 5.0 / 32);
      EXPECT_NEAR(of_bf16, 1, 5.0 / 32);
    }
  }
}

TEST(QuantizeTest, RoundsToNearestWithinHalfAStep) {
  Rng rng(14);
  for (int round = 0; round < 100; ++round) {
    const std::vector<float> x = RandomX(128, &rng);
    int8_t q[128];
    const float scale = Quantize(x.data(), 128, q);
    int largest = 0;
    for (size_t i = 0; i < 128; ++i) {
      largest = std::max(largest, std::abs(static_cast<int>(q[i])));
      // Half a step, and the two roundings of 127 / max and of the product.
      EXPECT_NEAR(static_cast<double>(q[i]) * static_cast<double>(scale), static_cast<double>(x[i]),
                  static_cast<double>(scale) * (0.5 + 127 * 0x1p-22));
    }
    EXPECT_EQ(largest, 127);
  }
}

TEST(RoundingTest, EveryTierRoundsToTheSameBits) {
  const Isa before = ActiveIsa();
  Rng rng(15);
  for (int round = 0; round < 200; ++round) {
    const int64_t count = 1 + static_cast<int64_t>(rng.Below(130));
    std::vector<float> x = RandomX(count, &rng);
    if (round % 4 == 1) {  // any bits, NaN and infinities among them
      for (float& v : x)
        v = std::bit_cast<float>(static_cast<uint32_t>(rng.Next()));
    } else if (round % 4 == 2) {  // many ties
      for (float& v : x)
        v = static_cast<float>(static_cast<int>(rng.Below(511)) - 255) / 2;
      x[0] = 127;
    }
    const size_t n = x.size();
    std::vector<std::vector<uint8_t>> results;
    for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
      if (isa > before) break;
      ASSERT_TRUE(SetIsaLimit(isa).ok());
      std::vector<uint8_t> bytes(n * 7 + 8);
      uint16_t* bf16 = reinterpret_cast<uint16_t*>(bytes.data() + 8 + 4 * n);
      float* f32 = reinterpret_cast<float*>(bytes.data() + 8);
      int8_t* q = reinterpret_cast<int8_t*>(bytes.data() + 8 + 6 * n);
      int32_t sum;
      ActiveRounding().bf16_as_f32(x.data(), count, f32);
      ActiveRounding().bf16(x.data(), count, bf16);
      const float scale = ActiveRounding().i8(x.data(), count, q, &sum);
      int32_t expected_sum = 0;
      for (size_t i = 0; i < n; ++i) {
        EXPECT_EQ(bf16[i], F32ToBf16(x[i]));
        expected_sum += q[i];
      }
      EXPECT_EQ(sum, expected_sum);
      std::memcpy(bytes.data(), &scale, 4);
      std::memcpy(bytes.data() + 4, &sum, 4);
      results.push_back(std::move(bytes));
    }
    for (const std::vector<uint8_t>& result : results)
      EXPECT_EQ(result, results[0]);
  }
  ASSERT_TRUE(SetIsaLimit(before).ok());
}

TEST(QuantizeTest, Edges) {
  int8_t q[2] = {1, 1};
  const float zeros[2] = {0, -0.0f};
  EXPECT_EQ(Quantize(zeros, 2, q), 0.0f);
  EXPECT_EQ(q[0], 0);
  const float ends[2] = {-3e38f, 3e38f};
  EXPECT_TRUE(std::isfinite(Quantize(ends, 2, q)));
  EXPECT_EQ(q[0], -127);
  EXPECT_EQ(q[1], 127);
  const float tiny[2] = {1e-40f, 0};
  EXPECT_EQ(Quantize(tiny, 2, q), 0.0f);
  const float bad[2] = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_TRUE(std::isnan(Quantize(bad, 2, q)));
}

}  // namespace
}  // namespace harrow
