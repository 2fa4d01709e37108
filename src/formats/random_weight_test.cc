#include "formats/random_weight.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "formats/testing.h"

namespace harrow {
namespace {

TEST(RandomWeight, HasTheDensityThatWasAskedFor) {
  for (const WeightSpec& spec : testing::AllSpecs()) {
    const int64_t cols = spec.group > 0 ? 4 * spec.group : 512;
    const double density = 0.25;
    const LinearWeight weight = PackRandomWeight(spec, 128, cols, density, 5).value();
    std::vector<float> w(static_cast<size_t>(128 * cols));
    UnpackRows(weight, 0, 128, w.data());
    const auto zeros = std::count(w.begin(), w.end(), 0.0f);
    const double kept = 1 - static_cast<double>(zeros) / static_cast<double>(w.size());
    const double expected = spec.of_m > 0 ? static_cast<double>(spec.keep_n) / spec.of_m : density;
    EXPECT_NEAR(kept, expected, 0.01) << SpecName(spec);
    const LinearWeight again = PackRandomWeight(spec, 128, cols, density, 5).value();
    EXPECT_EQ(WeightChecksum(weight), WeightChecksum(again)) << SpecName(spec);
    const LinearWeight other = PackRandomWeight(spec, 128, cols, density, 6).value();
    EXPECT_NE(WeightChecksum(weight), WeightChecksum(other)) << SpecName(spec);
  }
}

}  // namespace
}  // namespace harrow
