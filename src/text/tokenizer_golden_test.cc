// Ids and texts against the reference libraries: tests/golden/tokenizers.json, which
// scripts/golden/tokenizers.py writes, llama.cpp's vectors, and the reference logits' own ids.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <sstream>

#include "base/mapped_file.h"
#include "test_data.h"
#include "text/json_fields.h"
#include "text/pattern.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace harrow {
namespace {

using testing::SharedPath;
using testing::SourcePath;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;
using Ids = std::vector<int32_t>;

std::string MustRead(const std::string& path) {
  Result<std::string> content = ReadFile(path, 64 << 20);
  EXPECT_TRUE(content.ok()) << content.status().ToString();
  return content.ok() ? *content : std::string();
}

const Json& Golden() {
  static const Json* const golden =
      new Json(Json::parse(MustRead(SourcePath("tests/golden/tokenizers.json"))));
  return *golden;
}

TokenizerPtr MustParseJson(const std::string& json, const std::string& where) {
  Result<TokenizerPtr> tokenizer = ParseTokenizerJson(json, "", where);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

TokenizerPtr MustParseModel(const std::string& path) {
  Result<TokenizerPtr> tokenizer = ParseSentencePiece(MustRead(path), "", path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

Ids MustEncode(const Tokenizer& tokenizer, std::string_view text,
               SpecialTokens special = SpecialTokens::kModelDefault) {
  Result<Ids> ids = tokenizer.Encode(text, special);
  EXPECT_TRUE(ids.ok()) << ids.status().ToString();
  return ids.ok() ? *ids : Ids();
}

std::string Stream(const TokenizerPtr& tokenizer, const Ids& ids) {
  StreamingDetokenizer stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.Push(id);
    EXPECT_EQ(FindInvalidUtf8(part), part.size()) << "a part must be whole characters";
    text += part;
  }
  return text + stream.Flush();
}

// `golden` has "ids" per text, null where the reference does not apply, and "decoded" for the texts
// that decoding changes.
void ExpectSameAs(const Json& golden, const TokenizerPtr& tokenizer, const std::string& name) {
  ASSERT_NE(tokenizer, nullptr);
  const Json& texts = Golden()["texts"];
  ASSERT_EQ(golden["ids"].size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (golden["ids"][i].is_null()) continue;
    const std::string text = texts[i];
    SCOPED_TRACE(name + ": text " + std::to_string(i) + " '" + text + "'");
    const Ids expected = golden["ids"][i];
    EXPECT_EQ(MustEncode(*tokenizer, text), expected);
    const auto changed = golden["decoded"].find(std::to_string(i));
    const std::string expected_text =
        changed == golden["decoded"].end() ? text : changed->get<std::string>();
    const Result<std::string> decoded = tokenizer->Decode(expected);
    ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
    EXPECT_EQ(*decoded, expected_text);
    EXPECT_EQ(Stream(tokenizer, expected), expected_text);
  }
}

std::string Fnv1a(const Ids& ids) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x100000001b3u;
    }
  }
  return fmt::format("{:016x}", hash);
}

void ExpectSameCorpus(const Json& golden, const Tokenizer& tokenizer, const std::string& name) {
  const std::string path = SharedPath(golden["file"]);
  HARROW_SKIP_WITHOUT(path);
  const std::string text = MustRead(path).substr(0, golden["bytes"].get<size_t>());
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = MustEncode(tokenizer, text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s: %zu bytes, %zu tokens in %.2f s\n", name.c_str(), text.size(), ids.size(),
              seconds.count());
  EXPECT_EQ(ids.size(), golden["count"].get<size_t>()) << name;
  EXPECT_EQ(Fnv1a(ids), golden["fnv1a"].get<std::string>()) << name;
}

TEST(RegexClasses, AgreeWithOniguruma) {
  std::string every;  // character that Unicode 14 assigns, as in the script
  const Result<Regex> unassigned = Regex::Compile("[\\p{Cn}\\p{Co}]");
  ASSERT_TRUE(unassigned.ok());
  std::string all;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c < 0xD800 || c > 0xDFFF) AppendUtf8(c, &all);
  }
  const Result<std::vector<ByteRange>> skip = unassigned->FindAll(all);
  ASSERT_TRUE(skip.ok());
  for (const ByteRange part : SplitAt(*skip, all.size(), SplitBehavior::kRemoved, false)) {
    every.append(all, part.begin, part.end - part.begin);
  }
  for (const Json& golden : Golden()["classes"]) {
    SCOPED_TRACE(golden["pattern"].get<std::string>());
    const Result<Regex> regex = Regex::Compile(golden["pattern"].get<std::string>());
    ASSERT_TRUE(regex.ok()) << regex.status().ToString();
    const Result<std::vector<ByteRange>> matches = regex->FindAll(every);
    ASSERT_TRUE(matches.ok()) << matches.status().ToString();
    Ids found;
    for (const ByteRange match : *matches) {
      size_t pos = match.begin;
      found.push_back(static_cast<int32_t>(NextChar(every, &pos)));
      EXPECT_EQ(pos, match.end);
    }
    EXPECT_EQ(found.size(), golden["count"].get<size_t>());
    EXPECT_EQ(Fnv1a(found), golden["fnv1a"].get<std::string>());
  }
}

class SharedJson : public ::testing::TestWithParam<const char*> {};

TEST_P(SharedJson, AgreesWithHuggingFace) {
  const Json& golden = Golden()["shared"][GetParam()];
  const std::string path = SharedPath(golden["file"]);
  HARROW_SKIP_WITHOUT(path);
  const TokenizerPtr tokenizer = MustParseJson(MustRead(path), path);
  ExpectSameAs(golden, tokenizer, GetParam());
  ExpectSameCorpus(golden["corpus"], *tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Golden, SharedJson,
                         ::testing::Values("gpt2", "gptneox", "llama2", "TinyStories-656K"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

class SharedModel : public ::testing::TestWithParam<const char*> {};

TEST_P(SharedModel, AgreesWithSentencePiece) {
  const Json& golden = Golden()["sentencepiece"][GetParam()];
  const std::string path = SharedPath(golden["file"]);
  HARROW_SKIP_WITHOUT(path);
  const TokenizerPtr tokenizer = MustParseModel(path);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->kind(), "sentencepiece-bpe");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
  const Json& texts = Golden()["texts"];
  for (size_t i = 0; i < texts.size(); ++i) {
    if (golden["ids"][i].is_null()) continue;
    const std::string text = texts[i];
    SCOPED_TRACE("text " + std::to_string(i) + " '" + text + "'");
    const Ids expected = golden["ids"][i];
    EXPECT_EQ(MustEncode(*tokenizer, text), expected);
    // The reference writes unknown characters as " ⁇ ", Harrow leaves them out.
    if (std::find(expected.begin(), expected.end(), 0) != expected.end()) continue;
    const auto changed = golden["decoded"].find(std::to_string(i));
    const std::string expected_text =
        changed == golden["decoded"].end() ? text : changed->get<std::string>();
    const Result<std::string> decoded = tokenizer->Decode(expected);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, expected_text);
    EXPECT_EQ(Stream(tokenizer, expected), expected_text);
  }
  ExpectSameCorpus(golden["corpus"], *tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Golden, SharedModel,
                         ::testing::Values("stories260K", "babyllama", "llama2"));

TEST(TinyJson, AgreesWithHuggingFace) {
  for (const auto& item : Golden()["tiny"].items()) {
    const std::string path = SourcePath(item.value()["file"]);
    ExpectSameAs(item.value(), MustParseJson(MustRead(path), path), item.key());
  }
}

TEST(TinyJson, VariantsAgreeWithHuggingFace) {
  for (const Json& variant : Golden()["variants"]) {
    const std::string base = variant["base"];
    Json spec = Json::parse(MustRead(SourcePath(Golden()["tiny"][base]["file"])));
    for (const auto& item : variant["patch"].items()) {
      if (item.key() == "model") {
        spec["model"].update(item.value());
      } else {
        spec[item.key()] = item.value();
      }
    }
    const std::string name = variant["name"];
    ExpectSameAs(variant, MustParseJson(spec.dump(), name), name);
  }
}

TEST(TinyJson, PrefixAndSuffixOfWordPartsAgreeWithHuggingFace) {
  const Json& golden = Golden()["word_parts"];
  const TokenizerPtr tokenizer = MustParseJson(golden["spec"].dump(), "word_parts");
  ASSERT_NE(tokenizer, nullptr);
  for (size_t i = 0; i < golden["texts"].size(); ++i) {
    EXPECT_EQ(MustEncode(*tokenizer, golden["texts"][i].get<std::string>()),
              golden["ids"][i].get<Ids>());
  }
}

TEST(TinyUnigram, AgreesWithSentencePiece) {
  const TokenizerPtr tokenizer =
      MustParseModel(SourcePath("tests/golden/sentencepiece-tiny-unigram.model"));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->kind(), "sentencepiece-unigram");
  const Json& golden = Golden()["unigram"];
  for (size_t i = 0; i < golden["texts"].size(); ++i) {
    const std::string text = golden["texts"][i];
    SCOPED_TRACE("'" + text + "'");
    const Ids expected = golden["ids"][i];
    EXPECT_EQ(MustEncode(*tokenizer, text), expected);
    const Result<std::string> decoded = tokenizer->Decode(expected);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, golden["decoded"][i].get<std::string>());
    EXPECT_EQ(Stream(tokenizer, expected), *decoded);
  }
}

// llama.cpp's test vectors: texts between marker lines, one line of ids for each.
void ExpectSameAsVectors(const std::string& name, const Tokenizer& tokenizer) {
  const std::string base = SharedPath("golden/tokenizer-vectors/ggml-vocab-" + name + ".gguf");
  HARROW_SKIP_WITHOUT(base + ".inp");
  const std::string input = MustRead(base + ".inp");
  std::ifstream output(base + ".out");
  const std::string marker = "\n__ggml_vocab_test__\n";
  size_t count = 0;
  for (size_t begin = 0; begin < input.size(); ++count) {
    const size_t end = std::min(input.find(marker, begin), input.size());
    std::string line;
    ASSERT_TRUE(std::getline(output, line)) << "text " << count;
    std::istringstream numbers(line);
    const Ids expected((std::istream_iterator<int32_t>(numbers)), std::istream_iterator<int32_t>());
    const std::string text = input.substr(begin, end - begin);
    EXPECT_EQ(MustEncode(tokenizer, text, SpecialTokens::kNone), expected)
        << name << ": '" << text << "'";
    begin = end + marker.size();
  }
  EXPECT_GT(count, 40u);
}

TEST(LlamaCppVectors, Gpt2) {
  const std::string path = SharedPath("golden/gpt2-tokenizer/tokenizer.json");
  HARROW_SKIP_WITHOUT(path);
  const TokenizerPtr tokenizer = MustParseJson(MustRead(path), path);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->kind(), "bpe-byte-level");
  EXPECT_EQ(tokenizer->vocab_size(), 50257);
  EXPECT_EQ(tokenizer->eos_id(), 50256);
  EXPECT_FALSE(tokenizer->adds_bos());
  ExpectSameAsVectors("gpt-2", *tokenizer);
}

TEST(LlamaCppVectors, Llama2Json) {
  const std::string path = SharedPath("golden/llama2-tokenizer/tokenizer.json");
  HARROW_SKIP_WITHOUT(path);
  const TokenizerPtr tokenizer = MustParseJson(MustRead(path), path);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->kind(), "bpe-byte-fallback");
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
  ExpectSameAsVectors("llama-spm", *tokenizer);
}

TEST(LlamaCppVectors, Llama2Model) {
  const std::string path = SharedPath("golden/llama2-tokenizer/tokenizer.model");
  HARROW_SKIP_WITHOUT(path);
  const TokenizerPtr tokenizer = MustParseModel(path);
  ASSERT_NE(tokenizer, nullptr);
  ExpectSameAsVectors("llama-spm", *tokenizer);
}

TEST(ReferenceLogits, Ids) {
  struct Case {
    const char* golden;
    const char* file;
  };
  for (const Case& c :
       {Case{"golden/reference-logits/stories260K.json", "models/stories260K/tok512.model"},
        Case{"golden/reference-logits/TinyStories-656K.json",
             "models/TinyStories-656K/tokenizer.json"}}) {
    HARROW_SKIP_WITHOUT(SharedPath(c.golden));
    HARROW_SKIP_WITHOUT(SharedPath(c.file));
    const std::string path = SharedPath(c.file);
    const TokenizerPtr tokenizer =
        path.ends_with(".json") ? MustParseJson(MustRead(path), path) : MustParseModel(path);
    ASSERT_NE(tokenizer, nullptr);
    const Json golden = Json::parse(MustRead(SharedPath(c.golden)));
    ASSERT_FALSE(golden["texts"].empty());
    for (const Json& text : golden["texts"]) {
      EXPECT_EQ(MustEncode(*tokenizer, text["text"].get<std::string>()), text["ids"].get<Ids>());
    }
  }
}

}  // namespace
}  // namespace harrow
