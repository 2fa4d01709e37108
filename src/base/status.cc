#include "base/status.h"

#include <system_error>

namespace harrow {

std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kNotFound: return "not found";
    case StatusCode::kCorruption: return "corrupt file";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kIoError: return "I/O error";
    case StatusCode::kNumerical: return "numerical failure";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kResourceLimit: return "resource limit";
  }
  return "unknown";
}

std::string Status::ToString() const {
  if (ok()) return "ok";
  return std::string(StatusCodeName(code_)) + ": " + message_;
}

Status IoErrorWithErrno(std::string what, int error_number) {
  return Status(StatusCode::kIoError,
                what + ": " + std::error_code(error_number, std::generic_category()).message());
}

}  // namespace harrow
