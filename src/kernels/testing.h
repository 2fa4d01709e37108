// The cases that kernels are tested and timed on. A format or a value type listed here or in
// formats/testing.h is in the tests and in the benchmarks.
#ifndef HARROW_KERNELS_TESTING_H_
#define HARROW_KERNELS_TESTING_H_

#include <cmath>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "formats/testing.h"
#include "kernels/kv_block.h"

namespace harrow::testing {

inline std::vector<float> RandomX(int64_t count, Rng* rng) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x)
    v = static_cast<float>(rng->Normal());
  return x;
}

// One product of M tokens with W [rows, cols].
struct LinearCase {
  WeightSpec spec;
  double density = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t m = 1;
};

// "bitmask-i8/128/d50/5632x2048/M16"
inline std::string CaseName(const LinearCase& c) {
  return SpecName(c.spec) + "/d" + std::to_string(std::llround(c.density * 100)) + "/" +
         std::to_string(c.rows) + "x" + std::to_string(c.cols) + "/M" + std::to_string(c.m);
}

inline constexpr double kDensities[] = {1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.9, 0};
// All up to where kernels for few tokens end, then blocks of tokens, whole and not.
inline constexpr int64_t kTokens[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12, 13,
                                      14, 15, 16, 24, 25, 32, 33, 48, 64, 85, 128, 512};
// TestedCases() takes both in turn: each meets each.
static_assert(std::gcd(std::size(kDensities), std::size(kTokens)) == 1);

// Whether a weight takes the same bytes whatever is zero.
inline bool HasFixedBytes(const WeightSpec& spec) {
  const FormatOps& ops = OpsOf(spec.format);
  return ops.analyze(spec, 64, 1536, 0) == ops.analyze(spec, 64, 1536, 1000);
}

inline int64_t WholeGroups(const WeightSpec& spec, int64_t cols) {
  return spec.of_m > 0 ? (cols + spec.of_m - 1) / spec.of_m * spec.of_m : cols;
}

// Small shapes with all tails, each with a density and a number of tokens in turn, and all numbers
// of tokens that a naive product allows with one odd shape.
inline std::vector<LinearCase> TestedCases(const WeightSpec& spec) {
  constexpr int64_t kTails[] = {1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 129, 300};
  std::vector<LinearCase> cases;
  const auto add = [&](int64_t rows, int64_t cols, int64_t m) {
    const double density = kDensities[cases.size() % std::size(kDensities)];
    cases.push_back({spec, density, rows, WholeGroups(spec, cols), m});
  };
  for (const int64_t rows : kTails) {
    for (const int64_t cols : kTails) {
      // The large corners are covered by rows and columns that are large alone.
      if (rows * cols <= 129 * 33) add(rows, cols, kTokens[cases.size() % std::size(kTokens)]);
    }
  }
  for (const int64_t m : kTokens) {
    if (m < 128) add(49, 1100, m);
  }
  // Whole register blocks (4 panels, 2 panels) over several slices of inputs, with and without a
  // cut-off panel at their end.
  for (const int64_t m : {17, 25, 33, 48, 64}) {
    add(112, 1100, m);
    add(96, 1100, m);
  }
  // More of x than block kernels take at a time.
  if (spec.format == FormatId::kBlock) add(17, 6300, 85);
  return cases;
}

// The linear layers of a 1.1 B LLaMA (hidden 2048, FFN 5632, 4 KV heads, vocabulary 32000) at each
// density that changes the bytes, the first with all numbers of tokens, the others with one.
inline std::vector<LinearCase> TimedCases(const WeightSpec& spec) {
  std::vector<LinearCase> cases;
  for (const double density : kDensities) {
    if (density == 0 || (density < 1 && HasFixedBytes(spec))) continue;
    for (const int64_t m : kTokens)
      cases.push_back({spec, density, 5632, WholeGroups(spec, 2048), m});
    for (const auto& [rows, cols] :
         {std::pair{2048, 2048}, {2048, 5632}, {256, 2048}, {32000, 2048}})
      cases.push_back({spec, density, rows, WholeGroups(spec, cols), 1});
  }
  return cases;
}

inline constexpr KvType kKvTypes[] = {KvType::kBf16, KvType::kI8, KvType::kF32};
// Of real models: head_dim and query heads a KV head.
struct HeadShape {
  int32_t head_dim;
  int32_t group;
};
inline constexpr HeadShape kHeadShapes[] = {{128, 1}, {128, 4}, {128, 8},
                                            {64, 1},  {64, 4},  {64, 8}};

}  // namespace harrow::testing

#endif  // HARROW_KERNELS_TESTING_H_
