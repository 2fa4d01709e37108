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
// that allows fewer. Magnitudes lie in [1/64, 1] and no bf16 or int8 rounding turns one into 0.
inline std::vector<float> RandomWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                       double density, Rng* rng) {
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    int kept = 0;
    for (int64_t c = 0; c < cols; ++c) {
      if (spec.of_m > 0 && c % spec.of_m == 0) kept = 0;
      // In an N:M group the chance that is left is spread so that all N may be used.
      if (rng->Uniform() >= density || (spec.of_m > 0 && kept == spec.keep_n)) continue;
      ++kept;
      const double sign = rng->Below(2) == 0 ? -1 : 1;
      w[static_cast<size_t>(r * cols + c)] =
          static_cast<float>(sign * (1.0 / 64 + rng->Uniform() * (63.0 / 64)));
    }
  }
  return w;
}

// Every kind of layout that formats.def has, i8 with groups of 32, 64, 128 and more.
inline std::vector<WeightSpec> AllSpecs() {
  std::vector<WeightSpec> specs;
  for (const char* name :
       {"dense-f32", "dense-f16", "dense-bf16", "dense-i8/32", "dense-i8/128", "dense-i8/192",
        "bitmask-bf16", "bitmask-i8/64", "bitmask-i8/128", "bitmask-i8/256", "nm-bf16 2:4",
        "nm-bf16 1:2", "nm-bf16 4:8", "nm-bf16 5:32", "nm-i8/128 2:4", "nm-i8/64 1:2",
        "nm-i8/128 3:8", "nm-i8/96 8:16", "nm-i8/128 31:32"}) {
    specs.push_back(ParseSpec(name).value());
  }
  return specs;
}

}  // namespace harrow::testing

#endif  // HARROW_FORMATS_TESTING_H_
