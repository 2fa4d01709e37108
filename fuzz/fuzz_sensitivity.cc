// The parser of sensitivity files: any bytes give curves or an error, and curves that parse can be
// allocated from or are refused.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "compress/allocators/sensitivity.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto measured = harrow::ParseSensitivity(text, "fuzz");
  if (!measured.ok()) return 0;
  std::vector<harrow::LossCurve> curves;
  for (const harrow::SensitivityCurve& curve : *measured) {
    harrow::LossCurve loss;
    loss.weights = 100;
    loss.min = 0.1;
    loss.max = 0.9;
    loss.points.emplace_back(0.0, 0.0);
    for (const harrow::SensitivityPoint& point : curve.points)
      loss.points.emplace_back(point.sparsity, point.loss_increase);
    curves.push_back(std::move(loss));
  }
  const auto values = harrow::MinimizeLoss(curves, 0.5);
  if (!values.ok()) return 0;
  double mean = 0;
  for (const double value : *values) {
    if (!(value >= 0.1 - 1e-9 && value <= 0.9 + 1e-9)) std::abort();
    mean += value / static_cast<double>(values->size());
  }
  if (std::fabs(mean - 0.5) > 1e-6) std::abort();
  return 0;
}
