// Where tests find data. The models, corpora and goldens of ../shared/data are not part of the
// project: a test that needs them is skipped, with the reason, where they are missing.
#ifndef HARROW_TESTS_TEST_DATA_H_
#define HARROW_TESTS_TEST_DATA_H_

#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace harrow::testing {

// A file of the repository.
inline std::string SourcePath(const std::string& relative) {
  return std::string(HARROW_SOURCE_DIR) + "/" + relative;
}

// A file below ../shared/data (or $HARROW_SHARED_DATA).
inline std::string SharedPath(const std::string& relative) {
  const char* env = std::getenv("HARROW_SHARED_DATA");
  const std::string root =
      env != nullptr ? env : std::string(HARROW_SOURCE_DIR) + "/../shared/data";
  return root + "/" + relative;
}

// A fresh folder that is removed at the end of the scope.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "harrow-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace harrow::testing

#define HARROW_SKIP_WITHOUT(path)                                  \
  do {                                                             \
    if (!std::filesystem::exists(path)) {                          \
      GTEST_SKIP() << "needs " << (path) << ", which is not here"; \
    }                                                              \
  } while (false)

#endif  // HARROW_TESTS_TEST_DATA_H_
