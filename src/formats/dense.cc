// kDense: row-major f32, f16 or bf16, exactly as a Hugging Face file stores it.
// docs/formats/dense.md
#include <cmath>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/float16.h"
#include "formats/panel.h"

namespace harrow {
namespace {

int64_t ValueBytes(ValueType values) {
  return values == ValueType::kF32 ? 4 : 2;
}

DType DTypeOf(ValueType values) {
  switch (values) {
    case ValueType::kF32: return DType::kF32;
    case ValueType::kF16: return DType::kF16;
    default: return DType::kBf16;
  }
}

uint64_t AnalyzeDense(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t) {
  return static_cast<uint64_t>(rows * cols * ValueBytes(spec.values));
}

Result<LinearWeight> PackDense(const WeightSpec& spec, int64_t rows, int64_t cols,
                               const RowReader& reader, const QuantGrid*) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(spec));
  HARROW_RETURN_IF_ERROR(ValidateWeightShape(rows, cols));
  const uint64_t bytes = AnalyzeDense(spec, rows, cols, 0);
  std::shared_ptr<std::byte> memory = AllocateBytes(bytes);
  std::vector<float> row(static_cast<size_t>(cols));
  std::byte* out = memory.get();
  for (int64_t r = 0; r < rows; ++r) {
    reader(r, row.data());
    for (int64_t c = 0; c < cols; ++c, out += ValueBytes(spec.values)) {
      const float value = row[static_cast<size_t>(c)];
      float stored = value;
      if (spec.values == ValueType::kF32) {
        std::memcpy(out, &value, 4);
      } else {
        const bool f16 = spec.values == ValueType::kF16;
        const uint16_t bits = f16 ? F32ToF16(value) : F32ToBf16(value);
        stored = f16 ? F16ToF32(bits) : Bf16ToF32(bits);
        std::memcpy(out, &bits, 2);
      }
      if (!std::isfinite(stored)) {
        return Error(StatusCode::kNumerical, "row {}, column {}: the weight is {} as {}", r, c,
                     value, ValueTypeName(spec.values));
      }
    }
  }
  LinearWeight weight;
  weight.spec = spec;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = {memory.get(), static_cast<size_t>(bytes)};
  weight.owner = std::move(memory);
  return weight;
}

void UnpackDense(const LinearWeight& weight, int64_t begin, int64_t end, float* out) {
  TensorView view;
  view.dtype = DTypeOf(weight.spec.values);
  view.shape = {weight.rows, weight.cols};
  view.data = weight.data.data();
  ToFloat32(view, begin * weight.cols, (end - begin) * weight.cols, out);
}

template <class Bits>
int64_t CountNonZeros(std::span<const std::byte> data, Bits magnitude) {
  int64_t count = 0;
  for (size_t i = 0; i + sizeof(Bits) <= data.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, data.data() + i, sizeof(bits));
    count += (bits & magnitude) != 0;
  }
  return count;
}

Result<int64_t> ValidateDense(const LinearWeight& weight) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(weight.spec));
  HARROW_RETURN_IF_ERROR(ValidateWeightShape(weight.rows, weight.cols));
  const uint64_t expected = AnalyzeDense(weight.spec, weight.rows, weight.cols, 0);
  if (weight.data.size() != expected) {
    return Corruption("{} [{}, {}]: {} bytes, expected {}", SpecName(weight.spec), weight.rows,
                      weight.cols, weight.data.size(), expected);
  }
  if (weight.spec.values == ValueType::kF32)
    return CountNonZeros<uint32_t>(weight.data, 0x7fffffffu);
  return CountNonZeros<uint16_t>(weight.data, 0x7fffu);
}

std::optional<WeightSpec> SuitDense(const WeightSpec& wanted) {
  if (IsQuantized(wanted.values)) return std::nullopt;
  return WeightSpec{.format = FormatId::kDense, .values = wanted.values};
}

}  // namespace

extern const FormatOps kDenseOps;
const FormatOps kDenseOps = {
    .analyze = AnalyzeDense,
    .pack = PackDense,
    .unpack = UnpackDense,
    .validate = ValidateDense,
    .suit = SuitDense,
};

Result<LinearWeight> WrapDense(const TensorView& view) {
  WeightSpec spec;
  switch (view.dtype) {
    case DType::kF32: spec.values = ValueType::kF32; break;
    case DType::kF16: spec.values = ValueType::kF16; break;
    case DType::kBf16: spec.values = ValueType::kBf16; break;
    default:
      return Unsupported("a weight of type {}; expected F32, F16 or BF16", DTypeName(view.dtype));
  }
  if (view.shape.size() != 2) {
    return InvalidArgument("a linear weight of shape {}; expected 2 dimensions",
                           ShapeToString(view.shape));
  }
  HARROW_RETURN_IF_ERROR(ValidateWeightShape(view.shape[0], view.shape[1]));
  LinearWeight weight;
  weight.spec = spec;
  weight.rows = view.shape[0];
  weight.cols = view.shape[1];
  weight.data = view.span();
  weight.owner = view.owner;
  return weight;
}

}  // namespace harrow
