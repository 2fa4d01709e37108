// Every tier against float64, over every tail length.
#include "kernels/elementwise.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/isa.h"
#include "tier_test.h"

namespace harrow {
namespace {

constexpr double kEps = 0x1p-24;  // unit roundoff of float32
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const int64_t kCounts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 257};

std::vector<float> Normals(Rng* rng, int64_t count, double scale) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& f : x)
    f = static_cast<float>(rng->Normal() * scale);
  return x;
}

class Elementwise : public testing::TierTest {};
HARROW_INSTANTIATE_TIERS(Elementwise);

// Reduction: |r| <= 0.347 with an error of about 1.5 ulp(r) <= 0.5 eps relative to exp(r) >= 0.707;
// series and its last addition under 2 eps: the header says 3 in all.
TEST_P(Elementwise, ExpStaysWithinItsStatedError) {
  std::vector<float> x;
  for (double v = -87.3; v < 88.3; v += 0.00037)
    x.push_back(static_cast<float>(v));
  std::vector<float> y(x.size());
  Exp(x.data(), static_cast<int64_t>(x.size()), y.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    worst = std::max(worst, std::fabs(y[i] - want) / want);
  }
  EXPECT_LE(worst, 3 * kEps);
  RecordProperty("worst_in_eps", std::to_string(worst / kEps));
}

TEST_P(Elementwise, ExpAtTheEdges) {
  const float x[] = {0.0f, -0.0f, -88.0f, -1000.0f, -kInf, kNan, 1000.0f, kInf};
  float y[8];
  Exp(x, 8, y);
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[3], 0.0f);
  EXPECT_EQ(y[4], 0.0f);
  EXPECT_TRUE(std::isnan(y[5]));
  EXPECT_GT(y[6], 2.1e38f);
  EXPECT_TRUE(std::isfinite(y[6]));
  EXPECT_EQ(y[6], y[7]);
}

// Sum of squares of positive terms: relative error <= (dim + 1) eps, halved by the root; then mean,
// eps, root, division, two products: 6 more roundings.
TEST_P(Elementwise, RmsNormMatchesFloat64) {
  Rng rng(1);
  for (const int64_t dim : kCounts) {
    const int64_t rows = 3;
    const std::vector<float> x = Normals(&rng, rows * dim, 3), w = Normals(&rng, dim, 1);
    std::vector<float> y(x.size() + 1, 42.0f);
    RmsNorm(x.data(), w.data(), 1e-5f, rows, dim, y.data());
    EXPECT_EQ(y.back(), 42.0f);
    std::vector<float> in_place = x;
    RmsNorm(in_place.data(), w.data(), 1e-5f, rows, dim, in_place.data());
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t i = 0; i < dim; ++i)
        squares += static_cast<double>(x[r * dim + i]) * x[r * dim + i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(dim) + 1e-5f);
      for (int64_t i = 0; i < dim; ++i) {
        const double want = x[r * dim + i] * scale * w[i];
        const double bound = (static_cast<double>(dim + 1) / 2 + 6) * kEps * std::fabs(want);
        EXPECT_NEAR(y[r * dim + i], want, bound) << dim;
        EXPECT_EQ(in_place[r * dim + i], y[r * dim + i]);
      }
    }
  }
}

double Reference(GateActivation act, double x) {
  switch (act) {
    case GateActivation::kRelu: return x > 0 ? x : 0;
    case GateActivation::kSilu: return x / (1 + std::exp(-x));
    case GateActivation::kGeluTanh: break;
  }
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// act(x) = x / (1 + exp(-t)): exp contributes 3 eps and each further operation 1. For GELU the
// error of t itself, 4 roundings of |t|, goes through exp as an absolute |t| * 4 eps. Results under
// kSaturated, where exp(-t) has overflowed its clamp, count as zero.
TEST_P(Elementwise, GatedActivationMatchesFloat64) {
  constexpr double kSaturated = 1e-35;
  Rng rng(2);
  for (const GateActivation act :
       {GateActivation::kSilu, GateActivation::kRelu, GateActivation::kGeluTanh}) {
    for (const int64_t count : kCounts) {
      std::vector<float> gate = Normals(&rng, count, count % 2 == 0 ? 2 : 20);
      const std::vector<float> up = Normals(&rng, count, 1);
      std::vector<float> y(static_cast<size_t>(count) + 1, 42.0f);
      GatedActivation(act, gate.data(), up.data(), count, y.data());
      EXPECT_EQ(y.back(), 42.0f);
      for (int64_t i = 0; i < count; ++i) {
        const double x = gate[i];
        const double want = Reference(act, x) * up[i];
        const double t = act == GateActivation::kGeluTanh
                             ? std::fabs(1.6 * (x + 0.0447 * x * x * x))
                             : std::fabs(x);
        // tanh in the reference cancels: its own double error is 1e-16 * |x|, far below eps.
        const double bound = (8 + 4 * t) * kEps * std::fabs(want) + kSaturated * std::fabs(x) +
                             1e-15 * std::fabs(x * up[i]);
        EXPECT_NEAR(y[i], want, bound) << static_cast<int>(act) << " at " << x;
      }
      GatedActivation(act, gate.data(), up.data(), count, gate.data());
      for (int64_t i = 0; i < count; ++i)
        EXPECT_EQ(gate[i], y[i]);
    }
  }
}

TEST_P(Elementwise, GatedActivationOfExtremesIsFiniteAndNanStaysNan) {
  const float one = 1;
  for (const GateActivation act :
       {GateActivation::kSilu, GateActivation::kRelu, GateActivation::kGeluTanh}) {
    for (const float x : {-3e38f, -1e30f, -200.0f}) {
      float y = 42;
      GatedActivation(act, &x, &one, 1, &y);
      EXPECT_LE(std::fabs(y), 6.0f * 3e38f * 1e-38f) << x;
    }
    for (const float x : {3e38f, 1e30f, 200.0f}) {
      float y = 42;
      GatedActivation(act, &x, &one, 1, &y);
      EXPECT_EQ(y, x);
    }
    float y = 42;
    GatedActivation(act, &kNan, &one, 1, &y);
    EXPECT_TRUE(std::isnan(y));
  }
}

TEST_P(Elementwise, AddIsExact) {
  Rng rng(3);
  for (const int64_t count : kCounts) {
    const std::vector<float> a = Normals(&rng, count, 1), b = Normals(&rng, count, 1);
    std::vector<float> x = a;
    x.push_back(42.0f);
    AddInPlace(x.data(), b.data(), count);
    for (int64_t i = 0; i < count; ++i)
      EXPECT_EQ(x[i], a[i] + b[i]);
    EXPECT_EQ(x.back(), 42.0f);
  }
}

TEST(LogSumExp, SurvivesLargeLogitsAndShowsNan) {
  const float big[] = {1000.0f, 1000.0f};
  EXPECT_NEAR(LogSumExp(big, 2), 1000 + std::log(2.0), 1e-12);
  const float low[] = {-1000.0f, -2000.0f};
  EXPECT_NEAR(LogSumExp(low, 2), -1000, 1e-12);
  const float nan[] = {0.0f, kNan};
  EXPECT_TRUE(std::isnan(LogSumExp(nan, 2)));
  const float both[] = {std::numeric_limits<float>::infinity(), kNan};
  EXPECT_TRUE(std::isnan(LogSumExp(both, 2)));
}

TEST(ArgMax, TheLowestIndexWinsTies) {
  const float x[] = {1, 3, 2, 3};
  EXPECT_EQ(ArgMax(x, 4), 1);
  EXPECT_EQ(ArgMax(x, 1), 0);
}

TEST(AllFinite, FindsNanAndInfinity) {
  std::vector<float> x(37, 3e38f);
  EXPECT_TRUE(AllFinite(x.data(), 37));
  EXPECT_TRUE(AllFinite(x.data(), 0));
  for (const float bad : {kNan, kInf, -kInf}) {
    x[36] = bad;
    EXPECT_FALSE(AllFinite(x.data(), 37));
    EXPECT_TRUE(AllFinite(x.data(), 36));
  }
}

}  // namespace
}  // namespace harrow
