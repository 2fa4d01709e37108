#include "formats/random_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"

namespace harrow {
namespace {

// A multiple of the 16-row panels, so that the density of each panel block is that of the whole.
constexpr int64_t kRepeatedRows = 64;
// Smallest magnitude in standard deviations: large enough that values of this type do not round to
// 0. The largest of millions of normal numbers is below 6, half a step of 4 bits below 6 / 16.
double LeastMagnitude(ValueType values) {
  return IsQuantized(values) && values != ValueType::kI8 ? 6.0 / 16 : 0.05;
}

float NonZeroNormal(double least, Rng* rng) {
  const double x = rng->Normal();
  return static_cast<float>(std::copysign(std::max(std::fabs(x), least), x));
}

// [kRepeatedRows, cols] with the spec's N:M pattern, round(density * blocks) of its blocks in each
// panel, or exactly round(density * elements) non-zeros.
std::vector<float> RandomRows(const WeightSpec& spec, int64_t cols, double density, Rng* rng) {
  const int64_t count = kRepeatedRows * cols;
  const double least = LeastMagnitude(spec.values);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cols));
  std::vector<float> w(static_cast<size_t>(count));
  // Selection sampling (Knuth, TAOCP 3.4.2, algorithm S) within each window.
  const auto fill = [&](int64_t begin, int64_t end, int64_t keep) {
    for (int64_t i = begin; i < end && keep > 0; ++i) {
      if (static_cast<int64_t>(rng->Below(static_cast<uint64_t>(end - i))) >= keep) continue;
      w[static_cast<size_t>(i)] = NonZeroNormal(least, rng) * scale;
      --keep;
    }
  };
  if (spec.keep_n > 0) {
    for (int64_t row = 0; row < kRepeatedRows; ++row) {
      for (int64_t i = 0; i < cols; i += spec.of_m) {
        const int64_t end = std::min<int64_t>(i + spec.of_m, cols);
        fill(row * cols + i, row * cols + end, std::min<int64_t>(spec.keep_n, end - i));
      }
    }
  } else if (spec.block_rows > 0) {
    // The same selection among the blocks of each panel, which then keep all their weights.
    const int64_t blocks = (cols + spec.block_cols - 1) / spec.block_cols;
    for (int64_t row = 0; row < kRepeatedRows; row += spec.block_rows) {
      int64_t keep = std::llround(density * static_cast<double>(blocks));
      for (int64_t i = 0; i < blocks && keep > 0; ++i) {
        if (static_cast<int64_t>(rng->Below(static_cast<uint64_t>(blocks - i))) >= keep) continue;
        --keep;
        const int64_t end = std::min<int64_t>((i + 1) * spec.block_cols, cols);
        for (int64_t r = row; r < std::min(row + spec.block_rows, kRepeatedRows); ++r)
          fill(r * cols + i * spec.block_cols, r * cols + end, end - i * spec.block_cols);
      }
    }
  } else {
    fill(0, count, std::llround(density * static_cast<double>(count)));
  }
  return w;
}

}  // namespace

Result<LinearWeight> PackRandomWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                      double density, uint64_t seed) {
  Rng rng(seed);
  const std::vector<float> drawn = RandomRows(spec, cols, density, &rng);
  return PackWeight(spec, rows, cols, [&](int64_t row, float* out) {
    std::memcpy(out, drawn.data() + row % kRepeatedRows * cols,
                static_cast<size_t>(cols) * sizeof(float));
  });
}

}  // namespace harrow
