// Shapes and views. No arithmetic lives here.
#ifndef HARROW_TENSOR_TENSOR_H_
#define HARROW_TENSOR_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace harrow {

using Shape = std::vector<int64_t>;

// "[4, 128]"
std::string ShapeToString(const Shape& shape);
// Product of the dimensions, or -1 on overflow or a negative dimension. The shape [] has 1 element.
int64_t NumElements(const Shape& shape);

// A typed, contiguous, row-major, read-only view. Not owning unless `owner` is set; copying is
// cheap.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;  // keeps `data` alive (a mapped file, a buffer); may be null

  int64_t elements() const { return NumElements(shape); }
  uint64_t bytes() const {
    return static_cast<uint64_t>(elements()) * static_cast<uint64_t>(DTypeBytes(dtype));
  }
  std::span<const std::byte> span() const { return {data, static_cast<size_t>(bytes())}; }
};

// Converts elements [begin, begin + count) of a float view to float32. Precondition:
// IsFloat(view.dtype) and the range lies inside. Data may be unaligned. F64 is rounded.
void ToFloat32(const TensorView& view, int64_t begin, int64_t count, float* out);

}  // namespace harrow

#endif  // HARROW_TENSOR_TENSOR_H_
