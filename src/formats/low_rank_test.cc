#include "formats/low_rank.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "formats/testing.h"

namespace harrow {
namespace {

LinearWeight Pack(const char* spec, int64_t rows, int64_t cols, double density, Rng* rng,
                  std::vector<float>* values) {
  const WeightSpec parsed = ParseSpec(spec).value();
  const std::vector<float> w = testing::RandomWeight(parsed, rows, cols, density, rng);
  LinearWeight weight = PackWeight(parsed, rows, cols, w.data()).value();
  values->resize(w.size());
  UnpackRows(weight, 0, rows, values->data());
  return weight;
}

TEST(LowRank, IsResidualPlusProduct) {
  constexpr int64_t kRows = 37, kCols = 72, kRank = 5;
  for (const char* residual : {"", "dense-f32", "bitmask-bf16", "bitmask-i8/64", "nm-bf16 2:4"}) {
    for (const char* factor : {"dense-bf16", "dense-i8/64"}) {
      SCOPED_TRACE(std::string(residual) + " " + factor);
      Rng rng(3);
      std::vector<float> w(kRows * kCols), a, b;
      LinearWeight weight;
      if (*residual != '\0') weight = Pack(residual, kRows, kCols, 0.4, &rng, &w);
      const uint64_t residual_bytes = weight.data.size();
      int64_t nonzeros = 0;
      if (*residual != '\0') nonzeros = ValidateWeight(weight).value();
      weight.rows = kRows;
      weight.cols = kCols;
      auto factors = std::make_shared<LowRankFactors>();
      factors->a = Pack(factor, kRank, kCols, 1, &rng, &a);
      factors->b = Pack(factor, kRows, kRank, 1, &rng, &b);
      weight.low_rank = factors;
      const auto found = ValidateWeight(weight);
      ASSERT_TRUE(found.ok()) << found.status().ToString();
      EXPECT_EQ(*found, nonzeros + kRank * (kRows + kCols));
      EXPECT_EQ(WeightBytes(weight),
                residual_bytes + factors->a.data.size() + factors->b.data.size());
      EXPECT_EQ(FormatText(weight),
                (*residual == '\0' ? "" : SpecName(weight.spec) + " + ") + "low-rank 5");

      std::vector<float> out(static_cast<size_t>(20 * kCols), 7.0f);
      UnpackRows(weight, 11, 31, out.data());
      for (int64_t i = 0; i < 20; ++i) {
        for (int64_t j = 0; j < kCols; ++j) {
          double expected = w[static_cast<size_t>((i + 11) * kCols + j)];
          for (int64_t k = 0; k < kRank; ++k) {
            expected += static_cast<double>(b[static_cast<size_t>((i + 11) * kRank + k)]) *
                        static_cast<double>(a[static_cast<size_t>(k * kCols + j)]);
          }
          EXPECT_EQ(out[static_cast<size_t>(i * kCols + j)], static_cast<float>(expected));
        }
      }
    }
  }
}

TEST(LowRank, FactorsThatDoNotFitAreRefused) {
  Rng rng(4);
  std::vector<float> ignored;
  LowRankFactors good;
  good.a = Pack("dense-bf16", 3, 8, 1, &rng, &ignored);
  good.b = Pack("dense-bf16", 6, 3, 1, &rng, &ignored);
  ASSERT_TRUE(ValidateLowRank(good, 6, 8).ok());
  EXPECT_FALSE(ValidateLowRank(good, 6, 9).ok());
  EXPECT_FALSE(ValidateLowRank(good, 7, 8).ok());
  LowRankFactors bad = good;
  bad.b = Pack("dense-bf16", 6, 4, 1, &rng, &ignored);
  EXPECT_EQ(ValidateLowRank(bad, 6, 8).status().code(), StatusCode::kCorruption);
  bad = good;
  bad.a.low_rank = std::make_shared<LowRankFactors>(good);
  EXPECT_FALSE(ValidateLowRank(bad, 6, 8).ok());
  bad = good;
  bad.a.data = bad.a.data.first(bad.a.data.size() - 2);
  EXPECT_FALSE(ValidateLowRank(bad, 6, 8).ok());
  bad = good;
  bad.a = LinearWeight();
  EXPECT_FALSE(ValidateLowRank(bad, 6, 8).ok());
}

}  // namespace
}  // namespace harrow
