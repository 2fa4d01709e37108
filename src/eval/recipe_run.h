// Running recipes from inside a longer piece of work.
#ifndef HARROW_EVAL_RECIPE_RUN_H_
#define HARROW_EVAL_RECIPE_RUN_H_

#include <string>

#include "base/status.h"
#include "harrow/run_control.h"
#include "model/model.h"

namespace harrow {

// `control` with `prefix` in front of what its progress says; both must outlive it. Warnings are
// prefixed too. A null control stays silent.
RunControl PrefixedControl(const RunControl* control, const std::string& prefix);

// Stored bits (scales, masks and positions included) for each linear weight of the blocks of
// `dense`.
double BitsPerWeight(const Model& dense, const Model& compressed);

// Fraction of zeros in the linear weights of the blocks.
Result<double> LinearSparsity(const Model& model);

// A folder of its own below `parent` (empty: the system's temporary folder), removed with all that
// is in it when this goes.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> Create(const std::string& parent);
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::move(other.path_)) {
    other.path_.clear();
  }
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();
  const std::string& path() const { return path_; }

 private:
  TemporaryFolder() = default;
  std::string path_;
};

}  // namespace harrow

#endif  // HARROW_EVAL_RECIPE_RUN_H_
