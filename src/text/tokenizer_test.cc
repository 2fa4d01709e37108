// Errors, limits and the parts that golden vectors do not reach.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "base/mapped_file.h"
#include "test_data.h"
#include "text/byte_level.h"
#include "text/decoder.h"
#include "text/json_fields.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace harrow {
namespace {

using testing::SharedPath;
using testing::SourcePath;
using testing::TempDir;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;
using Ids = std::vector<int32_t>;

std::string MustRead(const std::string& path) {
  Result<std::string> content = ReadFile(path, 64 << 20);
  EXPECT_TRUE(content.ok()) << content.status().ToString();
  return content.ok() ? *content : std::string();
}

void Write(const std::string& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

const std::string& TinyText(const char* name) {
  static std::map<std::string, std::string>* const texts = new std::map<std::string, std::string>;
  std::string& text = (*texts)[name];
  if (text.empty()) {
    text = MustRead(SourcePath(std::string("tests/golden/tokenizer-tiny-") + name + ".json"));
  }
  return text;
}
Json Tiny(const char* name) {
  return Json::parse(TinyText(name));
}

TokenizerPtr MustParse(const Json& spec, const std::string& config = "") {
  Result<TokenizerPtr> tokenizer = ParseTokenizerJson(spec.dump(), config, "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

// The error must have `code`, name the source, and say `text`.
void ExpectError(const Status& status, StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  EXPECT_EQ(status.message().rfind("test", 0), 0u) << status.ToString();
  EXPECT_NE(status.message().find(text), std::string::npos) << status.ToString();
}
void ExpectJsonError(const std::string& json, StatusCode code, const std::string& text,
                     const std::string& config = "") {
  ExpectError(ParseTokenizerJson(json, config, "test").status(), code, text);
}

constexpr StatusCode kCorrupt = StatusCode::kCorruption;
constexpr StatusCode kUnsupported = StatusCode::kUnsupported;

TEST(TokenizerJson, RefusesWhatIsNotJson) {
  ExpectJsonError("", kCorrupt, "not JSON");
  ExpectJsonError("{", kCorrupt, "not JSON");
  ExpectJsonError("{\"a\": \"\xff\"}", kCorrupt, "not JSON");
  ExpectJsonError("[]", kCorrupt, "an object was expected");
  ExpectJsonError("3", kCorrupt, "an object was expected");
  ExpectJsonError("{}", kCorrupt, "'model' is missing");
  ExpectJsonError(std::string(1 << 20, '['), kCorrupt, "nested");
  ExpectJsonError(TinyText("gpt2"), kCorrupt, "tokenizer_config.json: not JSON", "{");
}

TEST(TokenizerJson, RefusesEveryTruncation) {
  const std::string& text = TinyText("gpt2");
  for (size_t size = 0; size < text.size() - 2; size += 97) {
    const Result<TokenizerPtr> tokenizer = ParseTokenizerJson(text.substr(0, size), "", "test");
    EXPECT_EQ(tokenizer.status().code(), kCorrupt) << size;
  }
}

// Each case puts `value` at `pointer` of a sound file.
TEST(TokenizerJson, RefusesWrongContent) {
  struct Case {
    const char* base;
    const char* pointer;
    const char* value;
    StatusCode code;
    const char* text;
  };
  const Case cases[] = {
      {"gpt2", "/version", "\"2.0\"", kUnsupported, "version '2.0'"},
      {"gpt2", "/version", "1", kCorrupt, "'version' must be a string"},
      {"gpt2", "/model", "[]", kCorrupt, "'model' must be an object"},
      {"gpt2", "/model/type", "\"WordPiece\"", kUnsupported, "model type 'WordPiece'"},
      {"gpt2", "/model/type", "7", kCorrupt, "'type' must be a string"},
      {"gpt2", "/model/vocab", "null", kCorrupt, "'vocab' is missing"},
      {"gpt2", "/model/vocab", "[[\"a\", 0]]", kCorrupt, "'vocab' must be an object"},
      {"gpt2", "/model/vocab", "{}", kCorrupt, "merges[0]"},
      {"gpt2", "/model/vocab/a", "-1", kCorrupt, "'a' has id -1"},
      {"gpt2", "/model/vocab/a", "1.5", kCorrupt, "must be an integer"},
      {"gpt2", "/model/vocab/a", "\"3\"", kCorrupt, "must be an integer"},
      {"gpt2", "/model/vocab/a", "4", kCorrupt, "both have id 4"},
      {"gpt2", "/model/vocab/new", "2000000000", kCorrupt, "'new' has id 2000000000"},
      {"gpt2", "/model/vocab/new", "18446744073709551615", kCorrupt, "'new' has id"},
      {"gpt2", "/model/vocab/", "420", kCorrupt, "is empty"},
      {"gpt2", "/model/merges", "null", kCorrupt, "'merges' is missing"},
      {"gpt2", "/model/merges", "{}", kCorrupt, "'merges' must be an array"},
      {"gpt2", "/model/merges/1", "7", kCorrupt, "merges[1] must be"},
      {"gpt2", "/model/merges/1", "\"ab\"", kCorrupt, "merges[1]"},
      {"gpt2", "/model/merges/1", "\"a b c\"", kCorrupt, "merges[1]"},
      {"gpt2", "/model/merges/1", "[\"a\"]", kCorrupt, "merges[1]"},
      {"gpt2", "/model/merges/1", "[\"a\", 3]", kCorrupt, "merges[1]"},
      {"gpt2", "/model/merges/1", "[\"a\", \"日本\"]", kCorrupt, "'日本' is not in the vocabulary"},
      {"gpt2", "/model/merges/1", "\"Q Q\"", kCorrupt, "'QQ' is not in the vocabulary"},
      {"gpt2", "/model/continuing_subword_prefix", "\"##\"", kCorrupt, "'##'"},
      {"gpt2", "/model/dropout", "0.1", kUnsupported, "dropout"},
      {"gpt2", "/model/fuse_unk", "1", kCorrupt, "'fuse_unk' must be true or false"},
      {"gpt2", "/added_tokens", "{}", kCorrupt, "'added_tokens' must be an array"},
      {"gpt2", "/added_tokens/0", "3", kCorrupt, "added_tokens[0]"},
      {"gpt2", "/added_tokens/0/id", "\"0\"", kCorrupt, "'id' must be an integer"},
      {"gpt2", "/added_tokens/0/id", "-5", kCorrupt, "out of range"},
      {"gpt2", "/added_tokens/0/id", "9", kCorrupt, "has id 9, 0 was expected"},
      {"gpt2", "/added_tokens/0/content", "null", kCorrupt, "'content' is missing"},
      {"gpt2", "/added_tokens/0/special", "\"yes\"", kCorrupt, "'special' must be true or false"},
      {"llama3", "/added_tokens/1/id", "1000000", kCorrupt, "has id 1000000, 401 was expected"},
      {"llama3", "/added_tokens/1/content", "\"<|begin|>\"", kCorrupt, "both '<|begin|>'"},
      {"gpt2", "/normalizer", "{\"type\": \"BertNormalizer\"}", kUnsupported, "BertNormalizer"},
      {"gpt2", "/normalizer", "{\"type\": \"Precompiled\"}", kUnsupported, "Precompiled"},
      {"gpt2", "/normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Strip\"}]}",
       kUnsupported, "normalizer Strip"},
      {"gpt2", "/normalizer", "{\"type\": \"Prepend\"}", kCorrupt, "'prepend' is missing"},
      {"gpt2", "/normalizer", "{}", kCorrupt, "normalizer: 'type' is missing"},
      {"gpt2", "/pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}", kUnsupported, "BertPreTok"},
      {"gpt2", "/pre_tokenizer", "{\"type\": \"Sequence\"}", kCorrupt, "'pretokenizers' is miss"},
      {"gpt2", "/pre_tokenizer/pretokenizers/0", "null", kCorrupt, "a null step"},
      {"gpt2", "/pre_tokenizer/pretokenizers/0/individual_digits", "2", kCorrupt,
       "pre_tokenizer Digits: 'individual_digits'"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/pattern", "{\"Regex\": \"(a\"}", kCorrupt,
       "regular expression '(a'"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/pattern", "{\"Regex\": \"a(?R)\"}", kUnsupported,
       "this kind of group"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/pattern", "{\"String\": \"\"}", kUnsupported,
       "an empty 'pattern'"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/pattern", "{\"Glob\": \"*\"}", kCorrupt,
       "'pattern' must be"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/behavior", "\"Sideways\"", kCorrupt, "Sideways"},
      {"llama3", "/post_processor", "{\"type\": \"BertProcessing\"}", kUnsupported,
       "post_processor: type 'BertProcessing'"},
      {"llama3", "/post_processor/processors/1/single", "[]", kCorrupt, "lacks the sequence A"},
      {"llama3", "/post_processor/processors/1/special_tokens", "{}", kCorrupt,
       "'<|begin|>' is not among"},
      {"llama3", "/post_processor/processors/1/special_tokens/<|begin|>/ids", "[99999]", kCorrupt,
       "99999 is not an id"},
      {"gpt2", "/decoder", "null", kUnsupported, "decoder: null"},
      {"gpt2", "/decoder", "{\"type\": \"WordPiece\"}", kUnsupported, "decoder WordPiece"},
      {"spaces", "/decoder/decoders/3/start", "-1", kCorrupt, "decoder Strip"},
      {"spaces", "/decoder/decoders/3/content", "\"ab\"", kCorrupt, "must be one character"},
      {"gpt2", "/decoder",
       "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"often\"}", kCorrupt,
       "'often'"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.pointer) + " = " + c.value);
    Json spec = Tiny(c.base);
    spec[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    ExpectJsonError(spec.dump(), c.code, c.text);
  }
}

TEST(TokenizerJson, ConfigMustAgree) {
  const std::string& json = TinyText("llama3");
  ExpectJsonError(json, kCorrupt, "bos_token '<bos>' is not in", R"({"bos_token": "<bos>"})");
  ExpectJsonError(json, kCorrupt, "'bos_token' must be a string", R"({"bos_token": 1})");
  ExpectJsonError(json, kCorrupt, "'add_bos_token' must be", R"({"add_bos_token": "yes"})");
  ExpectJsonError(json, kCorrupt, "'x' is not an id",
                  R"({"added_tokens_decoder": {"x": {"content": "a"}}})");
  ExpectJsonError(json, kCorrupt, "has id 9999",
                  R"({"added_tokens_decoder": {"9999": {"content": "<new>"}}})");
  ExpectJsonError(TinyText("gpt2"), kCorrupt, "add_bos_token is true, but",
                  R"({"add_bos_token": true})");
}

TEST(TokenizerJson, ConfigSaysWhatIsAdded) {
  const Json spec = Tiny("llama3");
  const auto encode = [&](const std::string& config) {
    const TokenizerPtr tokenizer = MustParse(spec, config);
    const Result<Ids> ids = tokenizer->Encode("a", SpecialTokens::kModelDefault);
    EXPECT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->adds_bos(), ids->size() > 1 && ids->front() == tokenizer->bos_id());
    return *ids;
  };
  const Ids bare = *MustParse(spec)->Encode("a", SpecialTokens::kNone);
  ASSERT_EQ(bare.size(), 1u);
  const int32_t begin = MustParse(spec)->bos_id();
  const int32_t end = MustParse(spec)->eos_id();
  EXPECT_EQ(begin, 400);
  EXPECT_EQ(end, 401);
  EXPECT_EQ(encode(""), (Ids{begin, bare[0]}));
  EXPECT_EQ(encode(R"({"add_bos_token": null})"), (Ids{begin, bare[0]}));
  EXPECT_EQ(encode(R"({"add_bos_token": true})"), (Ids{begin, bare[0]}));
  EXPECT_EQ(encode(R"({"add_bos_token": false})"), (Ids{bare[0]}));
  EXPECT_EQ(encode(R"({"add_eos_token": true, "eos_token": {"content": "<|endoftext|>"}})"),
            (Ids{begin, bare[0], end}));
  // A token that only the config has.
  const TokenizerPtr more = MustParse(
      spec, R"({"added_tokens_decoder": {"405": {"content": "<new>", "special": true}}})");
  EXPECT_EQ(*more->Encode("a<new>", SpecialTokens::kNone), (Ids{bare[0], 405}));
  EXPECT_EQ(*more->Decode({bare[0], 405}), "a");
}

TEST(TokenizerJson, HolesInTheVocabulary) {
  Json spec = Tiny("gpt2");
  spec["model"]["vocab"]["<far>"] = 500;
  const TokenizerPtr tokenizer = MustParse(spec);
  EXPECT_EQ(tokenizer->vocab_size(), 501);
  EXPECT_EQ(tokenizer->TokenBytes(450), "");
  EXPECT_EQ(tokenizer->Decode({450}).status().code(), StatusCode::kInvalidArgument);
}

TEST(TokenizerJson, IdsOutOfRange) {
  const TokenizerPtr tokenizer = MustParse(Tiny("gpt2"));
  for (const int32_t id : {-1, tokenizer->vocab_size(), INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(tokenizer->Decode({id}).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    StreamingDetokenizer stream(tokenizer);
    EXPECT_EQ(stream.Push(id), "");
    EXPECT_EQ(stream.Flush(), "");
  }
}

TEST(TokenizerJson, InvalidUtf8IsRefusedWithItsPosition) {
  const TokenizerPtr tokenizer = MustParse(Tiny("gpt2"));
  for (const char* bad :
       {"ab\xff", "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xe2\x82", "ab\xf4\x90\x80\x80"}) {
    const Result<Ids> ids = tokenizer->Encode(bad, SpecialTokens::kNone);
    EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("byte 2"), std::string::npos) << ids.status().ToString();
  }
}

TEST(TokenizerJson, UnknownCharacterWithoutFallback) {
  Json spec = Tiny("spaces");
  spec["model"]["byte_fallback"] = false;
  spec["model"]["unk_token"] = nullptr;
  EXPECT_EQ(MustParse(spec)->Encode("\xE2\x98\x83", SpecialTokens::kNone).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(TokenizerJson, CatastrophicRegexEndsWithAnError) {
  Json spec = Tiny("gpt2");
  spec["pre_tokenizer"] = Json::parse(
      R"({"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": false})");
  const Result<Ids> ids =
      MustParse(spec)->Encode(std::string(5000, 'a') + "cb", SpecialTokens::kNone);
  EXPECT_EQ(ids.status().code(), StatusCode::kResourceLimit);
  EXPECT_NE(ids.status().message().find("pre_tokenizer Split"), std::string::npos);
}

// {"type": "Sequence", <list>: `count` times `step`}.
Json Repeat(const char* list, size_t count, const char* step) {
  return Json{{"type", "Sequence"}, {list, std::vector<Json>(count, Json::parse(step))}};
}

constexpr const char* kDoubleA =
    R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";

TEST(TokenizerJson, TemplateIdsAreBounded) {
  const auto spec = [](size_t pieces, size_t ids) {
    Json json = Tiny("llama3");
    json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing"})");
    std::vector<Json> single(pieces, Json::parse(R"({"SpecialToken": {"id": "x"}})"));
    single.push_back(Json::parse(R"({"Sequence": {"id": "A"}})"));
    json["post_processor"]["single"] = single;
    json["post_processor"]["special_tokens"]["x"]["ids"] = Ids(ids, 400);
    return json;
  };
  EXPECT_EQ(MustParse(spec(32, 32))->Encode("", SpecialTokens::kModelDefault)->size(), 1024u);
  ExpectJsonError(spec(5, 205).dump(), kCorrupt, "more than 1024 ids");
  // Templates add up.
  Json twice = spec(1, 513);
  twice["post_processor"] = Json{
      {"type", "Sequence"}, {"processors", {twice["post_processor"], twice["post_processor"]}}};
  ExpectJsonError(twice.dump(), kCorrupt, "more than 1024 ids");
}

TEST(TokenizerJson, GrowthByNormalizersIsBounded) {
  Json spec = Tiny("gpt2");
  spec["normalizer"] = Repeat("normalizers", 20, kDoubleA);
  const TokenizerPtr tokenizer = MustParse(spec);
  const Status status = tokenizer->Encode("a", SpecialTokens::kNone).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceLimit) << status.ToString();
  EXPECT_NE(status.message().find("normalizer Replace"), std::string::npos) << status.ToString();
  EXPECT_TRUE(tokenizer->Encode("b", SpecialTokens::kNone).ok());
  // At the limit.
  spec["normalizer"] = Repeat("normalizers", 12, kDoubleA);
  EXPECT_TRUE(MustParse(spec)->Encode("a", SpecialTokens::kNone).ok());
  // The parts between added tokens have one budget for all.
  std::string parts;
  for (int i = 0; i < 100; ++i)
    parts += "a<|endoftext|>";
  EXPECT_EQ(MustParse(spec)->Encode(parts, SpecialTokens::kNone).status().code(),
            StatusCode::kResourceLimit);

  const std::string prefix(1000, 'b');
  spec["normalizer"] =
      Repeat("normalizers", 5, (R"({"type": "Prepend", "prepend": ")" + prefix + "\"}").c_str());
  EXPECT_EQ(MustParse(spec)->Encode("a", SpecialTokens::kNone).status().code(),
            StatusCode::kResourceLimit);
}

TEST(TokenizerJson, GrowthOfAddedTokensIsBounded) {
  Json spec = Tiny("gpt2");
  spec["normalizer"] = Repeat("normalizers", 20, kDoubleA);
  spec["added_tokens"].push_back(
      {{"id", spec["model"]["vocab"].size()}, {"content", "<a>"}, {"normalized", true}});
  ExpectJsonError(spec.dump(), StatusCode::kResourceLimit, "normalizer Replace");
}

TEST(TokenizerJson, GrowthByPreTokenizersIsBounded) {
  Json spec = Tiny("gpt2");
  spec["pre_tokenizer"] =
      Repeat("pretokenizers", 20,
             R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})");
  const Status status = MustParse(spec)->Encode("\xC3\xB6", SpecialTokens::kNone).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceLimit) << status.ToString();
}

TEST(TokenizerJson, GrowthByDecodersIsBounded) {
  // Every token's bytes are computed at load.
  Json spec = Tiny("gpt2");
  spec["decoder"] = Repeat("decoders", 20, kDoubleA);
  ExpectJsonError(spec.dump(), StatusCode::kResourceLimit, "decoder Replace");
  // Together the tokens of a text have one budget too.
  const Result<std::unique_ptr<const Decoder>> decoder =
      ParseDecoder(Repeat("decoders", 4, kDoubleA));
  ASSERT_TRUE(decoder.ok()) << decoder.status().ToString();
  std::vector<std::string> tokens(4, "a");
  ASSERT_TRUE((*decoder)->Apply(Decoder::Scope::kText, 64, &tokens).ok());
  EXPECT_EQ(tokens, std::vector<std::string>(4, std::string(16, 'a')));
  tokens.assign(4, "a");
  EXPECT_EQ((*decoder)->Apply(Decoder::Scope::kText, 63, &tokens).code(),
            StatusCode::kResourceLimit);
}

TEST(TokenizerJson, ManyTokensOfTheConfigOnly) {
  // Comparing each with all before it would take 5e9 comparisons of strings.
  Json config;
  const int32_t first = MustParse(Tiny("gpt2"))->vocab_size();
  constexpr int32_t kCount = 100000;
  for (int32_t i = 0; i < kCount; ++i) {
    config["added_tokens_decoder"][std::to_string(first + i)]["content"] =
        "<extra_" + std::to_string(i) + ">";
  }
  const auto start = std::chrono::steady_clock::now();
  const TokenizerPtr tokenizer = MustParse(Tiny("gpt2"), config.dump());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(4));
  EXPECT_EQ(tokenizer->vocab_size(), first + kCount);
  EXPECT_EQ(*tokenizer->Encode("<extra_77777>", SpecialTokens::kNone), (Ids{first + 77777}));
}

TEST(TokenizerJson, AddedTokensNeedABoundedTrie) {
  Json config;
  const int32_t first = MustParse(Tiny("gpt2"))->vocab_size();
  for (int32_t i = 0; i < 5000; ++i) {
    config["added_tokens_decoder"][std::to_string(first + i)]["content"] =
        std::to_string(i) + std::string(1000, 'x');
  }
  ExpectJsonError(TinyText("gpt2"), StatusCode::kResourceLimit, "trie", config.dump());
}

TEST(TokenizerJson, CostOfJsonIsBounded) {
  std::string many = "[";
  for (int i = 0; i < 2'100'000; ++i)
    many += "[],";
  ExpectJsonError(many + "0]", StatusCode::kResourceLimit, "at most 4000000");
  // The message does not repeat the file.
  const Status status = ParseTokenizerJson("\"" + std::string(1 << 20, 'x'), "", "test").status();
  EXPECT_EQ(status.code(), kCorrupt);
  EXPECT_LT(status.message().size(), 400u);
}

TEST(ByteLevel, IllFormedTextIsNoStandIn) {
  // On the heap and filled, so that a read behind the end meets the sanitizer.
  for (const char* bad : {"\xC3", "abc\xC4", "\xE2\x82", "\xF0\x9F\x99", "\xC0\xA1",
                          "\xC4"
                          "a"}) {
    const std::vector<char> text(bad, bad + std::strlen(bad));
    std::string bytes;
    EXPECT_FALSE(ByteLevelToBytes({text.data(), text.size()}, &bytes)) << bad;
  }
  std::string bytes;
  EXPECT_TRUE(
      ByteLevelToBytes("\xC4\xA0"
                       "a",
                       &bytes));
  EXPECT_EQ(bytes, " a");
  // The first step leaves the start of a character, the next takes it literally.
  const auto decoder = ParseDecoder(Repeat("decoders", 2, R"({"type": "ByteLevel"})"));
  ASSERT_TRUE(decoder.ok());
  std::vector<std::string> tokens = {BytesToByteLevel("\xC3")};
  ASSERT_TRUE((*decoder)->Apply(Decoder::Scope::kText, 100, &tokens).ok());
  EXPECT_EQ(tokens, std::vector<std::string>{"\xC3"});
}

TEST(TokenizerJson, LongTextsOfOneKind) {
  // Runs that make a quadratic merge loop or a recursive matcher show.
  for (const char* name : {"gpt2", "llama3", "spaces"}) {
    const TokenizerPtr tokenizer = MustParse(Tiny(name));
    for (const char* unit : {" ", "a", "\n", "1", "!", "\xE6\x97\xA5", "ab "}) {
      std::string text;
      while (text.size() < 200000)
        text += unit;
      const Result<Ids> ids = tokenizer->Encode(text, SpecialTokens::kNone);
      ASSERT_TRUE(ids.ok()) << ids.status().ToString();
      const Result<std::string> decoded = tokenizer->Decode(*ids);
      ASSERT_TRUE(decoded.ok());
      EXPECT_TRUE(*decoded == text) << name << " '" << unit << "'";
    }
  }
}

TEST(TokenizerJson, BytesOfTokensMakeTheText) {
  const std::string text = "Hello, w\xC3\xB6rld \xF0\x9F\x99\x82!\n\n  12";
  for (const char* name : {"gpt2", "llama3", "spaces"}) {
    const TokenizerPtr tokenizer = MustParse(Tiny(name));
    const Ids ids = *tokenizer->Encode(text, SpecialTokens::kModelDefault);
    std::string bytes;
    for (const int32_t id : ids)
      bytes += tokenizer->TokenBytes(id);
    // In the middle of a text the first space counts.
    EXPECT_EQ(bytes, std::string(name) == "spaces" ? " " + text : text);
  }
}

TEST(Streaming, HoldsBackPartsOfCharacters) {
  const TokenizerPtr tokenizer = MustParse(Tiny("spaces"));
  const auto byte = [&](int value) {
    for (int32_t id = 0; id < 259; ++id) {
      if (tokenizer->TokenBytes(id) == std::string(1, static_cast<char>(value))) return id;
    }
    return -1;
  };
  StreamingDetokenizer stream(tokenizer);
  EXPECT_EQ(stream.Push(1), "");  // <s>
  EXPECT_EQ(stream.Push(byte(0xF0)), "");
  EXPECT_EQ(stream.Push(byte(0x9F)), "");
  EXPECT_EQ(stream.Push(byte(0x99)), "");
  EXPECT_EQ(stream.Push(byte(0x82)), "\xF0\x9F\x99\x82");
  EXPECT_EQ(stream.Push(byte(0xE2)), "");
  EXPECT_EQ(stream.Flush(), "\xE2");
  EXPECT_EQ(stream.Flush(), "");
  // A byte that no character can have comes out at once.
  EXPECT_EQ(stream.Push(byte(0xFF)), "\xEF\xBF\xBD");
  // As it is at the end, a replacement for each byte elsewhere.
  EXPECT_EQ(*tokenizer->Decode({byte(0xE2), byte(0x82)}), "\xE2\x82");
  const Ids a = *tokenizer->Encode("a", SpecialTokens::kNone);
  Ids broken = {byte(0xE2), byte(0x82)};
  broken.insert(broken.end(), a.begin(), a.end());
  EXPECT_EQ(*tokenizer->Decode(broken), "\xEF\xBF\xBD\xEF\xBF\xBD a");
}

TEST(Unicode, TakeCharactersReplacesMaximalParts) {
  // The example of Unicode 15, table 3-8.
  std::string bytes = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
  std::string out;
  TakeCharacters(&bytes, &out);
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(out, "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(bytes, "");
}

TEST(Regex, RefusesWhatPcreReadsDifferently) {
  for (const char* pattern :
       {"[a&&b]", "[a[b]]",  "[[:alpha:]]",  "\\h",    "\\p{Greek_And_Coptic}",
        "(?m:.)", "a(?i)b",  "\\p{N}{1,3}+", "(a)\\1", "\\xE9",
        "\\R",    "(?<n>a)", "(*FAIL)",      "[]a]",   "a{2}?",
        "[\\W]",  "\\pL",    "\\",           "\\u12",  "\\x{110000000}",
        "\\K"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), kUnsupported) << pattern;
  }
  for (const char* pattern : {"(", "[a", "a**b(", "*", "\\x{FFFFFF}"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), kCorrupt) << pattern;
  }
  EXPECT_EQ(Regex::Compile(std::string(1 << 17, 'a')).status().code(), kUnsupported);
}

TEST(Regex, Translates) {
  const auto translated = [](const char* pattern) { return *TranslateRegex(pattern); };
  EXPECT_EQ(translated("a{,3}b{2,}{x}"), "a{0,3}b{2,}\\{x}");
  EXPECT_EQ(translated("\\s[^\\S]\\u00e9"), "\\p{White_Space}[^\\P{White_Space}]\\x{00e9}");
  EXPECT_EQ(translated("\\P{^Han}\\p{^L}"), "\\p{sc:Han}\\P{L}");
}

// A message of the protocol buffers wire format.
class Wire {
 public:
  Wire& Varint(int field, uint64_t value) {
    Raw(static_cast<uint64_t>(field) << 3);
    return Raw(value);
  }
  Wire& Bytes(int field, std::string_view bytes) {
    Raw(static_cast<uint64_t>(field) << 3 | 2);
    Raw(bytes.size());
    out_ += bytes;
    return *this;
  }
  Wire& Float(int field, float value) {
    Raw(static_cast<uint64_t>(field) << 3 | 5);
    char bytes[4];
    std::memcpy(bytes, &value, 4);
    out_.append(bytes, 4);
    return *this;
  }
  const std::string& str() const { return out_; }

 private:
  Wire& Raw(uint64_t value) {
    for (; value >= 0x80; value >>= 7)
      out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
    return *this;
  }
  std::string out_;
};

std::string Piece(std::string_view text, int type = 1, float score = -1) {
  return Wire().Bytes(1, text).Float(2, score).Varint(3, static_cast<uint64_t>(type)).str();
}

// A sound BPE model of four pieces; `more` is appended to it.
std::string TinyModel(const std::string& more = "", int model_type = 2) {
  return Wire()
             .Bytes(1, Piece("<unk>", 2))
             .Bytes(1, Piece("<s>", 3))
             .Bytes(1, Piece("a"))
             .Bytes(1, Piece("\xE2\x96\x81"))
             .Bytes(2, Wire().Varint(3, static_cast<uint64_t>(model_type)).str())
             .str() +
         more;
}

TEST(SentencePiece, HandMadeModel) {
  const Result<TokenizerPtr> tokenizer = ParseSentencePiece(TinyModel(), "", "test");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ(*(*tokenizer)->Encode("a a", SpecialTokens::kModelDefault), (Ids{1, 3, 2, 3, 2}));
  EXPECT_EQ(*(*tokenizer)->Encode("<s>a", SpecialTokens::kNone), (Ids{1, 3, 2}));
  EXPECT_EQ(*(*tokenizer)->Decode({1, 3, 2, 3, 2}), "a a");
  EXPECT_EQ((*tokenizer)->Decode({4}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE((*tokenizer)->Encode("a\xff", SpecialTokens::kNone).ok());
  const Result<TokenizerPtr> no_bos =
      ParseSentencePiece(TinyModel(), R"({"add_bos_token": false})", "test");
  ASSERT_TRUE(no_bos.ok());
  EXPECT_FALSE((*no_bos)->adds_bos());
  EXPECT_EQ(*(*no_bos)->Encode("a", SpecialTokens::kModelDefault), (Ids{3, 2}));
  const Result<TokenizerPtr> more = ParseSentencePiece(
      TinyModel(), R"({"added_tokens_decoder": {"4": {"content": "<x>", "special": true}}})",
      "test");
  ASSERT_TRUE(more.ok());
  EXPECT_EQ(*(*more)->Encode("a<x>", SpecialTokens::kNone), (Ids{3, 2, 4}));
}

// A double array whose root has no children and that has `rule` ending there.
std::string CharsMap(uint32_t root, const std::string& replacements) {
  std::string units(256 * 4, '\0');
  for (size_t i = 0; i < 256; ++i)
    units[4 * i] = static_cast<char>(i ^ 1);  // no label fits
  std::memcpy(units.data(), &root, 4);
  const uint32_t size = static_cast<uint32_t>(units.size());
  std::string blob(4, '\0');
  std::memcpy(blob.data(), &size, 4);
  return blob + units + replacements;
}

TEST(SentencePiece, RefusesUnsoundModels) {
  struct Case {
    std::string bytes;
    StatusCode code;
    const char* text;
  };
  const auto normalizer = [](const std::string& charsmap) {
    return TinyModel(Wire().Bytes(3, Wire().Bytes(2, charsmap).str()).str());
  };
  std::string nested;
  for (size_t n = 1; n <= 70; ++n)
    nested += Wire().Bytes(1, Piece(std::string(n, 'x'), 4)).str();
  const Case cases[] = {
      {"", kCorrupt, "no pieces"},
      {"\x0a", kCorrupt, "broken protocol buffer"},
      {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", kCorrupt, "broken protocol buffer"},
      {TinyModel("\x0b"), kCorrupt, "broken protocol buffer"},  // a group
      {TinyModel().substr(0, 20), kCorrupt, "broken protocol buffer"},
      {TinyModel(Wire().Varint(1, 3).str()), kCorrupt, "type 0"},
      {TinyModel(Wire().Bytes(1, Piece("")).str()), kCorrupt, "piece 4: it is empty"},
      {TinyModel(Wire().Bytes(1, Piece("a")).str()), kCorrupt, "a is already defined"},
      {TinyModel(Wire().Bytes(1, Piece("\xff")).str()), kCorrupt, "piece 4: it is not UTF-8"},
      {TinyModel(Wire().Bytes(1, Piece(std::string("x\0y", 3))).str()), kCorrupt, "NUL"},
      {TinyModel(Wire().Bytes(1, Piece(std::string(5000, 'x'))).str()), kCorrupt, "5000 bytes"},
      {TinyModel(Wire().Bytes(1, Piece("x", 1, NAN)).str()), kCorrupt, "score"},
      {TinyModel(Wire().Bytes(1, Piece("x", 9)).str()), kCorrupt, "its type is 9"},
      {TinyModel(Wire().Bytes(1, Piece("<0x41>", 6)).str()), kCorrupt, "byte"},
      {TinyModel(Wire().Bytes(1, Piece("x", 2)).str()), kCorrupt, "unk is already defined"},
      {Wire().Bytes(1, Piece("a")).Bytes(2, Wire().Varint(3, 2).str()).str(), kCorrupt,
       "unk is not"},
      {TinyModel(nested), kUnsupported, "user-defined symbols"},
      {TinyModel("", 3), kUnsupported, "words"},
      {TinyModel("", 4), kUnsupported, "characters"},
      {TinyModel("", 9), kCorrupt, "unknown model_type 9"},
      {TinyModel(Wire().Bytes(2, Wire().Varint(24, 1).str()).str()), kUnsupported, "suffix"},
      {TinyModel(Wire().Bytes(5, Wire().Bytes(2, "x").str()).str()), kUnsupported, "denormalizer"},
      {normalizer("abc"), kCorrupt, "3 bytes"},
      {normalizer("\xff\xff\xff\x7f 12345"), kCorrupt, "a trie of"},
      {normalizer(CharsMap(0, "")), kCorrupt, "final NUL"},
      {normalizer(CharsMap(0, "x")), kCorrupt, "final NUL"},
      {normalizer(CharsMap(0, std::string("\xff\0", 2))), kCorrupt, "not UTF-8"},
      {normalizer(CharsMap(1 << 20, std::string("x\0", 2))), kCorrupt, "points outside"},
      {normalizer(CharsMap(1 << 8, std::string("x\0", 2))), kCorrupt, "no replacement"},
      {"IQ== 0\nIg== 1\n", kUnsupported, "tiktoken"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    ExpectError(ParseSentencePiece(c.bytes, "", "test").status(), c.code, c.text);
  }
}

TEST(SentencePiece, EveryTruncationAndFlipIsHandled) {
  const std::string model = MustRead(SourcePath("tests/golden/sentencepiece-tiny-unigram.model"));
  ASSERT_FALSE(model.empty());
  ASSERT_TRUE(ParseSentencePiece(model, "", "test").ok());
  for (size_t i = 0; i < model.size(); i += 41) {
    // A cut between two fields can leave a sound, smaller model.
    static_cast<void>(ParseSentencePiece(std::string_view(model).substr(0, i), "", "test").ok());
    std::string flipped = model;
    flipped[i] = static_cast<char>(flipped[i] ^ 0xFF);
    const Result<TokenizerPtr> tokenizer = ParseSentencePiece(flipped, "", "test");
    if (!tokenizer.ok()) continue;
    const Result<Ids> ids =
        (*tokenizer)->Encode("Hello e\xCC\x81\xEF\xAC\x81 1", SpecialTokens::kNone);
    if (!ids.ok()) continue;
    EXPECT_TRUE((*tokenizer)->Decode(*ids).ok());
  }
}

TEST(LoadTokenizer, FindsTheFiles) {
  const TempDir dir;
  EXPECT_EQ(LoadTokenizer(dir.path()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(LoadTokenizer(dir.path() + "/nowhere").status().code(), StatusCode::kNotFound);
  Write(dir.File("tokenizer.model"),
        MustRead(SourcePath("tests/golden/sentencepiece-tiny-unigram.model")));
  Result<TokenizerPtr> tokenizer = LoadTokenizer(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->kind(), "sentencepiece-unigram");
  // tokenizer.json goes first.
  Write(dir.File("tokenizer.json"), TinyText("llama3"));
  Write(dir.File("tokenizer_config.json"), R"({"add_bos_token": false})");
  tokenizer = LoadTokenizer(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->kind(), "bpe-byte-level");
  EXPECT_FALSE((*tokenizer)->adds_bos());
  Write(dir.File("tokenizer.json"), "{");
  const Status status = LoadTokenizer(dir.path()).status();
  EXPECT_EQ(status.code(), kCorrupt);
  EXPECT_NE(status.message().find(dir.File("tokenizer.json")), std::string::npos);
}

TEST(LoadTokenizer, TiktokenVocabularyIsNamed) {
  const std::string dir = SharedPath("golden/llama3-tokenizer");
  HARROW_SKIP_WITHOUT(dir);
  const Status status = LoadTokenizer(dir).status();
  EXPECT_EQ(status.code(), kUnsupported);
  EXPECT_NE(status.message().find("tiktoken"), std::string::npos) << status.ToString();
}

TEST(LoadTokenizer, RealDirectory) {
  const std::string dir = SharedPath("models/TinyStories-656K");
  HARROW_SKIP_WITHOUT(dir);
  const Result<TokenizerPtr> tokenizer = LoadTokenizer(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->vocab_size(), 2048);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_TRUE((*tokenizer)->adds_bos());
  EXPECT_EQ((*tokenizer)->kind(), "bpe-byte-fallback");
}

}  // namespace
}  // namespace harrow
