#include "eval/study_store.h"

#include <sqlite3.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "test_data.h"

namespace harrow {
namespace {

using testing::TempDir;

std::unique_ptr<StudyStore> MustOpen(const std::string& path) {
  Result<std::unique_ptr<StudyStore>> store = StudyStore::Open(path);
  EXPECT_TRUE(store.ok()) << store.status().ToString();
  return std::move(store).value();
}

TEST(StudyStore, KeepsPointsBetweenRuns) {
  const TempDir folder;
  const std::string path = folder.File("study.db");
  {
    const auto store = MustOpen(path);
    EXPECT_EQ(*store->Find("a"), std::nullopt);
    ASSERT_TRUE(store->Put("a", "first", "{}", "{\"kl\": 1}", 2.5).ok());
    ASSERT_TRUE(store->Put("b", "second", "{}", std::string("nul \0 inside", 12), 1).ok());
    ASSERT_TRUE(store->Put("b", "second", "{}", "replaced", 1).ok());
  }
  const auto store = MustOpen(path);
  EXPECT_EQ(*store->Find("a"), "{\"kl\": 1}");
  EXPECT_EQ(*store->Find("b"), "replaced");
  EXPECT_EQ(*store->Find("c"), std::nullopt);
}

TEST(StudyStore, TwoProgramsMayShareIt) {
  const TempDir folder;
  const auto one = MustOpen(folder.File("study.db"));
  const auto two = MustOpen(folder.File("study.db"));
  ASSERT_TRUE(one->Put("a", "n", "", "1", 0).ok());
  EXPECT_EQ(*two->Find("a"), "1");
  ASSERT_TRUE(two->Put("b", "n", "", "2", 0).ok());
  EXPECT_EQ(*one->Find("b"), "2");
}

void ExpectRefused(const std::string& path, StatusCode code, const std::string& part) {
  const Result<std::unique_ptr<StudyStore>> store = StudyStore::Open(path);
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().code(), code) << store.status().message();
  EXPECT_NE(store.status().message().find(path), std::string::npos) << store.status().message();
  EXPECT_NE(store.status().message().find(part), std::string::npos) << store.status().message();
}

TEST(StudyStore, RefusesWhatIsNotItsOwn) {
  const TempDir folder;
  std::ofstream(folder.File("text.db")) << std::string(8192, 'x');
  ExpectRefused(folder.File("text.db"), StatusCode::kCorruption, "no SQLite database");

  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(folder.File("other.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "CREATE TABLE t(x)", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  ExpectRefused(folder.File("other.db"), StatusCode::kCorruption, "not one of `harrow study`");

  MustOpen(folder.File("newer.db"));
  ASSERT_EQ(sqlite3_open(folder.File("newer.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version = 7", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  ExpectRefused(folder.File("newer.db"), StatusCode::kUnsupported, "version 7");

  ExpectRefused(folder.File("no/such/folder.db"), StatusCode::kIoError, "open");
}

TEST(StudyStore, RefusesADamagedFile) {
  const TempDir folder;
  const std::string path = folder.File("study.db");
  {
    const auto store = MustOpen(path);
    for (int i = 0; i < 8; ++i) {
      ASSERT_TRUE(store->Put("key" + std::to_string(i), "n", "", std::string(3000, 'r'), 0).ok());
    }
  }
  // The pages behind the schema's are overwritten.
  const auto size = std::filesystem::file_size(path);
  ASSERT_GT(size, 16384u);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096);
  file << std::string(8192, '\x5a');
  file.close();
  ExpectRefused(path, StatusCode::kCorruption, "is damaged");
}

}  // namespace
}  // namespace harrow
