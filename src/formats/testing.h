// Random weights for tests, benchmarks and fuzzers of formats and kernels.
#ifndef HARROW_FORMATS_TESTING_H_
#define HARROW_FORMATS_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "formats/linear_weight.h"

namespace harrow::testing {

// W [rows, cols] with about `density` of the weights non-zero, fewer where spec is an N:M pattern
// that allows fewer; whole blocks of them where spec has blocks. Unlike PackRandomWeight, each
// weight or block by a draw of its own, so that rows and N:M groups differ. Magnitudes lie in
// [1/64, 1], for 4-bit values in [1/4, 1], and no rounding to the spec's values turns one into 0.
inline std::vector<float> RandomWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                       double density, Rng* rng) {
  const double least =
      IsQuantized(spec.values) && spec.values != ValueType::kI8 ? 1.0 / 4 : 1.0 / 64;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  std::vector<bool> kept_blocks(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    int kept = 0;
    for (int64_t c = 0; c < cols; ++c) {
      if (spec.of_m > 0 && c % spec.of_m == 0) kept = 0;
      // In an N:M group the chance that is left is spread so that all N may be used.
      if (spec.block_rows > 0) {
        // One draw for all weights of a block, whose first row and column are r and c rounded down.
        if (c % spec.block_cols == 0 && r % spec.block_rows == 0)
          kept_blocks[static_cast<size_t>(c / spec.block_cols)] = rng->Uniform() < density;
        if (!kept_blocks[static_cast<size_t>(c / spec.block_cols)]) continue;
      } else if (rng->Uniform() >= density || (spec.of_m > 0 && kept == spec.keep_n)) {
        continue;
      }
      ++kept;
      const double sign = rng->Below(2) == 0 ? -1 : 1;
      w[static_cast<size_t>(r * cols + c)] =
          static_cast<float>(sign * (least + rng->Uniform() * (1 - least)));
    }
  }
  return w;
}

// Every kind of layout that formats.def has, with many groups.
inline std::vector<WeightSpec> AllSpecs() {
  std::vector<WeightSpec> specs;
  for (const char* name :
       {"dense-f32",        "dense-f16",          "dense-bf16",         "dense-i8/32",
        "dense-i8/128",     "dense-i8/192",       "bitmask-bf16",       "bitmask-i8/64",
        "bitmask-i8/128",   "bitmask-i8/256",     "nm-bf16 2:4",        "nm-bf16 1:2",
        "nm-bf16 4:8",      "nm-bf16 5:32",       "nm-i8/128 2:4",      "nm-i8/64 1:2",
        "nm-i8/128 3:8",    "nm-i8/96 8:16",      "nm-i8/128 31:32",    "dense-i4/32",
        "dense-i4/64",      "dense-i4/128",       "dense-u4/32",        "dense-u4/64",
        "dense-u4/128",     "bitmask-i4/32",      "bitmask-i4/64",      "bitmask-i4/128",
        "bitmask-u4/32",    "bitmask-u4/64",      "nm-i4/64 2:4",       "nm-i4/128 2:4",
        "nm-i4/32 5:8",     "nm-u4/64 2:4",       "nm-u4/128 3:16",     "block-bf16 16x1",
        "block-bf16 16x4",  "block-bf16 16x16",   "block-i8/128 16x1",  "block-i8/192 16x1",
        "block-i8/32 16x4", "block-i8/256 16x4",  "block-i8/128 16x16", "block-i8/96 16x16",
        "bitmask-bf16 1x4", "bitmask-i8/128 1x4", "bitmask-i8/32 1x4",  "index-i8/128",
        "index-i8/32",      "index-i8/192"}) {
    specs.push_back(ParseSpec(name).value());
  }
  return specs;
}

}  // namespace harrow::testing

#endif  // HARROW_FORMATS_TESTING_H_
