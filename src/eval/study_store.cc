#include "eval/study_store.h"

#include <sqlite3.h>

#include <initializer_list>
#include <string_view>

namespace harrow {
namespace {

constexpr int64_t kApplicationId = 0x48617277;  // "Harw"
constexpr int64_t kVersion = 1;

struct Finalizer {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalizer>;

int Bind(sqlite3_stmt* statement, int index, std::string_view text) {
  return sqlite3_bind_text64(statement, index, text.data(), text.size(), SQLITE_TRANSIENT,
                             SQLITE_UTF8);
}

}  // namespace

Status StudyStore::Failure(int code, const char* what) const {
  const int primary = code & 0xff;
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) {
    return Corruption(
        "{}: is damaged or no SQLite database ({}); move it away, or study into "
        "another folder",
        path_, sqlite3_errmsg(db_));
  }
  return Error(StatusCode::kIoError, "{}: {}: {}", path_, what,
               db_ != nullptr ? sqlite3_errmsg(db_) : sqlite3_errstr(code));
}

Status StudyStore::Run(const char* sql) {
  const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? OkStatus() : Failure(code, sql);
}

Result<int64_t> StudyStore::Integer(const char* sql) {
  sqlite3_stmt* raw = nullptr;
  int code = sqlite3_prepare_v2(db_, sql, -1, &raw, nullptr);
  const Statement statement(raw);
  if (code == SQLITE_OK) code = sqlite3_step(raw);
  if (code != SQLITE_ROW) return Failure(code, sql);
  return static_cast<int64_t>(sqlite3_column_int64(raw, 0));
}

Status StudyStore::Prepare() {
  sqlite3_busy_timeout(db_, 10000);
  HARROW_ASSIGN_OR_RETURN(const int64_t tables, Integer("SELECT count(*) FROM sqlite_master"));
  if (tables == 0) {
    HARROW_RETURN_IF_ERROR(
        Run("BEGIN IMMEDIATE;"
            "CREATE TABLE IF NOT EXISTS points(key TEXT PRIMARY KEY, name TEXT NOT NULL,"
            " recipe TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL,"
            " finished TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID;"));
    HARROW_RETURN_IF_ERROR(Run(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {};"
                                           "COMMIT;",
                                           kApplicationId, kVersion)
                                   .c_str()));
  }
  HARROW_ASSIGN_OR_RETURN(const int64_t application, Integer("PRAGMA application_id"));
  HARROW_ASSIGN_OR_RETURN(const int64_t version, Integer("PRAGMA user_version"));
  if (application != kApplicationId) {
    return Corruption("{}: is an SQLite database, but not one of `harrow study`", path_);
  }
  if (version != kVersion) {
    return Unsupported("{}: layout version {}; this program has {}", path_, version, kVersion);
  }
  sqlite3_stmt* raw = nullptr;
  int code = sqlite3_prepare_v2(db_, "PRAGMA quick_check(1)", -1, &raw, nullptr);
  const Statement statement(raw);
  if (code == SQLITE_OK) code = sqlite3_step(raw);
  if (code != SQLITE_ROW) return Failure(code, "check");
  const auto* verdict = reinterpret_cast<const char*>(sqlite3_column_text(raw, 0));
  if (verdict == nullptr || std::string_view(verdict) != "ok") {
    return Corruption("{}: is damaged ({}); move it away, or study into another folder", path_,
                      verdict == nullptr ? "no verdict" : verdict);
  }
  return OkStatus();
}

Result<std::unique_ptr<StudyStore>> StudyStore::Open(const std::string& path) {
  std::unique_ptr<StudyStore> store(new StudyStore(path));
  const int code = sqlite3_open_v2(path.c_str(), &store->db_,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  if (code != SQLITE_OK) return store->Failure(code, "open");
  HARROW_RETURN_IF_ERROR(store->Prepare());
  return store;
}

StudyStore::~StudyStore() {
  sqlite3_close(db_);
}

Result<std::optional<std::string>> StudyStore::Find(const std::string& key) {
  sqlite3_stmt* raw = nullptr;
  int code = sqlite3_prepare_v2(db_, "SELECT result FROM points WHERE key = ?", -1, &raw, nullptr);
  const Statement statement(raw);
  if (code == SQLITE_OK) code = Bind(raw, 1, key);
  if (code == SQLITE_OK) code = sqlite3_step(raw);
  if (code == SQLITE_DONE) return std::optional<std::string>();
  if (code != SQLITE_ROW) return Failure(code, "read");
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(raw, 0));
  const auto bytes = static_cast<size_t>(sqlite3_column_bytes(raw, 0));
  return std::optional<std::string>(std::string(text == nullptr ? "" : text, bytes));
}

Status StudyStore::Put(const std::string& key, const std::string& name, const std::string& recipe,
                       const std::string& result, double seconds) {
  sqlite3_stmt* raw = nullptr;
  int code = sqlite3_prepare_v2(
      db_, "INSERT OR REPLACE INTO points(key, name, recipe, result, seconds) VALUES(?,?,?,?,?)",
      -1, &raw, nullptr);
  const Statement statement(raw);
  int index = 0;
  for (const std::string* text : {&key, &name, &recipe, &result}) {
    if (code == SQLITE_OK) code = Bind(raw, ++index, *text);
  }
  if (code == SQLITE_OK) code = sqlite3_bind_double(raw, 5, seconds);
  if (code == SQLITE_OK) code = sqlite3_step(raw);
  return code == SQLITE_DONE ? OkStatus() : Failure(code, "write");
}

}  // namespace harrow
