#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"

namespace harrow {
namespace {

using testing::ConfigText;
using testing::ExpectError;
using testing::FloatTensor;
using testing::PatchByte;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;

constexpr int64_t kRows = 40, kCols = 96;

// Values that bf16 holds exactly, half of them zero, 2 of 4 kept.
std::vector<float> SparseValues() {
  Rng rng(11);
  std::vector<float> w(kRows * kCols);
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = i % 4 < 2 ? static_cast<float>(rng.Below(255)) - 127.5f : 0.0f;
  return w;
}

// A model directory with a plain weight, one packed weight of each kind, and a norm.
class CheckpointDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = dir_.File("model");
    auto writer = CheckpointWriter::Create(directory_, {});
    ASSERT_TRUE(writer.ok()) << writer.status().ToString();
    const auto config = ParseHfConfig(ConfigText(), "config.json");
    ASSERT_TRUE((*writer)->BeginShard("all").ok());
    ASSERT_TRUE((*writer)->AddTensor("norm", FloatTensor({3}, {1, 2, 3})).ok());
    ASSERT_TRUE((*writer)->AddTensor("plain", FloatTensor({kRows, kCols}, values_)).ok());
    for (const char* spec : kSpecs) {
      const auto weight = PackWeight(*ParseSpec(spec), kRows, kCols, values_.data());
      ASSERT_TRUE(weight.ok()) << weight.status().ToString();
      const Status status = (*writer)->AddLinear(spec, *weight);
      ASSERT_TRUE(status.ok()) << status.ToString();
    }
    ASSERT_TRUE((*writer)->EndShard().ok());
    const Status status = (*writer)->Finish(*config, R"({"from": "test"})", "bfloat16");
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  static constexpr const char* kSpecs[] = {"bitmask-bf16", "bitmask-i8/32", "dense-i8/32",
                                           "dense-bf16",   "nm-bf16 2:4",   "bitmask-i4/32",
                                           "dense-u4/64"};
  const std::vector<float> values_ = SparseValues();
  TempDir dir_;
  std::string directory_;
};

std::vector<float> Unpack(const LinearWeight& weight) {
  std::vector<float> w(static_cast<size_t>(weight.rows * weight.cols));
  UnpackRows(weight, 0, weight.rows, w.data());
  return w;
}

TEST_F(CheckpointDirectory, ReadsBackEveryForm) {
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ((*checkpoint)->config().packed.size(),
            std::size(kSpecs) - 1);  // dense-bf16 is a plain tensor
  EXPECT_EQ((*checkpoint)->config().packed.at("bitmask-bf16").nonzeros, kRows * kCols / 2);
  EXPECT_EQ((*checkpoint)->config().torch_dtype, "bfloat16");
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const auto weight = (*checkpoint)->Linear(spec, kRows, kCols);
    ASSERT_TRUE(weight.ok()) << weight.status().ToString();
    EXPECT_EQ(weight->spec, *ParseSpec(spec));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weight->data.data()) % 64, 0u);
    const auto packed = PackWeight(*ParseSpec(spec), kRows, kCols, values_.data());
    EXPECT_EQ(Unpack(*weight), Unpack(*packed));
    if (weight->spec.values == ValueType::kBf16) {
      EXPECT_EQ(Unpack(*weight), values_);
    }
  }
  const auto plain = (*checkpoint)->Linear("plain", kRows, kCols);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->spec.values, ValueType::kF32);
  EXPECT_EQ(Unpack(*plain), values_);
  EXPECT_EQ(*(*checkpoint)->Float32("norm", {3}), (std::vector<float>{1, 2, 3}));
}

TEST_F(CheckpointDirectory, LinearIsAViewOfTheFile) {
  const auto checkpoint = Checkpoint::Open(directory_);
  for (const char* spec : kSpecs) {
    const std::string name = (*checkpoint)->tensors().Contains(spec)
                                 ? std::string(spec)
                                 : std::string(spec) + std::string(kPackedSuffix);
    const auto weight = (*checkpoint)->Linear(spec, kRows, kCols);
    ASSERT_TRUE(weight.ok());
    EXPECT_EQ(weight->data.data(), (*checkpoint)->tensors().Find(name)->data) << spec;
  }
}

// For ThreadSanitizer: loading from several threads shares nothing that changes.
TEST_F(CheckpointDirectory, LoadsFromSeveralThreads) {
  const auto checkpoint = Checkpoint::Open(directory_);
  std::atomic<int> loaded{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (const char* spec : kSpecs)
        loaded += (*checkpoint)->Linear(spec, kRows, kCols).ok();
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_EQ(loaded, 2 * static_cast<int>(std::size(kSpecs)));
}

TEST_F(CheckpointDirectory, WrongRequestsAreNamed) {
  const auto checkpoint = Checkpoint::Open(directory_);
  const auto kCorrupt = StatusCode::kCorruption;
  ExpectError((*checkpoint)->Linear("gone", 1, 1).status(), StatusCode::kNotFound,
              {directory_, "tensor gone"});
  ExpectError((*checkpoint)->Linear("plain", kRows, kCols + 1).status(), kCorrupt,
              {directory_, "tensor plain", "[40, 96]", "[40, 97]"});
  ExpectError((*checkpoint)->Linear("bitmask-bf16", kCols, kRows).status(), kCorrupt,
              {directory_, "weight bitmask-bf16", "[40, 96]", "[96, 40]"});
  ExpectError((*checkpoint)->Linear("norm", 3, 1).status(), kCorrupt, {"tensor norm", "[3]"});
  ExpectError((*checkpoint)->Float32("norm", {4}).status(), kCorrupt, {"tensor norm", "[4]"});
  ExpectError((*checkpoint)->Float32("gone", {4}).status(), StatusCode::kNotFound, {"tensor gone"});
  ExpectError((*checkpoint)
                  ->Float32("bitmask-bf16.packed",
                            (*checkpoint)->tensors().Find("bitmask-bf16.packed")->shape)
                  .status(),
              StatusCode::kUnsupported, {"bitmask-bf16.packed", "U8"});
}

TEST_F(CheckpointDirectory, ConfigAndTensorsMustAgree) {
  const std::string path = directory_ + "/config.json";
  const std::string text = ReadBytes(path);
  const auto open_with = [&](std::string_view from, std::string_view to) {
    std::string changed = text;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    WriteBytes(path, changed.replace(at, from.size(), to));
    const auto checkpoint = Checkpoint::Open(directory_);
    if (!checkpoint.ok()) return checkpoint.status();
    return (*checkpoint)->Linear("bitmask-bf16", kRows, kCols).status();
  };
  const auto kCorrupt = StatusCode::kCorruption;
  EXPECT_TRUE(open_with("{", "{").ok());
  ExpectError(open_with("\"bitmask-bf16\": {", "\"renamed\": {"), kCorrupt,
              {directory_, "weight renamed", "renamed.packed"});
  ExpectError(open_with("\"harrow\": {", "\"harrow_old\": {"), kCorrupt,
              {directory_, "bitmask-bf16.packed", "does not describe"});
  ExpectError(open_with("\"nonzeros\": 1920", "\"nonzeros\": 1919"), kCorrupt,
              {directory_, "weight bitmask-bf16", "1920 non-zeros", "1919"});
  ExpectError(open_with("\"rows\": 40", "\"rows\": 41"), kCorrupt, {"bitmask-bf16", "[41, 96]"});
  ExpectError(open_with("\"xxh3\": \"", "\"xxh3\": \"0"), kCorrupt, {"bitmask-bf16", "xxh3"});
  // Another format's bytes under a valid description.
  ExpectError(open_with("\"bitmask-bf16\",", "\"nm-bf16 2:4\","), kCorrupt, {"bitmask-bf16"});
  std::filesystem::remove(path);
  ExpectError(Checkpoint::Open(directory_).status(), StatusCode::kNotFound,
              {directory_, "config.json"});
}

TEST_F(CheckpointDirectory, AWeightStoredTwiceIsAnError) {
  // The plain tensor takes the name of a packed one.
  const std::string path = directory_ + "/model.safetensors";
  std::string file = ReadBytes(path);
  const std::string from = "\"dense-i8/32.packed\"", to = "\"bitmask-bf16\"      ";
  ASSERT_EQ(from.size(), to.size());
  ASSERT_NE(file.find(from), std::string::npos);
  file.replace(file.find(from), from.size(), to);
  WriteBytes(path, file);
  ExpectError(Checkpoint::Open(directory_).status(), StatusCode::kCorruption,
              {directory_, "weight bitmask-bf16", "twice"});
}

// Reads everything; the bytes, or the first error.
Result<std::string> ReadAll(const std::string& directory,
                            const std::vector<std::string>& packed_names) {
  HARROW_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(directory));
  std::string all;
  for (const std::string& name : packed_names) {
    HARROW_ASSIGN_OR_RETURN(const LinearWeight weight, checkpoint->Linear(name, kRows, kCols));
    all += SpecName(weight.spec);
    all.append(reinterpret_cast<const char*>(weight.data.data()), weight.data.size());
  }
  return all;
}

TEST_F(CheckpointDirectory, EveryFlippedByteOfPackedDataIsNoticed) {
  const std::string path = directory_ + "/model.safetensors";
  const std::string file = ReadBytes(path);
  const auto source = OpenSafetensors(path);
  const std::string name = "bitmask-i8/32.packed";
  const TensorView view = *(*source)->Find(name);
  uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  const auto entries = ParseSafetensorsHeader(testing::Bytes(file), "f")->entries;
  size_t begin = 0;
  for (const auto& e : entries) {
    if (e.name == name) begin = 8 + header + e.begin;
  }
  for (size_t at = 0; at < view.bytes(); at += 7) {
    const char byte = file[begin + at];
    PatchByte(path, begin + at, static_cast<char>(byte ^ (1 << (at % 8))));
    const auto checkpoint = Checkpoint::Open(directory_);
    ASSERT_TRUE(checkpoint.ok());
    ExpectError((*checkpoint)->Linear("bitmask-i8/32", kRows, kCols).status(),
                StatusCode::kCorruption, {directory_, "weight bitmask-i8/32", "checksum"});
    PatchByte(path, begin + at, byte);
  }
}

TEST_F(CheckpointDirectory, HeaderFlipsAndTruncationsAreErrorsOrHarmless) {
  const std::string path = directory_ + "/model.safetensors";
  const std::string file = ReadBytes(path);
  const std::vector<std::string> names = {"bitmask-bf16", "bitmask-i8/32", "dense-i8/32",
                                          "nm-bf16 2:4"};
  const auto whole = ReadAll(directory_, names);
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  int errors = 0;
  for (size_t bit = 0; bit < 8 * (8 + header); ++bit) {
    const char byte = file[bit / 8];
    PatchByte(path, bit / 8, static_cast<char>(byte ^ (1 << (bit % 8))));
    const auto read = ReadAll(directory_, names);
    PatchByte(path, bit / 8, byte);
    if (read.ok()) {
      EXPECT_TRUE(*read == *whole) << "bit " << bit;
    } else {
      ++errors;
      EXPECT_NE(read.status().message().find(directory_), std::string::npos)
          << read.status().ToString();
    }
  }
  EXPECT_GT(errors, static_cast<int>(header));
  for (size_t size = file.size(); size > 0;) {
    size -= std::min<size_t>(size, size > 4000 ? 61 : 1);
    std::filesystem::resize_file(path, size);
    ExpectError(ReadAll(directory_, names).status(), StatusCode::kCorruption, {path});
  }
}

TEST(RestorePackedWeight, RefusesWhatIsNotPacked) {
  const std::vector<float> values = SparseValues();
  const auto weight = PackWeight(*ParseSpec("bitmask-bf16"), kRows, kCols, values.data());
  ASSERT_TRUE(weight.ok());
  const PackedWeightInfo info{weight->spec, kRows, kCols, kRows * kCols / 2,
                              WeightChecksum(*weight)};
  const TensorView view{
      DType::kU8, {static_cast<int64_t>(weight->data.size())}, weight->data.data(), weight->owner};
  ASSERT_TRUE(RestorePackedWeight("w", info, view).ok());
  const auto kCorrupt = StatusCode::kCorruption;

  TensorView wrong = view;
  wrong.dtype = DType::kI8;
  ExpectError(RestorePackedWeight("w", info, wrong).status(), kCorrupt, {"weight w", "I8"});
  wrong = view;
  wrong.shape = {1, view.shape[0]};
  ExpectError(RestorePackedWeight("w", info, wrong).status(), kCorrupt, {"weight w", "[1, "});
  PackedWeightInfo bad = info;
  bad.rows = -1;
  ExpectError(RestorePackedWeight("w", bad, view).status(), kCorrupt, {"weight w", "[-1, 96]"});
  bad = info;
  bad.spec.group = 7;
  ExpectError(RestorePackedWeight("w", bad, view).status(), StatusCode::kInvalidArgument,
              {"weight w", "7"});
  // With a matching checksum the structure is checked all the same, at every length.
  for (int64_t bytes = 0; bytes < view.shape[0]; bytes += 13) {
    TensorView cut = view;
    cut.shape = {bytes};
    bad = info;
    bad.checksum = WeightChecksum({info.spec, kRows, kCols, cut.span(), nullptr});
    ExpectError(RestorePackedWeight("w", bad, cut).status(), kCorrupt, {"weight w"});
  }
}

// Other tools may rewrite a file without Harrow's padding.
TEST(RestorePackedWeight, CopiesWhatIsNotAligned) {
  const std::vector<float> values = SparseValues();
  const auto weight = PackWeight(*ParseSpec("bitmask-i8/32"), kRows, kCols, values.data());
  ASSERT_TRUE(weight.ok());
  std::vector<std::byte> moved(weight->data.size() + 65);
  std::byte* at = moved.data();
  while (reinterpret_cast<uintptr_t>(at) % 64 != 1)
    ++at;
  std::memcpy(at, weight->data.data(), weight->data.size());
  const PackedWeightInfo info{weight->spec, kRows, kCols, *ValidateWeight(*weight),
                              WeightChecksum(*weight)};
  const auto restored = RestorePackedWeight(
      "w", info, {DType::kU8, {static_cast<int64_t>(weight->data.size())}, at, nullptr});
  ASSERT_TRUE(restored.ok()) << restored.status().ToString();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(restored->data.data()) % 64, 0u);
  EXPECT_EQ(Unpack(*restored), Unpack(*weight));
}

}  // namespace
}  // namespace harrow
