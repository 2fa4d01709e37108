#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "formats/linear_weight.h"
#include "formats/panel.h"
#include "formats/testing.h"

namespace harrow {
namespace {

using testing::AllSpecs;
using testing::RandomWeight;

WeightSpec Spec(const char* name) {
  return ParseSpec(name).value();
}

TEST(SpecTest, NamesRoundTrip) {
  for (const WeightSpec& spec : AllSpecs()) {
    const Result<WeightSpec> parsed = ParseSpec(SpecName(spec));
    ASSERT_TRUE(parsed.ok()) << SpecName(spec);
    EXPECT_EQ(*parsed, spec) << SpecName(spec);
  }
}

TEST(SpecTest, ShortFormsAndDefaults) {
  EXPECT_EQ(SpecName(Spec("dense-int8")), "dense-i8/128");
  EXPECT_EQ(Spec("dense-i8").format, FormatId::kDensePanel);
  EXPECT_EQ(Spec("dense_panel-i8"), Spec("dense-i8/128"));
  EXPECT_EQ(SpecName(Spec("nm-i8 2:4")), "nm-i8/128 2:4");
  EXPECT_EQ(Spec("nm-i8 2:4/64"), Spec("nm-i8/64 2:4"));
  EXPECT_EQ(SpecName(Spec("bitmask-bf16")), "bitmask-bf16");
}

TEST(SpecTest, RejectsWhatDoesNotExist) {
  for (const char* name : {"",
                           "dense",
                           "dense-",
                           "dense-i4",
                           "csr-f32",
                           "bitmask-f32",
                           "bitmask-f16",
                           "nm-bf16",
                           "nm-bf16 4:4",
                           "nm-bf16 0:4",
                           "nm-bf16 1:3",
                           "nm-bf16 1:64",
                           "nm-bf16 -1:4",
                           "bitmask-bf16/128",
                           "bitmask-i8/0",
                           "bitmask-i8/48",
                           "bitmask-i8/",
                           "bitmask-i8/128x",
                           "bitmask-i8 2:4",
                           "bitmask-i8/99999999999",
                           "dense-bf16 2:4"}) {
    EXPECT_FALSE(ParseSpec(name).ok()) << name;
  }
  WeightSpec spec;
  spec.format = static_cast<FormatId>(99);
  EXPECT_FALSE(ValidateSpec(spec).ok());
  spec = WeightSpec();
  spec.values = static_cast<ValueType>(99);
  EXPECT_FALSE(ValidateSpec(spec).ok());
}

// What Pack must make of w, worked out weight by weight.
float Expected(const WeightSpec& spec, const std::vector<float>& w, int64_t cols, int64_t row,
               int64_t col) {
  const float value = w[static_cast<size_t>(row * cols + col)];
  switch (spec.values) {
    case ValueType::kF32: return value;
    case ValueType::kF16: return F16ToF32(F32ToF16(value));
    case ValueType::kBf16: return Bf16ToF32(F32ToBf16(value));
    case ValueType::kI8: break;
  }
  float largest = 0;
  const int64_t begin = col / spec.group * spec.group;
  for (int64_t c = begin; c < std::min<int64_t>(cols, begin + spec.group); ++c)
    largest = std::max(largest, std::fabs(w[static_cast<size_t>(row * cols + c)]));
  if (largest == 0) return 0;
  float scale = Bf16ToF32(F32ToBf16(largest / 127.0f));
  if (scale < largest / 127.0f)
    scale = Bf16ToF32(static_cast<uint16_t>(F32ToBf16(largest / 127.0f) + 1));
  const double q = std::nearbyint(static_cast<double>(value) / static_cast<double>(scale));
  return static_cast<float>(q * static_cast<double>(scale));
}

class FormatTest : public ::testing::TestWithParam<WeightSpec> {};

INSTANTIATE_TEST_SUITE_P(All, FormatTest, ::testing::ValuesIn(AllSpecs()), [](const auto& info) {
  std::string name = SpecName(info.param);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
});

constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 129, 300};
constexpr double kDensities[] = {0, 0.1, 0.5, 0.9, 1};

TEST_P(FormatTest, PackUnpackValidate) {
  const WeightSpec& spec = GetParam();
  Rng rng(1);
  for (const int64_t rows : {1, 3, 15, 16, 17, 40}) {
    for (const int64_t size : kSizes) {
      const int64_t cols = spec.of_m > 0 ? (size + spec.of_m - 1) / spec.of_m * spec.of_m : size;
      for (const double density : kDensities) {
        SCOPED_TRACE(::testing::Message() << rows << "x" << cols << " density " << density);
        const std::vector<float> w = RandomWeight(spec, rows, cols, density, &rng);
        const Result<LinearWeight> packed = PackWeight(spec, rows, cols, w.data());
        ASSERT_TRUE(packed.ok()) << packed.status().ToString();
        std::vector<float> got(w.size(), NAN);
        UnpackRows(*packed, 0, rows, got.data());
        int64_t nonzeros = 0;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            const float value = got[static_cast<size_t>(r * cols + c)];
            ASSERT_EQ(value, Expected(spec, w, cols, r, c)) << r << "," << c;
            nonzeros += value != 0;
            if (w[static_cast<size_t>(r * cols + c)] == 0) {
              ASSERT_EQ(value, 0.0f);
            }
          }
        }
        const Result<int64_t> valid = ValidateWeight(*packed);
        ASSERT_TRUE(valid.ok()) << valid.status().ToString();
        EXPECT_EQ(*valid, nonzeros);
        // A part of the rows is the same rows.
        const int64_t begin = rows / 3;
        std::vector<float> part(static_cast<size_t>((rows - begin) * cols));
        UnpackRows(*packed, begin, rows, part.data());
        EXPECT_EQ(0, std::memcmp(part.data(), got.data() + begin * cols, part.size() * 4));
        // Analyze cannot know how non-zeros spread over panels, each of which is padded.
        const uint64_t estimate = AnalyzeWeight(spec, rows, cols, nonzeros);
        EXPECT_NEAR(
            static_cast<double>(packed->data.size()), static_cast<double>(estimate),
            spec.format == FormatId::kBitmask ? 64.0 * static_cast<double>(rows / 16 + 1) : 0.0);
      }
    }
  }
}

TEST_P(FormatTest, RejectsWeightsThatAreNotFinite) {
  const WeightSpec& spec = GetParam();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Rng rng(2);
    std::vector<float> w = RandomWeight(spec, 20, 64, 0.1, &rng);
    w[17 * 64 + 5] = bad;
    const Result<LinearWeight> packed = PackWeight(spec, 20, 64, w.data());
    ASSERT_FALSE(packed.ok());
    EXPECT_NE(packed.status().message().find("row 17, column 5"), std::string::npos)
        << packed.status().message();
  }
}

TEST_P(FormatTest, RejectsImpossibleShapes) {
  const float w = 1;
  const auto reader = [&w](int64_t, float* out) { *out = w; };
  for (const int64_t side : {int64_t{0}, int64_t{-1}, int64_t{1} << 40}) {
    EXPECT_FALSE(PackWeight(GetParam(), side, 32, reader).ok());
    EXPECT_FALSE(PackWeight(GetParam(), 32, side, reader).ok());
    LinearWeight weight;
    weight.spec = GetParam();
    weight.rows = side;
    weight.cols = 32;
    EXPECT_FALSE(ValidateWeight(weight).ok());
  }
}

// Every truncation, and every flipped bit of the parts that steer a kernel, is noticed or harmless:
// Validate answers without reading outside (ASan watches) and never accepts a wrong size.
TEST_P(FormatTest, SurvivesTruncationAndBitFlips) {
  const WeightSpec& spec = GetParam();
  Rng rng(3);
  const std::vector<float> w = RandomWeight(spec, 20, 96, 0.5, &rng);
  const LinearWeight packed = PackWeight(spec, 20, 96, w.data()).value();
  for (size_t size = 0; size < packed.data.size(); ++size) {
    const std::vector<std::byte> copy(packed.data.begin(),
                                      packed.data.begin() + static_cast<int64_t>(size));
    LinearWeight cut = packed;
    cut.data = copy;
    EXPECT_FALSE(ValidateWeight(cut).ok()) << size;
  }
  std::vector<float> unpacked(w.size());
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> copy(packed.data.begin(), packed.data.end());
    copy[rng.Below(copy.size())] ^= static_cast<std::byte>(1u << rng.Below(8));
    LinearWeight flipped = packed;
    flipped.data = copy;
    if (ValidateWeight(flipped).ok()) UnpackRows(flipped, 0, 20, unpacked.data());
  }
}

TEST(PanelTest, NegativeZeroIsZero) {
  for (const char* name : {"bitmask-bf16", "bitmask-i8"}) {
    const std::vector<float> w = {-0.0f, 1.0f};
    const LinearWeight packed = PackWeight(Spec(name), 1, 2, w.data()).value();
    EXPECT_EQ(ValidateWeight(packed).value(), 1);
    float got[2];
    UnpackRows(packed, 0, 1, got);
    EXPECT_FALSE(std::signbit(got[0]));
    EXPECT_NEAR(got[1], 1.0f, 1.0f / 127);
  }
}

TEST(PanelTest, LargestValuesOfBf16) {
  const float largest = Bf16ToF32(0x7f7f);
  EXPECT_TRUE(PackWeight(Spec("bitmask-bf16"), 1, 1, &largest).ok());
  const float beyond = std::numeric_limits<float>::max();  // rounds to infinity
  EXPECT_FALSE(PackWeight(Spec("bitmask-bf16"), 1, 1, &beyond).ok());
  EXPECT_FALSE(PackWeight(Spec("dense-bf16"), 1, 1, &beyond).ok());
  EXPECT_TRUE(PackWeight(Spec("dense-f32"), 1, 1, &beyond).ok());
  const float f16_beyond = 70000.0f;
  EXPECT_FALSE(PackWeight(Spec("dense-f16"), 1, 1, &f16_beyond).ok());
  // int8 scales stay finite and positive at both ends of float32.
  for (const float value :
       {std::numeric_limits<float>::max(), 1e-40f, std::numeric_limits<float>::denorm_min()}) {
    const LinearWeight packed = PackWeight(Spec("dense-i8"), 1, 1, &value).value();
    float got;
    UnpackRows(packed, 0, 1, &got);
    EXPECT_TRUE(ValidateWeight(packed).ok());
    EXPECT_TRUE(std::isfinite(got));
  }
}

// The BF16 dot product takes subnormals for zero, so masked formats do not store them.
TEST(PackTest, MaskedBf16HasNoSubnormals) {
  const float normal = std::numeric_limits<float>::min();
  const float w[] = {normal, -normal, normal / 2, -normal / 2};
  for (const char* spec : {"bitmask-bf16", "nm-bf16 2:4"}) {
    const LinearWeight packed = PackWeight(Spec(spec), 1, 4, w).value();
    EXPECT_EQ(ValidateWeight(packed).value(), 2) << spec;
    float got[4];
    UnpackRows(packed, 0, 1, got);
    EXPECT_EQ(got[0], normal);
    EXPECT_EQ(got[1], -normal);
    EXPECT_EQ(got[2], 0);
    EXPECT_EQ(got[3], 0);
  }
}

TEST(NmTest, NamesTheGroupThatHasTooMany) {
  std::vector<float> w(2 * 64, 0.0f);
  w[64 + 36] = w[64 + 37] = w[64 + 39] = 1;
  const Result<LinearWeight> packed = PackWeight(Spec("nm-bf16 2:4"), 2, 64, w.data());
  ASSERT_FALSE(packed.ok());
  EXPECT_NE(packed.status().message().find("row 1, column 39"), std::string::npos)
      << packed.status().message();
}

TEST(NmTest, ColumnsMustBeWholeGroups) {
  const std::vector<float> w(6, 0.0f);
  EXPECT_FALSE(PackWeight(Spec("nm-bf16 2:4"), 1, 6, w.data()).ok());
}

// A packed weight and one thing wrong with it.
class CorruptTest : public ::testing::Test {
 protected:
  void Pack(const char* spec, int64_t rows, int64_t cols, double density) {
    Rng rng(4);
    const WeightSpec s = Spec(spec);
    const std::vector<float> w = RandomWeight(s, rows, cols, density, &rng);
    const LinearWeight packed = PackWeight(s, rows, cols, w.data()).value();
    bytes_.assign(packed.data.begin(), packed.data.end());
    weight_ = packed;
    weight_.owner = nullptr;
    weight_.data = bytes_;
    ASSERT_TRUE(ValidateWeight(weight_).ok());
  }
  size_t PanelStart(int64_t panel) const {
    return static_cast<size_t>(PanelOffset(weight_, panel));
  }
  void SetOffset(int64_t panel, uint64_t value) {
    std::memcpy(bytes_.data() + panel * 8, &value, sizeof(value));
  }
  uint8_t Byte(size_t at) const { return static_cast<uint8_t>(bytes_[at]); }
  void ExpectRejected(const char* why) {
    weight_.data = bytes_;
    const Result<int64_t> valid = ValidateWeight(weight_);
    ASSERT_FALSE(valid.ok()) << why;
    EXPECT_EQ(valid.status().code(), StatusCode::kCorruption) << why;
    EXPECT_FALSE(valid.status().message().empty());
  }

  std::vector<std::byte> bytes_;
  LinearWeight weight_;
};

TEST_F(CorruptTest, OffsetTable) {
  const auto pack = [&] { Pack("bitmask-bf16", 64, 64, 0.5); };
  pack();
  SetOffset(0, 0);
  ExpectRejected("first panel inside the table");
  pack();
  SetOffset(1, PanelOffset(weight_, 1) + 1);
  ExpectRejected("unaligned panel");
  pack();
  SetOffset(1, PanelOffset(weight_, 2) + 64);
  ExpectRejected("decreasing offsets");
  pack();
  SetOffset(2, ~uint64_t{0} - 63);
  ExpectRejected("offset near 2^64");
  pack();
  SetOffset(4, bytes_.size());
  ExpectRejected("last panel reaches into the slack");
  pack();
  bytes_.resize(bytes_.size() + 64);
  ExpectRejected("bytes after the slack");
  pack();
  bytes_.resize(32);
  ExpectRejected("shorter than its table");
  pack();
  weight_.rows = 80;
  ExpectRejected("more rows than panels");
  pack();
  weight_.cols = 96;
  ExpectRejected("more columns than blocks");
  pack();
  weight_.cols = 32;
  ExpectRejected("fewer columns than blocks");
}

TEST_F(CorruptTest, Masks) {
  Pack("bitmask-i8", 32, 64, 0.5);
  const size_t mask = PanelStart(1) + 64;
  for (size_t i = 0; i < 64; ++i)
    bytes_[mask + i] = std::byte{0xff};
  ExpectRejected("more bits than values");

  Pack("bitmask-i8", 32, 64, 0.5);
  for (size_t i = 0; i < 64; ++i)
    bytes_[mask + i] = std::byte{0};
  ExpectRejected("fewer bits than values");

  Pack("bitmask-bf16", 9, 64, 1.0);  // rows 9 .. 15 are padding
  const size_t first = PanelStart(0);
  bytes_[first] &= std::byte{0xfe};           // row 0, input 0 goes ...
  bytes_[first + 9 * 2 / 8] |= std::byte{4};  // ... and row 9, input 0 comes
  ExpectRejected("a weight in a padding row");

  Pack("bitmask-i8", 16, 33, 1.0);  // inputs 33 .. 63 are padding
  const std::byte* block = bytes_.data() + PanelStart(0) + 64 + 64 + 512;
  const size_t second = static_cast<size_t>(block - bytes_.data());
  ASSERT_EQ(Byte(second), 0x11);
  bytes_[second] = std::byte{0x12};
  ExpectRejected("a weight in a padding column");
}

TEST_F(CorruptTest, Values) {
  Pack("bitmask-bf16", 16, 32, 0.5);
  bytes_[PanelStart(0) + 64] = bytes_[PanelStart(0) + 65] = std::byte{0};
  ExpectRejected("a stored zero");
  for (const char* spec : {"bitmask-bf16", "nm-bf16 2:4"}) {
    for (const uint16_t code : {0x8000, 0x7f80, 0xff80, 0x7fc0, 0xff81}) {
      Pack(spec, 16, 32, 0.5);
      std::memcpy(bytes_.data() + PanelStart(0) + 64 + 30, &code, 2);
      ExpectRejected("-0, an infinity or NaN");
    }
    Pack(spec, 16, 32, 0.5);
    const uint16_t largest = 0xff7f;
    std::memcpy(bytes_.data() + PanelStart(0) + 64 + 30, &largest, 2);
    EXPECT_TRUE(ValidateWeight(weight_).ok());
  }
  Pack("bitmask-i8", 16, 32, 0.5);
  bytes_[PanelStart(0) + 128] = std::byte{128};
  ExpectRejected("a stored zero code");
  Pack("dense-i8", 16, 32, 0.5);
  bytes_[PanelStart(0) + 64] = std::byte{0};
  ExpectRejected("the code -128");
  Pack("dense-i8", 3, 32, 0.5);
  bytes_[PanelStart(0) + 64 + 12] = std::byte{1};
  ExpectRejected("a dense weight in a padding row");
}

TEST_F(CorruptTest, Scales) {
  for (const uint16_t bits : {0x7f80, 0x7fc0, 0xff80, 0xbf80, 0x8000}) {
    Pack("nm-i8 2:4", 16, 256, 0.5);
    std::memcpy(bytes_.data() + PanelStart(0) + 34, &bits, 2);
    ExpectRejected("a scale that is infinite, NaN or negative");
  }
}

TEST_F(CorruptTest, NmCounts) {
  for (const char* spec :
       {"nm-bf16 1:2", "nm-bf16 2:4", "nm-bf16 4:8", "nm-bf16 8:16", "nm-bf16 5:32", "nm-i8 1:2",
        "nm-i8 2:4", "nm-i8 3:8", "nm-i8 8:16", "nm-i8 31:32"}) {
    // Any one moved bit that changes the count of a group must be noticed.
    Pack(spec, 16, 64, 1.0);
    const int64_t cell = weight_.spec.values == ValueType::kI8 ? 4 : 2;
    const size_t mask = PanelStart(0) + (cell == 4 ? 64 : 0);
    const std::vector<std::byte> good = bytes_;
    for (int64_t from = 0; from < kBlockWeights; ++from) {
      const int64_t to = (from * 37 + 11) % kBlockWeights;
      const auto bit = [](int64_t i) { return static_cast<std::byte>(1u << (i % 8)); };
      bytes_ = good;
      std::byte& a = bytes_[mask + static_cast<size_t>(from / 8)];
      std::byte& b = bytes_[mask + static_cast<size_t>(to / 8)];
      if ((a & bit(from)) == std::byte{0} || (b & bit(to)) != std::byte{0}) continue;
      a ^= bit(from);
      b ^= bit(to);
      const auto group = [&](int64_t i) {
        const int64_t unit = kPanelRows * cell;
        const int64_t col = i / unit * cell + i % cell;
        return (i % unit / cell) * kBlockCols + col / weight_.spec.of_m;
      };
      if (group(from) == group(to)) continue;
      ExpectRejected(spec);
    }
    bytes_ = good;
    bytes_[mask] ^= std::byte{1};
    ExpectRejected(spec);
  }
}

TEST_F(CorruptTest, DenseSize) {
  Pack("dense-bf16", 5, 7, 1.0);
  bytes_.pop_back();
  ExpectRejected("a missing byte");
  Pack("dense-bf16", 5, 7, 1.0);
  bytes_.push_back(std::byte{0});
  ExpectRejected("an extra byte");
}

TEST(WrapDenseTest, ViewsWithoutCopying) {
  const float data[6] = {1, 0, 2, 0, 0, -0.0f};
  TensorView view;
  view.dtype = DType::kF32;
  view.shape = {2, 3};
  view.data = reinterpret_cast<const std::byte*>(data);
  const LinearWeight weight = WrapDense(view).value();
  EXPECT_EQ(weight.data.data(), view.data);
  EXPECT_EQ(weight.rows, 2);
  EXPECT_EQ(weight.cols, 3);
  EXPECT_EQ(ValidateWeight(weight).value(), 2);
  view.shape = {6};
  EXPECT_FALSE(WrapDense(view).ok());
  view.shape = {2, 3};
  view.dtype = DType::kI32;
  EXPECT_FALSE(WrapDense(view).ok());
}

TEST(ChecksumTest, SeesEveryByte) {
  Rng rng(5);
  const WeightSpec spec = Spec("bitmask-i8");
  const std::vector<float> w = RandomWeight(spec, 16, 64, 0.5, &rng);
  const LinearWeight packed = PackWeight(spec, 16, 64, w.data()).value();
  std::vector<std::byte> copy(packed.data.begin(), packed.data.end());
  LinearWeight other = packed;
  other.data = copy;
  EXPECT_EQ(WeightChecksum(other), WeightChecksum(packed));
  for (std::byte& byte : copy) {
    byte ^= std::byte{1};
    EXPECT_NE(WeightChecksum(other), WeightChecksum(packed));
    byte ^= std::byte{1};
  }
}

}  // namespace
}  // namespace harrow
