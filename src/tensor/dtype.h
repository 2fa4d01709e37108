// Element types. One table: value, name used by safetensors, bytes an element.
#ifndef HARROW_TENSOR_DTYPE_H_
#define HARROW_TENSOR_DTYPE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace harrow {

#define HARROW_DTYPES(X)   \
  X(kF64, "F64", 8)        \
  X(kF32, "F32", 4)        \
  X(kF16, "F16", 2)        \
  X(kBf16, "BF16", 2)      \
  X(kI64, "I64", 8)        \
  X(kI32, "I32", 4)        \
  X(kI16, "I16", 2)        \
  X(kI8, "I8", 1)          \
  X(kU64, "U64", 8)        \
  X(kU32, "U32", 4)        \
  X(kU16, "U16", 2)        \
  X(kU8, "U8", 1)          \
  X(kBool, "BOOL", 1)      \
  X(kF8E4M3, "F8_E4M3", 1) \
  X(kF8E5M2, "F8_E5M2", 1)

enum class DType : uint8_t {
#define HARROW_DTYPE_ENUM(id, name, bytes) id,
  HARROW_DTYPES(HARROW_DTYPE_ENUM)
#undef HARROW_DTYPE_ENUM
};

std::string_view DTypeName(DType dtype);
// Bytes an element.
int64_t DTypeBytes(DType dtype);
std::optional<DType> ParseDType(std::string_view name);
// F32, F16, BF16 and F64: what a weight may be stored in.
bool IsFloat(DType dtype);

}  // namespace harrow

#endif  // HARROW_TENSOR_DTYPE_H_
