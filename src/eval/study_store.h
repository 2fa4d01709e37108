// The finished points of a study, in an SQLite file.
#ifndef HARROW_EVAL_STUDY_STORE_H_
#define HARROW_EVAL_STUDY_STORE_H_

#include <memory>
#include <optional>
#include <string>

#include "base/status.h"

struct sqlite3;

namespace harrow {

// One table `points(key, name, recipe, result, seconds, finished)`: `result` is a JSON object,
// `finished` UTC. Every Put is one transaction, so that whatever ends the program leaves all
// earlier points and nothing half-written. Several programs may use one file. Not thread safe.
class StudyStore {
 public:
  // Creates the file where there is none. kCorruption, naming the file, for one that is damaged, no
  // SQLite database, or not one of ours.
  static Result<std::unique_ptr<StudyStore>> Open(const std::string& path);
  ~StudyStore();
  StudyStore(const StudyStore&) = delete;
  StudyStore& operator=(const StudyStore&) = delete;

  // The result kept under `key`.
  Result<std::optional<std::string>> Find(const std::string& key);
  // Keeps or replaces it.
  Status Put(const std::string& key, const std::string& name, const std::string& recipe,
             const std::string& result, double seconds);

 private:
  explicit StudyStore(const std::string& path) : path_(path) {}
  Status Prepare();
  Status Run(const char* sql);
  Result<int64_t> Integer(const char* sql);
  Status Failure(int code, const char* what) const;

  std::string path_;
  sqlite3* db_ = nullptr;
};

}  // namespace harrow

#endif  // HARROW_EVAL_STUDY_STORE_H_
