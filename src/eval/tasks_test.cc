#include "eval/tasks.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "test_data.h"

namespace harrow {
namespace {

// One token a byte, after a BOS (id 1) when asked for.
Encoder ByteEncoder(bool bos) {
  return [bos](std::string_view text) -> Result<std::vector<int32_t>> {
    std::vector<int32_t> ids;
    if (bos) ids.push_back(1);
    for (char c : text)
      ids.push_back(static_cast<unsigned char>(c));
    return ids;
  };
}

TEST(Tasks, ParsesLines) {
  const auto items = ParseTaskFile(
      "{\"id\":\"a\",\"part\":\"facts\",\"context\":\"x\",\"choices\":[\" 1\",\" 2\"],"
      "\"answer\":1,\"extra\":0}\r\n\n"
      "{\"id\":7,\"context\":\"\",\"choices\":[\"a\",\"b\",\"c\"],\"answer\":0,\"distance\":12}",
      "t.jsonl", "t", 0);
  ASSERT_TRUE(items.ok()) << items.status().ToString();
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].part, "facts");
  EXPECT_EQ((*items)[0].answer, 1);
  EXPECT_FALSE((*items)[0].distance.has_value());
  EXPECT_EQ((*items)[1].part, "t");
  EXPECT_EQ((*items)[1].distance, "12");
  EXPECT_EQ((*items)[1].where, "t.jsonl:3 (7)");
  EXPECT_EQ(ParseTaskFile("{\"context\":\"x\",\"choices\":[\"1\",\"2\"],\"answer\":1}\nrubbish",
                          "t", "t", 1)
                ->size(),
            1u);
}

TEST(Tasks, MalformedLinesAreNamed) {
  const char* kBad[] = {
      "",
      "\n \n",
      "{",
      "[]",
      "{\"choices\":[\"a\",\"b\"],\"answer\":0}",
      "{\"context\":3,\"choices\":[\"a\",\"b\"],\"answer\":0}",
      "{\"context\":\"x\",\"answer\":0}",
      "{\"context\":\"x\",\"choices\":[\"a\"],\"answer\":0}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"\"],\"answer\":0}",
      "{\"context\":\"x\",\"choices\":[\"a\",2],\"answer\":0}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"]}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":2}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":-1}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":18446744073709551615}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":0.5}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":0,\"part\":[]}",
      "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":0,\"distance\":{}}",
  };
  for (const char* bad : kBad) {
    const auto items = ParseTaskFile(bad, "t.jsonl", "t", 0);
    ASSERT_FALSE(items.ok()) << bad;
    EXPECT_NE(items.status().message().find("t.jsonl"), std::string::npos) << bad;
  }
}

TEST(Tasks, FoldersMeanTheirFiles) {
  testing::TempDir dir;
  std::filesystem::create_directories(dir.File("tasks"));
  std::filesystem::create_directories(dir.File("empty"));
  for (const char* name : {"b.jsonl", "a.jsonl", "notes.txt"})
    std::ofstream(dir.File("tasks") + "/" + name) << "{}";
  const std::string folder = dir.File("tasks");
  const auto files = TaskFiles({folder, "other.jsonl"});
  ASSERT_TRUE(files.ok()) << files.status().ToString();
  EXPECT_EQ(*files,
            (std::vector<std::string>{folder + "/a.jsonl", folder + "/b.jsonl", "other.jsonl"}));
  EXPECT_TRUE(TaskFiles({})->empty());
  EXPECT_NE(TaskFiles({dir.File("empty")}).status().message().find("empty: holds no *.jsonl"),
            std::string::npos);
  const Status twice = TaskFiles({folder, folder + "/./a.jsonl"}).status();
  EXPECT_NE(twice.message().find("a.jsonl is given twice"), std::string::npos) << twice.ToString();
}

TEST(Tasks, PairIsSplitAtTheEncodedContext) {
  const auto pair = EncodePair(ByteEncoder(true), "ab", " c", -1);
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(pair->ids, (std::vector<int32_t>{1, 'a', 'b', ' ', 'c'}));
  EXPECT_EQ(pair->split, 3);
  // Spaces at the end of the context belong to the continuation.
  const auto spaced = EncodePair(ByteEncoder(false), "ab  ", "c", -1);
  ASSERT_TRUE(spaced.ok());
  EXPECT_EQ(spaced->split, 2);
  EXPECT_EQ(spaced->ids.size(), 5u);
}

TEST(Tasks, EmptyContextStartsFromThePrefixToken) {
  const auto pair = EncodePair(ByteEncoder(false), "", "c", 2);
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(pair->ids, (std::vector<int32_t>{2, 'c'}));
  EXPECT_EQ(pair->split, 1);
  EXPECT_FALSE(EncodePair(ByteEncoder(false), "", "c", -1).ok());
  EXPECT_EQ(EncodePair(ByteEncoder(true), "", "c", -1)->split, 1);
  // A tokenizer that swallows the choice leaves nothing to score.
  const Encoder constant = [](std::string_view) { return std::vector<int32_t>{5}; };
  EXPECT_FALSE(EncodePair(constant, "a", "b", -1).ok());
}

TEST(Tasks, HighestSumWinsAndNormDividesByCharacters) {
  TaskItem item;
  item.choices = {"no", "\xc3\xa9t\xc3\xa9", "yes, of course"};  // 2, 3 and 14 characters
  item.answer = 2;
  // Per character: -1, -1.2, -0.5.
  const ItemScore score = JudgeItem(item, {-2, -3.6, -7});
  EXPECT_FALSE(score.correct);
  EXPECT_TRUE(score.correct_norm);
  EXPECT_DOUBLE_EQ(score.chance, 1.0 / 3);
  item.answer = 1;
  // Per byte the second would lose (-0.6 against -0.55); per character it has -1 and loses too, so
  // move it between: -1.62 / 3 = -0.54 wins, -1.62 / 5 would as well, the first has -1.1 / 2.
  EXPECT_TRUE(JudgeItem(item, {-1.1, -1.62, -20}).correct_norm);
  item.answer = 0;
  EXPECT_TRUE(JudgeItem(item, {-1, -1, -1}).correct);  // the first of equals
}

TEST(Tasks, TableCountsPartsAndDistances) {
  std::vector<ItemScore> items;
  const auto add = [&](const char* part, std::optional<std::string> distance, bool correct) {
    items.push_back({part, std::move(distance), correct, false, 0.25});
  };
  add("copy", "16", true);
  add("copy", "2", true);
  add("copy", "16", false);
  add("facts", std::nullopt, true);
  const std::vector<TaskRow> rows = TabulateItems(items);
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(rows[0].part, "all");
  EXPECT_DOUBLE_EQ(rows[0].acc, 0.75);
  EXPECT_DOUBLE_EQ(*rows[0].acc_stderr, std::sqrt(0.75 * 0.25 / 3));
  EXPECT_DOUBLE_EQ(rows[0].acc_norm, 0);
  EXPECT_DOUBLE_EQ(rows[0].chance, 0.25);
  EXPECT_EQ(rows[1].part, "copy");
  EXPECT_FALSE(rows[1].distance.has_value());
  EXPECT_EQ(rows[1].n, 3);
  EXPECT_EQ(rows[2].distance, "2");  // numerically before 16
  EXPECT_EQ(rows[3].distance, "16");
  EXPECT_DOUBLE_EQ(rows[3].acc, 0.5);
  EXPECT_EQ(rows[4].part, "facts");
  EXPECT_FALSE(rows[4].acc_stderr.has_value());
  EXPECT_TRUE(TabulateItems({}).empty());
}

}  // namespace
}  // namespace harrow
