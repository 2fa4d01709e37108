// Errors as values. The library never prints, aborts or exits because of input; it returns a Status
// whose message names the file, tensor or flag and what was expected there.
//
// Thread safety: value types, no shared state.
#ifndef HARROW_STATUS_H_
#define HARROW_STATUS_H_

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace harrow {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,  // a flag, recipe or call that cannot be satisfied
  kNotFound,         // a file or tensor that is not there
  kCorruption,       // a file whose content contradicts itself or its checksum
  kUnsupported,      // valid, but not something this build can do
  kIoError,          // the operating system refused (disk full, permission)
  kNumerical,        // NaN, failed factorization, singular system
  kCancelled,        // the user interrupted
  kResourceLimit,    // would need more memory or disk than allowed
};

std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // Prefixes the message with where it happened ("model.safetensors: ..."). No effect on OK.
  Status At(std::string_view where) const& {
    return ok() ? *this : Status(code_, std::string(where) + ": " + message_);
  }
  // "corruption: model.safetensors: header length 99 exceeds the file (12 bytes)"
  std::string ToString() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() {
  return Status();
}

// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (status_.ok()) Fail("Result constructed from an OK status");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & {
    CheckHasValue();
    return *value_;
  }
  const T& value() const& {
    CheckHasValue();
    return *value_;
  }
  T&& value() && {
    CheckHasValue();
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  [[noreturn]] static void Fail(const char* what) {
    std::fprintf(stderr, "harrow: bug: %s\n", what);
    std::abort();
  }
  void CheckHasValue() const {
    if (!value_) Fail(status_.ToString().c_str());
  }
  std::optional<T> value_;
  Status status_;
};

// Returns early with the Status of `expr` when it failed.
#define HARROW_RETURN_IF_ERROR(expr)                 \
  do {                                               \
    ::harrow::Status harrow_status_ = (expr);        \
    if (!harrow_status_.ok()) return harrow_status_; \
  } while (false)

#define HARROW_CONCAT_INNER_(a, b) a##b
#define HARROW_CONCAT_(a, b) HARROW_CONCAT_INNER_(a, b)
// HARROW_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
#define HARROW_ASSIGN_OR_RETURN(decl, expr) \
  HARROW_ASSIGN_OR_RETURN_IMPL_(HARROW_CONCAT_(harrow_result_, __LINE__), decl, expr)
#define HARROW_ASSIGN_OR_RETURN_IMPL_(tmp, decl, expr) \
  auto tmp = (expr);                                   \
  if (!tmp.ok()) return tmp.status();                  \
  decl = std::move(tmp).value()

}  // namespace harrow

#endif  // HARROW_STATUS_H_
