#include "compress/output_path.h"

#include <filesystem>

namespace harrow {

namespace fs = std::filesystem;

Status CheckOutputSparesSource(const std::string& output, const std::string& source) {
  std::error_code error;
  const fs::path to = fs::weakly_canonical(output, error);
  if (error) return Error(StatusCode::kIoError, "{}: {}", output, error.message());
  const fs::path from = fs::weakly_canonical(source, error);
  if (error) return Error(StatusCode::kIoError, "{}: {}", source, error.message());
  const fs::path below = from.lexically_relative(to);
  if (!below.empty() && *below.begin() != "..") {
    return InvalidArgument("{}: the output would replace {}, which it is made from", output,
                           source);
  }
  return OkStatus();
}

Result<std::string> OutputPath(const std::string& output) {
  std::error_code error;
  const fs::path path = fs::weakly_canonical(output, error);
  if (error) return Error(StatusCode::kIoError, "{}: {}", output, error.message());
  return (path.has_filename() ? path : path.parent_path()).string();
}

std::string WorkFolder(const std::string& output_path) {
  return output_path + ".partial";
}

}  // namespace harrow
