// The reference: obviously right, for every format. Fast kernels are tested against it.
#include <algorithm>

#include "formats/panel.h"
#include "kernels/linear_kernel.h"

namespace harrow::ref {

XFormat LinearX(const WeightSpec& spec, int64_t) {
  XFormat format;
  format.layout = XLayout::kReference;
  switch (spec.values) {
    case ValueType::kF32:
    case ValueType::kF16: format.element = XElement::kF32; break;
    case ValueType::kBf16: format.element = XElement::kF32RoundedToBf16; break;
    case ValueType::kI8:
    case ValueType::kI4:
    case ValueType::kU4:
      format.element = XElement::kI8;
      format.group = static_cast<int32_t>(ActivationGroup(spec.group));
      break;
  }
  return format;
}

XFormat LinearWeightOnlyX(const WeightSpec&, int64_t) {
  XFormat format;
  format.element = XElement::kF32RoundedToBf16;
  return format;
}

void Linear(const LinearTask& task) noexcept {
  const PackedX& x = *task.x;
  const float* values = reinterpret_cast<const float*>(x.values);
  const int64_t group = x.groups > 0 ? x.format.group : x.k;
  float* rows = reinterpret_cast<float*>(task.scratch);
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    const int64_t row_end = std::min(task.row_end, row + kPanelRows);
    // Not UnpackRows, which would add the low-rank product that Linear() runs by itself.
    OpsOf(task.weight->spec.format).unpack(*task.weight, row, row_end, rows);
    for (int64_t m = 0; m < x.m; ++m) {
      for (int64_t r = row; r < row_end; ++r) {
        const float* w = rows + (r - row) * x.k;
        double sum = 0;
        for (int64_t begin = 0, g = 0; begin < x.k; begin += group, ++g) {
          double part = 0;
          for (int64_t i = begin; i < std::min(x.k, begin + group); ++i)
            part += static_cast<double>(w[i]) * static_cast<double>(values[m * x.k + i]);
          sum += x.groups > 0 ? part * static_cast<double>(x.scales[m * x.groups + g]) : part;
        }
        task.y[m * task.y_stride + r] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace harrow::ref
