#include "eval/recipe_run.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>

namespace harrow {

RunControl PrefixedControl(const RunControl* control, const std::string& prefix) {
  RunControl prefixed;
  if (control == nullptr) return prefixed;
  prefixed.cancel = control->cancel;
  if (control->on_progress) {
    prefixed.on_progress = [control, prefix](std::string_view what, int64_t done, int64_t total) {
      control->Progress(prefix + std::string(what), done, total);
    };
  }
  if (control->on_warning) {
    prefixed.on_warning = [control, prefix](std::string_view message) {
      control->Warn(prefix + std::string(message));
    };
  }
  return prefixed;
}

double BitsPerWeight(const Model& dense, const Model& compressed) {
  double weights = 0, bytes = 0;
  for (const Block& block : dense.blocks()) {
    for (const LinearLayer* linear : block.linears())
      weights += static_cast<double>(linear->rows) * static_cast<double>(linear->cols);
  }
  for (const Block& block : compressed.blocks()) {
    for (const LinearLayer* linear : block.linears())
      bytes += static_cast<double>(WeightBytes(linear->weight));
  }
  return 8 * bytes / weights;
}

Result<double> LinearSparsity(const Model& model) {
  double weights = 0, nonzeros = 0;
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears()) {
      const Result<int64_t> count = ValidateWeight(linear->weight);
      if (!count.ok()) return count.status().At(linear->name);
      weights += static_cast<double>(linear->rows) * static_cast<double>(linear->cols);
      nonzeros += static_cast<double>(*count);
    }
  }
  return 1 - nonzeros / weights;
}

Result<TemporaryFolder> TemporaryFolder::Create(const std::string& parent) {
  std::error_code error;
  std::string base = parent;
  if (base.empty()) base = std::filesystem::temp_directory_path(error).string();
  if (!error) std::filesystem::create_directories(base, error);
  if (error) return Error(StatusCode::kIoError, "{}: {}", base, error.message());
  std::string path = base + "/harrow-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    return IoErrorWithErrno("create a folder in " + base, errno);
  TemporaryFolder folder;
  folder.path_ = path;
  return folder;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

}  // namespace harrow
