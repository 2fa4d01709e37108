#include "checkpoint/gguf_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/float16.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "test_data.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

// Reads a GGUF file by its published layout, with no code in common with the writer.
class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {}

  template <class T>
  T Take() {
    T value{};
    EXPECT_LE(at_ + sizeof(T), bytes_.size());
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string TakeText() {
    const auto size = Take<uint64_t>();
    const std::string text = bytes_.substr(at_, size);
    at_ += size;
    return text;
  }
  size_t at() const { return at_; }
  const char* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

float F16At(const char* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return F16ToF32(bits);
}

class GgufWriterTest : public ::testing::Test {
 protected:
  testing::TempDir dir_;
};

TEST_F(GgufWriterTest, LayoutIsThatOfTheSpecification) {
  const std::string path = dir_.File("model.gguf");
  const GgufMetadata metadata = {{"general.architecture", std::string("llama")},
                                 {"a.number", uint32_t{7}},
                                 {"a.negative", int32_t{-7}},
                                 {"a.float", 0.5f},
                                 {"a.flag", true},
                                 {"texts", std::vector<std::string>{"x", "", "yz"}},
                                 {"floats", std::vector<float>{1, -2}},
                                 {"ints", std::vector<int32_t>{3}}};
  auto writer = GgufWriter::Create(
      path, metadata, {{"norm", {5}, GgufType::kF32}, {"w", {3, 32}, GgufType::kQ8_0}});
  ASSERT_TRUE(writer.ok()) << writer.status().ToString();
  std::vector<float> norm = {1, 2, 3, 4, 5};
  std::vector<float> w(96);
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = static_cast<float>(i) - 40;
  ASSERT_TRUE(writer->Append(norm.data(), 5).ok());
  ASSERT_TRUE(writer->Append(w.data(), 32).ok());
  EXPECT_FALSE(fs::exists(path));
  ASSERT_TRUE(writer->Append(w.data() + 32, 64).ok());
  ASSERT_TRUE(writer->Finish().ok());

  Reader reader(ReadFile(path, 1 << 20).value());
  EXPECT_EQ(reader.Take<uint32_t>(), 0x46554747u);
  EXPECT_EQ(reader.Take<uint32_t>(), 3u);
  EXPECT_EQ(reader.Take<uint64_t>(), 2u);
  EXPECT_EQ(reader.Take<uint64_t>(), metadata.size());
  const auto expect_key = [&reader](const char* key, uint32_t kind) {
    EXPECT_EQ(reader.TakeText(), key);
    EXPECT_EQ(reader.Take<uint32_t>(), kind) << key;
  };
  expect_key("general.architecture", 8);
  EXPECT_EQ(reader.TakeText(), "llama");
  expect_key("a.number", 4);
  EXPECT_EQ(reader.Take<uint32_t>(), 7u);
  expect_key("a.negative", 5);
  EXPECT_EQ(reader.Take<int32_t>(), -7);
  expect_key("a.float", 6);
  EXPECT_EQ(reader.Take<float>(), 0.5f);
  expect_key("a.flag", 7);
  EXPECT_EQ(reader.Take<uint8_t>(), 1);
  expect_key("texts", 9);
  EXPECT_EQ(reader.Take<uint32_t>(), 8u);
  EXPECT_EQ(reader.Take<uint64_t>(), 3u);
  EXPECT_EQ(reader.TakeText(), "x");
  EXPECT_EQ(reader.TakeText(), "");
  EXPECT_EQ(reader.TakeText(), "yz");
  expect_key("floats", 9);
  EXPECT_EQ(reader.Take<uint32_t>(), 6u);
  EXPECT_EQ(reader.Take<uint64_t>(), 2u);
  EXPECT_EQ(reader.Take<float>(), 1.0f);
  EXPECT_EQ(reader.Take<float>(), -2.0f);
  expect_key("ints", 9);
  EXPECT_EQ(reader.Take<uint32_t>(), 5u);
  EXPECT_EQ(reader.Take<uint64_t>(), 1u);
  EXPECT_EQ(reader.Take<int32_t>(), 3);

  EXPECT_EQ(reader.TakeText(), "norm");
  EXPECT_EQ(reader.Take<uint32_t>(), 1u);
  EXPECT_EQ(reader.Take<uint64_t>(), 5u);
  EXPECT_EQ(reader.Take<uint32_t>(), 0u);
  const auto norm_at = reader.Take<uint64_t>();
  EXPECT_EQ(reader.TakeText(), "w");
  EXPECT_EQ(reader.Take<uint32_t>(), 2u);
  EXPECT_EQ(reader.Take<uint64_t>(), 32u);  // innermost first
  EXPECT_EQ(reader.Take<uint64_t>(), 3u);
  EXPECT_EQ(reader.Take<uint32_t>(), 8u);
  const auto w_at = reader.Take<uint64_t>();

  const size_t data = (reader.at() + 31) / 32 * 32;
  EXPECT_EQ(norm_at, 0u);
  EXPECT_EQ(w_at, 32u);
  ASSERT_EQ(reader.size(), data + 32 + (3 * 34 + 31) / 32 * 32);
  EXPECT_EQ(std::memcmp(reader.data() + data, norm.data(), 20), 0);
  for (int block = 0; block < 3; ++block) {
    const char* p = reader.data() + data + w_at + 34 * block;
    const float scale = F16At(p);
    for (int i = 0; i < 32; ++i) {
      const float want = w[static_cast<size_t>(32 * block + i)];
      // Half a step, and the rounding of the scale to 11 bits times 127 steps.
      EXPECT_NEAR(scale * static_cast<int8_t>(p[2 + i]), want,
                  scale * (0.5 + 127 * std::ldexp(1.0, -11)));
    }
  }
}

TEST_F(GgufWriterTest, RoundsAsTheBlocksOfGgml) {
  Rng rng(3);
  for (int round = 0; round < 50; ++round) {
    float x[64];
    for (float& v : x)
      v = round == 0 ? 0 : static_cast<float>(rng.Normal());
    std::byte q8[68], q4[36];
    EncodeGguf(GgufType::kQ8_0, x, 64, q8);
    EncodeGguf(GgufType::kQ4_0, x, 64, q4);
    for (int block = 0; block < 2; ++block) {
      const float* in = x + 32 * block;
      double largest = 0, extreme = 0;
      for (int i = 0; i < 32; ++i) {
        largest = std::max(largest, std::fabs(static_cast<double>(in[i])));
        if (std::fabs(in[i]) > std::fabs(extreme)) extreme = in[i];
      }
      const char* p8 = reinterpret_cast<const char*>(q8) + 34 * block;
      const char* p4 = reinterpret_cast<const char*>(q4) + 18 * block;
      EXPECT_NEAR(F16At(p8), largest / 127, largest / 127 * std::ldexp(1.0, -11) + 6e-8);
      EXPECT_NEAR(F16At(p4), extreme / -8, std::fabs(extreme) / 8 * std::ldexp(1.0, -11) + 6e-8);
      for (int i = 0; i < 32; ++i) {
        if (largest == 0) {
          EXPECT_EQ(p8[2 + i], 0);
          continue;
        }
        // In double; at an exact half float32 may round to the other side.
        EXPECT_NEAR(static_cast<int8_t>(p8[2 + i]), in[i] / (largest / 127), 0.5 + 1e-4);
        const int byte = static_cast<uint8_t>(p4[2 + i % 16]);
        const int code = i < 16 ? byte & 15 : byte >> 4;
        const double ideal = in[i] / (extreme / -8) + 8;
        // The extreme itself is code 0; its mirror image would be 16 and is cut to 15.
        EXPECT_NEAR(code, std::min(ideal, 15.0), ideal > 15 ? 1e-9 : 0.5 + 1e-4);
      }
    }
  }
}

TEST_F(GgufWriterTest, FloatTypesRoundToNearest) {
  const float x[] = {1.00390625f, -3.0e38f, 65504, 1e-8f};
  std::byte f16[8], bf16[8], f32[16];
  EncodeGguf(GgufType::kF16, x, 4, f16);
  EncodeGguf(GgufType::kBf16, x, 4, bf16);
  EncodeGguf(GgufType::kF32, x, 4, f32);
  EXPECT_EQ(std::memcmp(f32, x, 16), 0);
  for (int i = 0; i < 4; ++i) {
    uint16_t h, b;
    std::memcpy(&h, f16 + 2 * i, 2);
    std::memcpy(&b, bf16 + 2 * i, 2);
    EXPECT_EQ(h, F32ToF16(x[i]));
    EXPECT_EQ(b, F32ToBf16(x[i]));
  }
}

TEST_F(GgufWriterTest, RefusesWhatCannotBeStored) {
  using Planned = std::vector<GgufWriter::Planned>;
  const auto refused = [this](const Planned& tensors, const char* what) {
    const auto writer = GgufWriter::Create(dir_.File("x.gguf"), {}, tensors);
    ASSERT_FALSE(writer.ok()) << what;
    EXPECT_NE(writer.status().message().find(what), std::string::npos)
        << writer.status().ToString();
  };
  refused({{"", {4}, GgufType::kF32}}, "empty");
  refused({{std::string(64, 'n'), {4}, GgufType::kF32}}, "63 bytes");
  refused({{"a", {4}, GgufType::kF32}, {"a", {4}, GgufType::kF32}}, "twice");
  refused({{"a", {2, 33}, GgufType::kQ8_0}}, "do not divide 33");
  refused({{"a", {0, 32}, GgufType::kQ4_0}}, "shape");
  refused({{"a", {1, 1, 1, 1, 1}, GgufType::kF32}}, "shape");
  refused({{"a", {int64_t{1} << 62, 8}, GgufType::kF32}}, "shape");
}

TEST_F(GgufWriterTest, NothingAppearsUnlessItIsWhole) {
  const std::string path = dir_.File("part.gguf");
  const float x[32] = {};
  {
    auto writer = GgufWriter::Create(path, {}, {{"a", {2, 32}, GgufType::kQ8_0}});
    ASSERT_TRUE(writer.ok());
    EXPECT_FALSE(writer->Append(x, 16).ok());  // half a block
    EXPECT_FALSE(writer->Append(x, 96).ok());  // more than is left
    ASSERT_TRUE(writer->Append(x, 32).ok());
    EXPECT_FALSE(writer->Finish().ok());
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(fs::is_empty(fs::path(path).parent_path()));
}

}  // namespace
}  // namespace harrow
