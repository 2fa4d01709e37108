#include "tensor/dtype.h"

namespace harrow {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
#define HARROW_DTYPE_NAME(id, name, bytes) \
  case DType::id: return name;
    HARROW_DTYPES(HARROW_DTYPE_NAME)
#undef HARROW_DTYPE_NAME
  }
  return "?";
}

int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
#define HARROW_DTYPE_BYTES(id, name, bytes) \
  case DType::id: return bytes;
    HARROW_DTYPES(HARROW_DTYPE_BYTES)
#undef HARROW_DTYPE_BYTES
  }
  return 0;
}

std::optional<DType> ParseDType(std::string_view text) {
#define HARROW_DTYPE_PARSE(id, name, bytes) \
  if (text == name) return DType::id;
  HARROW_DTYPES(HARROW_DTYPE_PARSE)
#undef HARROW_DTYPE_PARSE
  return std::nullopt;
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16 ||
         dtype == DType::kF64;
}

}  // namespace harrow
