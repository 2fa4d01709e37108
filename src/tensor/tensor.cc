#include "tensor/tensor.h"

#include <cstring>

#include "base/check.h"
#include "base/float16.h"

namespace harrow {

std::string ShapeToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

int64_t NumElements(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(n, dim, &n)) return -1;
  }
  return n;
}

void ToFloat32(const TensorView& view, int64_t begin, int64_t count, float* out) {
  const std::byte* source = view.data + begin * DTypeBytes(view.dtype);
  switch (view.dtype) {
    case DType::kF32: std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float)); return;
    case DType::kBf16:
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t h;
        std::memcpy(&h, source + 2 * i, 2);
        out[i] = view.dtype == DType::kBf16 ? Bf16ToF32(h) : F16ToF32(h);
      }
      return;
    case DType::kF64:
      for (int64_t i = 0; i < count; ++i) {
        double d;
        std::memcpy(&d, source + 8 * i, 8);
        out[i] = static_cast<float>(d);
      }
      return;
    default: HARROW_CHECK(IsFloat(view.dtype));
  }
}

}  // namespace harrow
