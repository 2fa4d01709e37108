// Weights as float32, a few rows at a time, and the check that they are numbers.
#ifndef HARROW_COMPRESS_ROW_SLICES_H_
#define HARROW_COMPRESS_ROW_SLICES_H_

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/linear_weight.h"
#include "tensor/tensor.h"

namespace harrow {

// Rows that are held at a time.
inline constexpr int64_t kSliceRows = 64;

// Calls body(begin, values, count) for slices of whole rows: `count` values from row `begin` on.
// kNumerical, naming the place, for a value that is not finite.
template <class Body>
Status ForRowSlices(const std::string& name, const LinearWeight& weight, const Body& body) {
  std::vector<float> values(static_cast<size_t>(kSliceRows * weight.cols));
  for (int64_t begin = 0; begin < weight.rows; begin += kSliceRows) {
    const int64_t count = std::min(kSliceRows, weight.rows - begin) * weight.cols;
    UnpackRows(weight, begin, std::min(begin + kSliceRows, weight.rows), values.data());
    for (int64_t i = 0; i < count; ++i) {
      if (!std::isfinite(values[static_cast<size_t>(i)])) {
        return Error(StatusCode::kNumerical, "{}: the weight is {} at row {}, column {}", name,
                     values[static_cast<size_t>(i)], begin + i / weight.cols, i % weight.cols);
      }
    }
    body(begin, values.data(), count);
  }
  return OkStatus();
}

// kNumerical, naming tensor and place, for a value that is not finite. A tensor of no
// floating-point type passes.
inline Status CheckFinite(const std::string& name, const TensorView& view) {
  if (!IsFloat(view.dtype)) return OkStatus();
  constexpr int64_t kChunk = 1 << 16;
  std::vector<float> values(static_cast<size_t>(std::min(view.elements(), kChunk)));
  for (int64_t begin = 0; begin < view.elements(); begin += kChunk) {
    const int64_t count = std::min(kChunk, view.elements() - begin);
    ToFloat32(view, begin, count, values.data());
    for (int64_t i = 0; i < count; ++i) {
      if (std::isfinite(values[static_cast<size_t>(i)])) continue;
      return Error(StatusCode::kNumerical, "{}: element {} is {}", name, begin + i,
                   values[static_cast<size_t>(i)]);
    }
  }
  return OkStatus();
}
inline Status CheckFinite(const std::string& name, const LinearWeight& weight) {
  return ForRowSlices(name, weight, [](int64_t, const float*, int64_t) {});
}

}  // namespace harrow

#endif  // HARROW_COMPRESS_ROW_SLICES_H_
