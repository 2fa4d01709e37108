#include "checkpoint/safetensors.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <xxhash.h>
#include <nlohmann/json.hpp>

#include "checkpoint/testing.h"

namespace harrow {
namespace {

using testing::Bytes;
using testing::ExpectError;
using testing::ReadBytes;
using testing::SafetensorsBytes;
using testing::TempDir;
using testing::WriteBytes;

// Two tensors: a = U8 [4] at 0, b = F32 [2] at 4.
constexpr std::string_view kTwo =
    R"({"__metadata__":{"k":"v"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
constexpr std::string_view kTwoData("ABCD\0\0\x80\x3f\0\0\0\x40", 12);

TEST(SafetensorsHeader, ReadsEntriesByName) {
  const std::string file = SafetensorsBytes(kTwo, kTwoData);
  const auto header = ParseSafetensorsHeader(Bytes(file), "f");
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  ASSERT_EQ(header->entries.size(), 2u);
  EXPECT_EQ(header->entries[0].name, "a");
  EXPECT_EQ(header->entries[0].dtype, DType::kU8);
  EXPECT_EQ(header->entries[1].name, "b");
  EXPECT_EQ(header->entries[1].shape, (Shape{2}));
  EXPECT_EQ(header->entries[1].begin, 4u);
  EXPECT_EQ(header->metadata.at("k"), "v");
  EXPECT_EQ(header->data_offset, 8 + kTwo.size());
}

TEST(SafetensorsHeader, AcceptsNoTensorsScalarsEmptyTensorsAndPadding) {
  EXPECT_TRUE(ParseSafetensorsHeader(Bytes(SafetensorsBytes("{}", "")), "f").ok());
  const std::string file =
      SafetensorsBytes(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                       R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                       R"("z":{"dtype":"I8","shape":[0],"data_offsets":[4,4]}}      )",
                       "1234");
  const auto header = ParseSafetensorsHeader(Bytes(file), "f");
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  EXPECT_EQ(header->entries.size(), 3u);
}

struct CorruptCase {
  const char* what;
  std::string header;
  size_t data_bytes;
  StatusCode code;
  std::vector<std::string> fragments;
};

std::string Entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

std::string One(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return R"({"w.x":)" + Entry(dtype, shape, offsets) + "}";
}

TEST(SafetensorsHeader, CorruptHeadersAreNamed) {
  const auto kCorrupt = StatusCode::kCorruption;
  const std::string u8 = Entry("U8", "[4]", "[0,4]");
  const CorruptCase kCases[] = {
      {"empty header", "", 0, kCorrupt, {"begin with '{'"}},
      {"not JSON", "{\"w.x\":", 4, kCorrupt, {"not valid JSON"}},
      {"array", "[1]", 4, kCorrupt, {"begin with '{'"}},
      {"leading space", " {}", 0, kCorrupt, {"begin with '{'"}},
      {"trailing text", "{} {}", 0, kCorrupt, {"not valid JSON"}},
      {"invalid UTF-8", "{\"\xff\":1}", 0, kCorrupt, {"not valid JSON"}},
      {"NUL padding", std::string("{}\0\0", 4), 0, kCorrupt, {"NUL byte"}},
      {"number for tensor", R"({"w.x":1})", 0, kCorrupt, {"w.x", "a number"}},
      {"null for tensor", R"({"w.x":null})", 0, kCorrupt, {"w.x", "null"}},
      {"array for tensor", R"({"w.x":[]})", 0, kCorrupt, {"w.x", "an array"}},
      {"bad dtype", One("F33", "[1]", "[0,4]"), 4, StatusCode::kUnsupported, {"w.x", "F33"}},
      {"dtype number",
       R"({"w.x":{"dtype":1,"shape":[4],"data_offsets":[0,4]}})",
       4,
       kCorrupt,
       {"w.x", "dtype"}},
      {"negative dim", One("U8", "[-4]", "[0,4]"), 4, kCorrupt, {"w.x", "-4", "shape"}},
      {"fractional dim", One("U8", "[4.0]", "[0,4]"), 4, kCorrupt, {"w.x", "fraction"}},
      {"dim beyond int64", One("U8", "[9223372036854775808]", "[0,4]"), 4, kCorrupt, {"w.x"}},
      {"overflowing product",
       One("F32", "[4294967296,4294967296]", "[0,4]"),
       4,
       kCorrupt,
       {"w.x", "overflow"}},
      {"product wraps to size",
       One("U8", "[4,4611686018427387905]", "[0,4]"),
       4,
       kCorrupt,
       {"w.x", "overflow"}},
      {"bytes overflow",
       One("F64", "[2305843009213693952]", "[0,4]"),
       4,
       kCorrupt,
       {"w.x", "overflow"}},
      {"nine dims",
       One("U8", "[1,1,1,1,1,1,1,1,4]", "[0,4]"),
       4,
       kCorrupt,
       {"w.x", "8 dimensions"}},
      {"nested shape", One("U8", "[[4]]", "[0,4]"), 4, kCorrupt, {"w.x", "shape"}},
      {"size mismatch", One("F32", "[2]", "[0,4]"), 4, kCorrupt, {"w.x", "needs 8 bytes"}},
      {"end before begin", One("U8", "[4]", "[4,0]"), 4, kCorrupt, {"w.x", "[4, 0]"}},
      {"end past the data", One("U8", "[5]", "[0,5]"), 4, kCorrupt, {"w.x", "[0, 5]"}},
      {"offsets wrap",
       One("U8", "[4]", "[18446744073709551612,18446744073709551615]"),
       4,
       kCorrupt,
       {"w.x"}},
      {"offset beyond 64 bits",
       One("U8", "[4]", "[0,18446744073709551616]"),
       4,
       kCorrupt,
       {"w.x", "fraction"}},
      {"one offset", One("U8", "[4]", "[0]"), 4, kCorrupt, {"w.x", "two numbers"}},
      {"three offsets", One("U8", "[4]", "[0,4,4]"), 4, kCorrupt, {"w.x", "data_offsets"}},
      {"negative offset", One("U8", "[4]", "[-1,4]"), 4, kCorrupt, {"w.x", "-1"}},
      {"no shape",
       R"({"w.x":{"dtype":"U8","data_offsets":[0,4]}})",
       4,
       kCorrupt,
       {"w.x", "missing"}},
      {"unknown field", R"({"w.x":{"dtype":"U8","stride":[4]}})", 4, kCorrupt, {"w.x", "field"}},
      {"field twice", R"({"w.x":{"dtype":"U8","dtype":"U8"}})", 4, kCorrupt, {"w.x", "twice"}},
      {"tensor twice", R"({"w.x":)" + u8 + R"(,"w.x":)" + u8 + "}", 4, kCorrupt, {"w.x", "twice"}},
      {"overlap",
       R"({"a":)" + u8 + R"(,"w.x":)" + Entry("U8", "[4]", "[2,6]") + "}",
       6,
       kCorrupt,
       {"w.x", "inside another"}},
      {"same range twice",
       R"({"a":)" + u8 + R"(,"w.x":)" + u8 + "}",
       4,
       kCorrupt,
       {"inside another"}},
      {"hole at the front", One("U8", "[4]", "[1,5]"), 5, kCorrupt, {"w.x", "hole"}},
      {"hole between",
       R"({"a":)" + u8 + R"(,"w.x":)" + Entry("U8", "[1]", "[5,6]") + "}",
       6,
       kCorrupt,
       {"w.x", "hole"}},
      {"bytes after the last", One("U8", "[4]", "[0,4]"), 5, kCorrupt, {"take 4 bytes", "5"}},
      {"metadata number", R"({"__metadata__":{"a":1}})", 0, kCorrupt, {"__metadata__"}},
      {"metadata array", R"({"__metadata__":[]})", 0, kCorrupt, {"__metadata__"}},
      {"metadata twice",
       R"({"__metadata__":{},"__metadata__":{}})",
       0,
       kCorrupt,
       {"__metadata__ appears twice"}},
      {"metadata key twice",
       R"({"__metadata__":{"a":"1","a":"2"}})",
       0,
       kCorrupt,
       {"__metadata__", "twice"}},
      {"control character", "{\"a\\u001bb\":" + u8 + "}", 4, kCorrupt, {"control characters"}},
      {"long name", "{\"" + std::string(2000, 'n') + "\":" + u8 + "}", 4, kCorrupt, {"1024"}},
      {"deep nesting", "{\"w.x\":" + std::string(100000, '['), 0, kCorrupt, {"w.x"}},
  };
  for (const CorruptCase& c : kCases) {
    SCOPED_TRACE(c.what);
    const std::string file = SafetensorsBytes(c.header, std::string(c.data_bytes, 'x'));
    const Status status = ParseSafetensorsHeader(Bytes(file), "dir/f.safetensors").status();
    ExpectError(status, c.code, {"dir/f.safetensors: "});
    for (const std::string& fragment : c.fragments)
      ExpectError(status, c.code, {fragment});
  }
}

TEST(SafetensorsHeader, LengthIsCheckedBeforeUse) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'000}}) {  // longer than the file
    std::string file = SafetensorsBytes("{}", "");
    std::memcpy(file.data(), &length, sizeof(length));
    ExpectError(ParseSafetensorsHeader(Bytes(file), "f").status(), StatusCode::kCorruption,
                {"f: ", "exceeds the file (10 bytes)"});
  }
  for (const uint64_t length : {uint64_t{100'000'001}, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string file = SafetensorsBytes("{}", "");
    std::memcpy(file.data(), &length, sizeof(length));
    ExpectError(ParseSafetensorsHeader(Bytes(file), "f").status(), StatusCode::kCorruption,
                {"f: ", "header length", "at most"});
  }
}

// What a reader sees: name, dtype, shape and bytes of each tensor.
std::string Content(std::string_view file, const SafetensorsHeader& header) {
  std::string all;
  for (const SafetensorsEntry& e : header.entries) {
    all += fmt::format("{} {} {}\n", e.name, DTypeName(e.dtype), ShapeToString(e.shape));
    all += file.substr(header.data_offset + e.begin, e.end - e.begin);
  }
  return all;
}

TEST(SafetensorsHeader, EveryTruncationIsAnError) {
  const std::string file = SafetensorsBytes(kTwo, kTwoData);
  for (size_t size = 0; size < file.size(); ++size) {
    const Status status =
        ParseSafetensorsHeader(Bytes(std::string_view(file).substr(0, size)), "f").status();
    EXPECT_EQ(status.code(), StatusCode::kCorruption) << size;
  }
}

// A flipped bit is noticed, or it hit a name or the metadata: nothing else may read differently.
TEST(SafetensorsHeader, EveryBitFlipIsAnErrorOrHarmless) {
  const std::string file = SafetensorsBytes(kTwo, kTwoData);
  const auto whole = ParseSafetensorsHeader(Bytes(file), "f");
  ASSERT_TRUE(whole.ok());
  const std::string content = Content(file, *whole);
  int errors = 0;
  for (size_t bit = 0; bit < 8 * (file.size() - kTwoData.size()); ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    auto header = ParseSafetensorsHeader(Bytes(flipped), "f");
    if (!header.ok()) {
      ++errors;
      continue;
    }
    ASSERT_LE(header->entries.size(), 2u);
    if (header->entries.size() == 1) ADD_FAILURE() << "lost a tensor at bit " << bit;
    // Undo a renaming before comparing.
    for (SafetensorsEntry& e : header->entries)
      e.name = std::string(1, e.dtype == DType::kU8 ? 'a' : 'b');
    if (header->entries[0].name == "b") std::swap(header->entries[0], header->entries[1]);
    EXPECT_EQ(Content(flipped, *header), content) << "bit " << bit;
  }
  EXPECT_GT(errors, 700);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  TempDir dir;
  const std::string path = dir.File("m.safetensors");
  const std::string big(128, 'q');
  {
    auto writer = SafetensorsWriter::Create(
        path,
        {{"big", DType::kU8, {128}}, {"\"odd\" \xc3\xa9", DType::kU8, {3}}, {"s", DType::kF32, {}}},
        {{"format", "pt"}});
    ASSERT_TRUE(writer.ok()) << writer.status().ToString();
    ASSERT_TRUE(writer->Append(Bytes(big)).ok());
    ASSERT_TRUE(writer->Append(Bytes("xyz")).ok());
    ExpectError(writer->Append(Bytes("too long")), StatusCode::kInvalidArgument, {"tensor s", "8"});
    ASSERT_TRUE(writer->Append(Bytes("1234")).ok());
    EXPECT_FALSE(writer->Append(Bytes("more")).ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE(writer->Finish().ok());
  }
  const auto source = OpenSafetensors(path);
  ASSERT_TRUE(source.ok()) << source.status().ToString();
  EXPECT_EQ((*source)->names(), (std::vector<std::string>{"\"odd\" \xc3\xa9", "big", "s"}));
  EXPECT_EQ((*source)->file_bytes(), std::filesystem::file_size(path));
  const auto view = (*source)->Find("big");
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 64, 0u);
  EXPECT_EQ(std::memcmp(view->data, big.data(), big.size()), 0);
  (*source)->DropResident(*view);
  EXPECT_EQ(std::memcmp(view->data, big.data(), big.size()), 0);
  EXPECT_EQ((*source)->Find("s")->shape, Shape{});
  ExpectError((*source)->Find("t").status(), StatusCode::kNotFound, {"m.safetensors", "tensor t"});
  const std::string raw = ReadBytes(path);
  uint64_t length;
  std::memcpy(&length, raw.data(), 8);
  EXPECT_EQ((8 + length) % 64, 0u);
}

TEST(SafetensorsWriter, ViewsOutliveTheSource) {
  TempDir dir;
  WriteBytes(dir.File("f.safetensors"), SafetensorsBytes(kTwo, kTwoData));
  TensorView view;
  {
    const auto source = OpenSafetensors(dir.File("f.safetensors"));
    ASSERT_TRUE(source.ok());
    view = *(*source)->Find("a");
  }
  EXPECT_EQ(std::memcmp(view.data, "ABCD", 4), 0);
}

TEST(SafetensorsWriter, RefusesBadPlansAndLeavesNothingUnfinished) {
  TempDir dir;
  const std::string path = dir.File("m.safetensors");
  const auto create = [&](const std::vector<SafetensorsWriter::Planned>& planned) {
    return SafetensorsWriter::Create(path, planned, {}).status();
  };
  const auto kInvalid = StatusCode::kInvalidArgument;
  ExpectError(create({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), kInvalid, {"\"a\""});
  ExpectError(create({{"", DType::kU8, {1}}}), kInvalid, {"empty"});
  ExpectError(create({{"__metadata__", DType::kU8, {1}}}), kInvalid, {"__metadata__"});
  ExpectError(create({{"n", DType::kU8, {-1}}}), kInvalid, {"tensor n", "[-1]"});
  ExpectError(create({{"\xff", DType::kU8, {1}}}), kInvalid, {"UTF-8"});
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kU8, {1}}}, {});
    ASSERT_TRUE(writer.ok());
    ExpectError(writer->Finish(), kInvalid, {"tensor a", "not written"});
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

class SafetensorsDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteBytes(dir_.File("one.safetensors"), SafetensorsBytes(kTwo, kTwoData));
    WriteBytes(dir_.File("two.safetensors"),
               SafetensorsBytes(R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "Z"));
  }
  Status OpenWithIndex(std::string_view index) {
    WriteBytes(dir_.File("model.safetensors.index.json"), index);
    return OpenSafetensors(dir_.path()).status();
  }
  TempDir dir_;
};

TEST_F(SafetensorsDirectory, JoinsShards) {
  ASSERT_TRUE(OpenWithIndex(R"({"metadata":{"total_size":13},"weight_map":{"c":"two.safetensors",)"
                            R"("a":"one.safetensors"}})")
                  .ok());
  const auto source = OpenSafetensors(dir_.path());
  EXPECT_EQ((*source)->names(), (std::vector<std::string>{"a", "c"}));  // b is not in the map
  EXPECT_EQ(static_cast<char>(*(*source)->Find("c")->data), 'Z');
  EXPECT_EQ(static_cast<char>(*(*source)->Find("a")->data), 'A');
  ExpectError((*source)->Find("b").status(), StatusCode::kNotFound, {dir_.path(), "tensor b"});
}

TEST_F(SafetensorsDirectory, CorruptIndexesAreNamed) {
  const auto kCorrupt = StatusCode::kCorruption;
  constexpr std::string_view kIndex = "model.safetensors.index.json";
  ExpectError(OpenWithIndex(""), kCorrupt, {kIndex, "not valid JSON"});
  ExpectError(OpenWithIndex("[]"), kCorrupt, {kIndex, "expected an object"});
  ExpectError(OpenWithIndex("{}"), kCorrupt, {kIndex, "weight_map"});
  ExpectError(OpenWithIndex(R"({"weight_map":[]})"), kCorrupt, {kIndex, "weight_map"});
  ExpectError(OpenWithIndex(R"({"weight_map":{"a":1}})"), kCorrupt, {kIndex, "tensor a"});
  ExpectError(OpenWithIndex(R"({"weight_map":{"d":"two.safetensors"}})"), kCorrupt,
              {kIndex, "tensor d", "two.safetensors"});
  ExpectError(OpenWithIndex(R"({"weight_map":{"c":"gone.safetensors"}})"), StatusCode::kNotFound,
              {kIndex, "tensor c", "gone.safetensors"});
  ExpectError(OpenWithIndex("{\"weight_map\":{\"a\\u001b[2J\":1}}"), kCorrupt,
              {kIndex, "\"a\\u001b[2J\""});  // nothing that a terminal would obey
  for (const char* shard : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", "",
                            ".", "a\\\\b", "one.safetensors\\u0000"}) {
    SCOPED_TRACE(shard);
    ExpectError(OpenWithIndex(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", shard)), kCorrupt,
                {kIndex, "tensor a", "plain file name"});
  }
  ExpectError(
      OpenWithIndex("{\"weight_map\":" + std::string(100000, '[') + std::string(100000, ']') + "}"),
      kCorrupt, {kIndex, "nested deeper"});
  WriteBytes(dir_.File("two.safetensors"), "short");
  ExpectError(OpenWithIndex(R"({"weight_map":{"c":"two.safetensors"}})"), kCorrupt,
              {"two.safetensors: 5 bytes"});
}

TEST_F(SafetensorsDirectory, MissingFilesAreNamed) {
  ExpectError(OpenSafetensors(dir_.path()).status(), StatusCode::kNotFound,
              {dir_.path(), "model.safetensors"});
  ExpectError(OpenSafetensors(dir_.File("no")).status(), StatusCode::kNotFound, {"/no"});
}

TEST(Safetensors, ReadsARealModelAsTheReferenceDoes) {
  const std::string model = testing::SharedPath("models/TinyStories-656K");
  HARROW_SKIP_WITHOUT(model);
  std::ifstream file(testing::SourcePath("tests/golden/checkpoint.json"));
  const nlohmann::json golden = nlohmann::json::parse(file)["TinyStories-656K"];
  const auto source = OpenSafetensors(model);
  ASSERT_TRUE(source.ok()) << source.status().ToString();
  EXPECT_EQ((*source)->names().size(), golden.size());
  for (const auto& [name, expected] : golden.items()) {
    const auto view = (*source)->Find(name);
    ASSERT_TRUE(view.ok()) << view.status().ToString();
    EXPECT_EQ(view->dtype, DType::kF32);
    EXPECT_EQ(view->shape, expected["shape"].get<Shape>());
    EXPECT_EQ(fmt::format("{:016x}", XXH3_64bits(view->data, view->bytes())), expected["xxh3"]);
  }
}

}  // namespace
}  // namespace harrow
