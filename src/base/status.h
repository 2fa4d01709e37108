// Status, Result<T> (public header) and the printf-style constructors that the library uses to make
// them.
#ifndef HARROW_BASE_STATUS_H_
#define HARROW_BASE_STATUS_H_

#include <fmt/format.h>

#include "harrow/status.h"

namespace harrow {

// Error(StatusCode::kCorruption, "tensor {}: {} bytes, expected {}", name, got, want)
template <class... Args>
Status Error(StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status Corruption(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kCorruption, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status Unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kUnsupported, fmt::format(format, std::forward<Args>(args)...));
}
// `IoError("write {}", path)` appends the text of errno.
Status IoErrorWithErrno(std::string what, int error_number);

}  // namespace harrow

#endif  // HARROW_BASE_STATUS_H_
