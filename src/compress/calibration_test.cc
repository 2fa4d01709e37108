#include "compress/calibration.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "compress/hidden_store.h"
#include "test_data.h"

namespace harrow {
namespace {

// One token a byte, with a BOS of 256.
class ByteTokenizer final : public Tokenizer {
 public:
  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens special) const override {
    std::vector<int32_t> ids;
    if (special == SpecialTokens::kModelDefault) ids.push_back(256);
    for (const char c : text)
      ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  Result<std::string> Decode(const std::vector<int32_t>&) const override { return std::string(); }
  std::string TokenBytes(int32_t id) const override {
    return std::string(1, static_cast<char>(id));
  }
  int32_t vocab_size() const override { return 257; }
  int32_t bos_id() const override { return 256; }
  int32_t eos_id() const override { return -1; }
  bool adds_bos() const override { return true; }
  std::string_view kind() const override { return "byte"; }
};

// The same without a BOS, and with an EOS of 256.
class EosByteTokenizer final : public Tokenizer {
 public:
  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens) const override {
    return bytes_.Encode(text, SpecialTokens::kNone);
  }
  Result<std::string> Decode(const std::vector<int32_t>&) const override { return std::string(); }
  std::string TokenBytes(int32_t id) const override { return bytes_.TokenBytes(id); }
  int32_t vocab_size() const override { return 257; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return 256; }
  bool adds_bos() const override { return false; }
  std::string_view kind() const override { return "byte"; }

 private:
  ByteTokenizer bytes_;
};

class CalibrationTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_.File(name), std::ios::binary) << text;
    return dir_.File(name);
  }
  Result<Calibration> Take(const std::string& file, CalibrationMode mode, int64_t samples,
                           int64_t length, int64_t seed = 0) {
    CalibrationSpec spec;
    spec.file = file;
    spec.mode = mode;
    spec.samples = samples;
    spec.seed = seed;
    return TakeCalibration(spec, length, tokenizer_, nullptr);
  }
  testing::TempDir dir_;
  ByteTokenizer tokenizer_;
};

TEST_F(CalibrationTest, SplitsDocuments) {
  EXPECT_EQ(*SplitDocuments("{\"text\": \"a\"}\n\n{\"text\": \"\"}\r\n{\"x\": 1, \"text\": \"b\"}",
                            "f.jsonl"),
            (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*SplitDocuments("one\ntwo\n<|endoftext|>\nthree", "f.txt"),
            (std::vector<std::string>{"one\ntwo\n", "three"}));
  EXPECT_EQ(*SplitDocuments("<|endoftext|>\n\n<|endoftext|>\r\na <|endoftext|> b\n", "f.txt"),
            (std::vector<std::string>{"a <|endoftext|> b\n"}));
  EXPECT_EQ(*SplitDocuments("", "f.txt"), std::vector<std::string>());
  EXPECT_FALSE(SplitDocuments("a", "f.parquet").ok());
  for (const char* bad : {"{\"text\": 3}", "[]", "{\"tex\": \"a\"}", "{"}) {
    const auto result = SplitDocuments(std::string("{\"text\": \"a\"}\n") + bad, "f.jsonl");
    ASSERT_FALSE(result.ok()) << bad;
    EXPECT_NE(result.status().message().find("f.jsonl:2"), std::string::npos);
  }
}

TEST_F(CalibrationTest, PapersTakesCropsOfLongDocuments) {
  // Document k consists of the letter 'a' + k; only the last two are longer than 8 tokens.
  std::string text;
  for (int k = 0; k < 4; ++k)
    text += std::string(static_cast<size_t>(4 * k + 1), 'a' + k) + "\n<|endoftext|>\n";
  const std::string file = Write("t.txt", text);
  const Result<Calibration> taken = Take(file, CalibrationMode::kPapers, 50, 8);
  ASSERT_TRUE(taken.ok()) << taken.status().ToString();
  EXPECT_EQ(taken->samples(), 50);
  EXPECT_EQ(taken->documents, 4);
  EXPECT_GT(taken->rejected_documents, 0);
  std::set<int32_t> letters;
  for (int64_t s = 0; s < 50; ++s) {
    const int32_t* ids = taken->sequence(s);
    letters.insert(ids[3]);
    for (int i = 1; i < 7; ++i)
      EXPECT_EQ(ids[i] == '\n' ? ids[3] : ids[i], ids[3]);
  }
  EXPECT_EQ(letters, (std::set<int32_t>{'c', 'd'}));

  // The same seed gives the same ids, another seed others.
  EXPECT_EQ(Take(file, CalibrationMode::kPapers, 50, 8)->ids, taken->ids);
  EXPECT_NE(Take(file, CalibrationMode::kPapers, 50, 8, 1)->ids, taken->ids);
}

TEST_F(CalibrationTest, ADocumentOfExactlyTheLengthIsRejected) {
  const std::string file = Write("t.txt", "abc");  // 4 tokens with BOS
  EXPECT_TRUE(Take(file, CalibrationMode::kPapers, 1, 3).ok());
  const Result<Calibration> taken = Take(file, CalibrationMode::kPapers, 1, 4);
  ASSERT_FALSE(taken.ok());
  EXPECT_NE(taken.status().message().find("none of its 1 documents has more than 4 tokens (the "
                                          "longest has 4)"),
            std::string::npos)
      << taken.status().message();
  EXPECT_NE(taken.status().message().find("mode: concat"), std::string::npos);
}

TEST_F(CalibrationTest, ConcatUsesEveryDocumentOnce) {
  const std::string file =
      Write("t.jsonl", "{\"text\": \"aa\"}\n{\"text\": \"bb\"}\n{\"text\": \"cc\"}\n");
  const Result<Calibration> taken = Take(file, CalibrationMode::kConcat, 3, 3);
  ASSERT_TRUE(taken.ok()) << taken.status().ToString();
  std::multiset<int32_t> ids(taken->ids.begin(), taken->ids.end());
  EXPECT_EQ(ids, (std::multiset<int32_t>{256, 256, 256, 'a', 'a', 'b', 'b', 'c', 'c'}));
  const Result<Calibration> more = Take(file, CalibrationMode::kConcat, 3, 4);
  ASSERT_FALSE(more.ok());
  EXPECT_NE(more.status().message().find("have 9 tokens together, but 3 samples of 4"),
            std::string::npos)
      << more.status().message();
}

TEST_F(CalibrationTest, ConcatEndsDocumentsWithEosWhereNoneBeginsWithBos) {
  CalibrationSpec spec;
  spec.file = Write("t.jsonl", "{\"text\": \"aaa\"}\n{\"text\": \"bbb\"}\n");
  spec.mode = CalibrationMode::kConcat;
  spec.samples = 2;
  const Result<Calibration> taken = TakeCalibration(spec, 4, EosByteTokenizer(), nullptr);
  ASSERT_TRUE(taken.ok()) << taken.status().ToString();
  ASSERT_EQ(taken->ids.size(), 8u);
  EXPECT_EQ(taken->ids[3], 256);
  EXPECT_EQ(taken->ids[7], 256);
}

TEST_F(CalibrationTest, NoTextIsAnError) {
  EXPECT_FALSE(Take(Write("t.txt", " \n"), CalibrationMode::kPapers, 1, 1).ok());
  EXPECT_FALSE(Take(dir_.File("absent.txt"), CalibrationMode::kPapers, 1, 1).ok());
}

TEST_F(CalibrationTest, JsonHasTheIds) {
  const Result<Calibration> taken = Take(Write("t.txt", "abcdef"), CalibrationMode::kConcat, 2, 3);
  const nlohmann::json json = nlohmann::json::parse(CalibrationJson(*taken));
  EXPECT_EQ(json["sequence_length"], 3);
  EXPECT_EQ(json["ids"], (std::vector<std::vector<int32_t>>{{256, 'a', 'b'}, {'c', 'd', 'e'}}));
}

TEST(HiddenStoreTest, MemoryAndFileBehaveTheSame) {
  testing::TempDir dir;
  for (const uint64_t limit : {uint64_t{1} << 20, uint64_t{100}}) {
    const auto store = HiddenStore::Create(5, 7, dir.path(), limit);
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    EXPECT_EQ((*store)->in_memory(), limit > 140);
    std::vector<float> values(7);
    for (int s = 4; s >= 0; --s) {
      for (int i = 0; i < 7; ++i)
        values[static_cast<size_t>(i)] = static_cast<float>(10 * s + i);
      ASSERT_TRUE((*store)->Write(s, values.data()).ok());
    }
    for (int s = 0; s < 5; ++s) {
      ASSERT_TRUE((*store)->Read(s, values.data()).ok());
      for (int i = 0; i < 7; ++i)
        EXPECT_EQ(values[static_cast<size_t>(i)], static_cast<float>(10 * s + i));
    }
    EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  }
  EXPECT_FALSE(HiddenStore::Create(5, 7, dir.File("absent"), 0).ok());
  EXPECT_EQ(HiddenStore::Create(int64_t{1} << 40, int64_t{1} << 40, dir.path()).status().code(),
            StatusCode::kResourceLimit);
}

}  // namespace
}  // namespace harrow
