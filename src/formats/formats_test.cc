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
  EXPECT_EQ(SpecName(Spec("dense-int4")), "dense-i4/128");
  EXPECT_EQ(Spec("dense-u4/32").format, FormatId::kDensePanel);
  EXPECT_EQ(SpecName(Spec("nm-uint4 2:4/64")), "nm-u4/64 2:4");
}

TEST(SpecTest, RejectsWhatDoesNotExist) {
  for (const char* name : {"",
                           "dense",
                           "dense-",
                           "dense-i3",
                           "dense-i4/96",
                           "bitmask-i4/256",
                           "bitmask-u4/0",
                           "nm-u4/256 2:4",
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
    case ValueType::kI8:
    case ValueType::kI4:
    case ValueType::kU4: break;
  }
  float largest = 0;
  float low = 0;
  float high = 0;
  const int64_t begin = col / spec.group * spec.group;
  for (int64_t c = begin; c < std::min<int64_t>(cols, begin + spec.group); ++c) {
    const float other = w[static_cast<size_t>(row * cols + c)];
    largest = std::max(largest, std::fabs(other));
    low = std::min(low, other);
    high = std::max(high, other);
  }
  if (largest == 0) return 0;
  if (spec.values == ValueType::kI4) {
    const double step =
        static_cast<double>(Bf16ToF32(F32ToBf16(high == largest ? -largest / 8 : largest / 8)));
    const double q = std::nearbyint(static_cast<double>(value) / step);
    return static_cast<float>(std::min(std::max(q, -8.0), 7.0) * step);
  }
  if (spec.values == ValueType::kU4) {
    const double step = static_cast<double>(Bf16ToF32(F32ToBf16((high - low) / 15)));
    const double zero = std::min(std::nearbyint(static_cast<double>(-low) / step), 15.0);
    const double code = std::nearbyint(static_cast<double>(value) / step) + zero;
    return static_cast<float>((std::min(std::max(code, 0.0), 15.0) - zero) * step);
  }
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
        double tolerance = 0;
        if (spec.format == FormatId::kBitmask)
          tolerance = 64.0 * static_cast<double>(rows / 16 + 1);
        if (spec.format == FormatId::kIndex) {
          // How full the fullest row of each tile is, chance decides; by up to all of them.
          tolerance = static_cast<double>(AnalyzeWeight(spec, rows, cols, rows * cols)) / 2;
        }
        // Of a last block that the shape cuts off all 4-bit codes may be in one half, where as many
        // are taken to be in the other: 128.
        const bool ragged = cols % kBlockCols != 0;
        if (spec.format == FormatId::kBitmask && CodeBits(spec.values) == 4 && ragged)
          tolerance += 128.0 * static_cast<double>(rows / 16 + 1);
        // A 1x4 block that the shape cuts off takes as many bytes as others: 3 codes of 2 more.
        if (IsQuadMask(spec)) tolerance += static_cast<double>(6 * rows);
        if (spec.format == FormatId::kBlock) {
          // Blocks cut off by the shape weigh less than others, but take as many bytes, up to 512;
          // a run may end in the middle of a unit; and the last panel, which weighs less too, may
          // be as unlike the others as full and empty.
          const uint64_t panel = AnalyzeWeight(spec, 16, cols, 16 * cols);
          tolerance = static_cast<double>(panel) +
                      static_cast<double>((rows / 16 + 1) * (512 + cols / 32 * 64));
        }
        EXPECT_NEAR(static_cast<double>(packed->data.size()), static_cast<double>(estimate),
                    tolerance);
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
  for (const char* name : {"bitmask-bf16", "bitmask-i8", "bitmask-i4", "dense-u4"}) {
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
  // Scales stay finite at both ends of float32.
  for (const char* name : {"dense-i8", "dense-i4", "dense-u4"}) {
    for (const float value :
         {std::numeric_limits<float>::max(), 1e-40f, std::numeric_limits<float>::denorm_min()}) {
      const float w[] = {value, -value};
      const Result<LinearWeight> packed = PackWeight(Spec(name), 1, 2, w);
      // -8 times the largest float32 / 8, rounded up to bf16, is too much.
      if (!packed.ok()) {
        EXPECT_EQ(value, std::numeric_limits<float>::max());
        EXPECT_NE(std::string(name), "dense-i8");
        continue;
      }
      float got[2];
      UnpackRows(*packed, 0, 1, got);
      EXPECT_TRUE(ValidateWeight(*packed).ok());
      EXPECT_TRUE(std::isfinite(got[0]) && std::isfinite(got[1])) << name;
    }
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

// The fit of round to nearest on normal weights, in dB of signal over error, from an independent
// script; both a worse and a better grid would show.
TEST(RtnTest, FitOfNormalWeights) {
  struct Case {
    const char* spec;
    double decibel;
  };
  for (const Case& c :
       {Case{"dense-i4/32", 21.31}, Case{"dense-i4/64", 20.45}, Case{"dense-i4/128", 19.72},
        Case{"dense-u4/32", 21.86}, Case{"dense-u4/64", 20.82}, Case{"dense-u4/128", 19.95}}) {
    Rng rng(16);
    std::vector<float> w(256 * 1024);
    for (float& v : w)
      v = static_cast<float>(rng.Normal());
    std::vector<float> got(w.size());
    UnpackRows(PackWeight(Spec(c.spec), 256, 1024, w.data()).value(), 0, 256, got.data());
    double signal = 0;
    double error = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const double exact = static_cast<double>(w[i]);
      signal += exact * exact;
      error += (exact - static_cast<double>(got[i])) * (exact - static_cast<double>(got[i]));
    }
    EXPECT_NEAR(10 * std::log10(signal / error), c.decibel, 0.05) << c.spec;
  }
}

constexpr const char* kQuantized[] = {"dense-i8/32", "bitmask-i8/64",  "dense-i4/32",
                                      "dense-u4/64", "bitmask-i4/128", "bitmask-u4/32"};

// Packing with RtnGrid is packing without a grid.
TEST(GridTest, RtnGridIsWhatThePackerTakes) {
  for (const char* name : kQuantized) {
    const WeightSpec spec = Spec(name);
    Rng rng(17);
    const std::vector<float> w = RandomWeight(spec, 37, 200, 0.6, &rng);
    const QuantGrid grid = RtnGrid(spec, 37, 200, w.data());
    const LinearWeight own = PackWeight(spec, 37, 200, w.data()).value();
    // The largest weights may lie beyond the codes by themselves; what they were rounded to does
    // not.
    std::vector<float> rounded(w.size());
    UnpackRows(own, 0, 37, rounded.data());
    const LinearWeight given = PackWeight(spec, 37, 200, rounded.data(), &grid).value();
    ASSERT_EQ(own.data.size(), given.data.size()) << name;
    EXPECT_EQ(0, std::memcmp(own.data.data(), given.data.data(), own.data.size())) << name;
  }
}

// Weights that lie on a grid that no min-max would find come back bit by bit.
TEST(GridTest, WeightsOnAGridAreKept) {
  for (const char* name : kQuantized) {
    const WeightSpec spec = Spec(name);
    const CodeRange range = CodeRangeOf(spec.values);
    const int64_t rows = 19;
    const int64_t cols = 150;
    const int64_t groups = (cols + spec.group - 1) / spec.group;
    Rng rng(18);
    QuantGrid grid;
    grid.group = spec.group;
    for (int64_t i = 0; i < rows * groups; ++i) {
      const float sign = spec.values == ValueType::kI4 && rng.Below(2) == 0 ? -1.0f : 1.0f;
      grid.scales.push_back(sign * Bf16ToF32(F32ToBf16(static_cast<float>(rng.Uniform()) + 0.1f)));
      if (spec.values == ValueType::kU4) grid.zeros.push_back(static_cast<float>(rng.Below(16)));
    }
    std::vector<float> w;
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const size_t at = static_cast<size_t>(i / cols * groups + i % cols / spec.group);
      const float zero = grid.zeros.empty() ? 0.0f : grid.zeros[at];
      const int32_t code =
          range.low +
          static_cast<int32_t>(rng.Below(static_cast<uint64_t>(range.high - range.low + 1)));
      const float kept = rng.Below(3) == 0 ? 0.0f : 1.0f;
      w.push_back(kept * (static_cast<float>(code) - zero) * grid.scales[at] + 0.0f);
      nonzeros += w.back() != 0;
    }
    const Result<LinearWeight> packed = PackWeight(spec, rows, cols, w.data(), &grid);
    ASSERT_TRUE(packed.ok()) << name << ": " << packed.status().ToString();
    EXPECT_EQ(ValidateWeight(*packed).value(), nonzeros) << name;
    std::vector<float> got(w.size());
    UnpackRows(*packed, 0, rows, got.data());
    EXPECT_EQ(0, std::memcmp(got.data(), w.data(), w.size() * sizeof(float))) << name;
  }
}

TEST(GridTest, NamesTheWeightThatIsBeyond) {
  struct Case {
    const char* spec;
    float zero;
    float inside;
    float outside;
  };
  for (const Case& c :
       {Case{"dense-i8/32", 0, 63.5f, 64.0f}, Case{"dense-i8/32", 0, -63.5f, -64.0f},
        Case{"dense-i4/32", 0, 3.5f, 4.0f}, Case{"bitmask-i4/32", 0, -4.0f, -4.5f},
        Case{"dense-u4/32", 3, -1.5f, -2.0f}, Case{"bitmask-u4/32", 3, 6.0f, 6.5f}}) {
    const WeightSpec spec = Spec(c.spec);
    QuantGrid grid = {32, std::vector<float>(6, 0.5f), {}};
    if (spec.values == ValueType::kU4) grid.zeros.assign(6, c.zero);
    std::vector<float> w(2 * 70, 0.0f);
    w[70 + 65] = c.inside;
    EXPECT_TRUE(PackWeight(spec, 2, 70, w.data(), &grid).ok()) << c.spec;
    w[70 + 65] = c.outside;
    const Result<LinearWeight> packed = PackWeight(spec, 2, 70, w.data(), &grid);
    ASSERT_FALSE(packed.ok()) << c.spec;
    EXPECT_NE(packed.status().message().find("row 1, column 65"), std::string::npos)
        << packed.status().message();
    grid.scales[5] = 0;  // of that group: nothing but 0 lies on it
    w[70 + 65] = c.inside;
    EXPECT_FALSE(PackWeight(spec, 2, 70, w.data(), &grid).ok()) << c.spec;
    w[70 + 65] = 0;
    EXPECT_TRUE(PackWeight(spec, 2, 70, w.data(), &grid).ok()) << c.spec;
  }
}

TEST(GridTest, RejectsGridsThatDoNotFit) {
  const std::vector<float> w(2 * 64, 0.0f);
  const auto pack = [&w](const char* spec, const QuantGrid& grid) {
    return PackWeight(Spec(spec), 2, 64, w.data(), &grid).ok();
  };
  const QuantGrid good = {32, std::vector<float>(4, 0.5f), {}};
  EXPECT_TRUE(pack("dense-i4/32", good));
  EXPECT_FALSE(pack("dense-i4/64", good));
  EXPECT_FALSE(pack("dense-u4/32", good));
  EXPECT_FALSE(pack("bitmask-bf16", good));
  EXPECT_FALSE(pack("dense-bf16", good));
  EXPECT_FALSE(pack("dense-i4/32", {32, std::vector<float>(3, 0.5f), {}}));
  for (const float scale : {-0.5f, 1.001f, INFINITY, NAN}) {
    QuantGrid bad = good;
    bad.scales[3] = scale;
    EXPECT_FALSE(pack("dense-i8/32", bad)) << scale;
    EXPECT_EQ(pack("dense-i4/32", bad), scale == -0.5f) << scale;
  }
  QuantGrid zeros = good;
  zeros.zeros.assign(4, 8.0f);
  EXPECT_TRUE(pack("dense-u4/32", zeros));
  EXPECT_FALSE(pack("dense-i4/32", zeros));
  for (const float zero : {-1.0f, 16.0f, 0.5f, NAN}) {
    zeros.zeros[2] = zero;
    EXPECT_FALSE(pack("dense-u4/32", zeros)) << zero;
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

TEST(BlockTest, StoresWholeBlocksAndOnlyThose) {
  // Panel 0: one weight in inputs 16 .. 19; panel 1: nothing; panel 2, of one row: its last input.
  std::vector<float> w(33 * 40, 0.0f);
  w[3 * 40 + 17] = 0.5f;
  w[32 * 40 + 39] = -1;
  struct Case {
    const char* spec;
    int64_t units[3];  // of 64 bytes
  };
  for (const Case& c : {Case{"block-bf16 16x1", {1, 0, 1}}, Case{"block-bf16 16x4", {2, 0, 2}},
                        Case{"block-bf16 16x16", {8, 0, 8}}, Case{"block-i8 16x1", {1, 0, 1}},
                        Case{"block-i8 16x4", {1, 0, 1}}, Case{"block-i8 16x16", {4, 0, 4}}}) {
    const LinearWeight packed = PackWeight(Spec(c.spec), 33, 40, w.data()).value();
    const int64_t head = packed.spec.group > 0 ? 128 : 64;
    for (int64_t p = 0; p < 3; ++p) {
      EXPECT_EQ(PanelOffset(packed, p + 1) - PanelOffset(packed, p),
                static_cast<uint64_t>(head + 64 * c.units[p]))
          << c.spec << ", panel " << p;
    }
    EXPECT_EQ(ValidateWeight(packed).value(), 2);
    std::vector<float> got(w.size());
    UnpackRows(packed, 0, 33, got.data());
    for (size_t i = 0; i < w.size(); ++i)
      EXPECT_EQ(got[i] != 0, w[i] != 0) << c.spec << ", weight " << i;
  }
}

TEST(BlockTest, ShapesThatDoNotExist) {
  for (const char* name : {"block-bf16", "block-bf16 8x1", "block-bf16 16x2", "block-bf16 32x32",
                           "block-i4 16x4", "block-f32 16x4", "block-i8 2:4", "bitmask-i8 16x4",
                           "block-i8 16x4 2:4", "block-i8 16x", "block-i8 16"}) {
    EXPECT_FALSE(ParseSpec(name).ok()) << name;
  }
}

TEST(SuitableSpecsTest, EveryFormatOffersWhatItCanDo) {
  const auto names = [](const WeightSpec& wanted) {
    std::vector<std::string> all;
    for (const WeightSpec& spec : SuitableSpecs(wanted))
      all.push_back(SpecName(spec));
    return all;
  };
  using Names = std::vector<std::string>;
  WeightSpec wanted;
  wanted.values = ValueType::kF16;
  EXPECT_EQ(names(wanted), (Names{"dense-f16", "bitmask-bf16"}));
  wanted.keep_n = 2;
  wanted.of_m = 4;
  EXPECT_EQ(names(wanted), (Names{"dense-f16", "bitmask-bf16", "nm-bf16 2:4"}));
  wanted.of_m = 5;  // nm has no such M
  EXPECT_EQ(names(wanted), (Names{"dense-f16", "bitmask-bf16"}));
  wanted.keep_n = wanted.of_m = 0;
  wanted.values = ValueType::kI8;
  wanted.group = 64;
  EXPECT_EQ(names(wanted), (Names{"dense-i8/64", "bitmask-i8/64", "index-i8/64"}));
  const auto blocks = [&](int32_t rows, int32_t cols) {
    wanted.block_rows = rows;
    wanted.block_cols = cols;
    return names(wanted);
  };
  EXPECT_EQ(blocks(16, 1), (Names{"dense-i8/64", "bitmask-i8/64", "block-i8/64 16x1"}));
  EXPECT_EQ(blocks(32, 32), (Names{"dense-i8/64", "bitmask-i8/64 1x4", "block-i8/64 16x16"}));
  EXPECT_EQ(blocks(64, 12), (Names{"dense-i8/64", "bitmask-i8/64 1x4", "block-i8/64 16x4"}));
  EXPECT_EQ(blocks(16, 2), (Names{"dense-i8/64", "bitmask-i8/64", "block-i8/64 16x1"}));
  EXPECT_EQ(blocks(1, 4), (Names{"dense-i8/64", "bitmask-i8/64 1x4"}));
  EXPECT_EQ(blocks(3, 8), (Names{"dense-i8/64", "bitmask-i8/64 1x4"}));
  EXPECT_EQ(blocks(1, 6), (Names{"dense-i8/64", "bitmask-i8/64"}));
  wanted.values = ValueType::kI4;  // blocks have no 4-bit values
  EXPECT_EQ(blocks(16, 16), (Names{"dense-i4/64", "bitmask-i4/64"}));
}

// Bit 16 j + r is the block of inputs 4 j .. 4 j + 3 in row r; its codes follow in unit order.
TEST(BitmaskTest, StoresWhole1x4Blocks) {
  std::vector<float> w(2 * 12, 0.0f);
  w[12 + 5] = 1;      // row 1, inputs 4 .. 7
  w[8] = w[11] = -1;  // row 0, inputs 8 .. 11
  const LinearWeight bf16 = PackWeight(Spec("bitmask-bf16 1x4"), 2, 12, w.data()).value();
  const auto bytes = [](const LinearWeight& weight, int64_t skip, int64_t count) {
    std::vector<int> out;
    for (int64_t i = 0; i < count; ++i)
      out.push_back(static_cast<int>(weight.data[static_cast<size_t>(
          static_cast<int64_t>(PanelOffset(weight, 0)) + skip + i)]));
    return out;
  };
  std::vector<int> expected(32);
  expected[2] = 2;                           // j = 1, row 1
  expected[4] = 1;                           // j = 2, row 0
  expected[18] = 0x80, expected[19] = 0x3f;  // inputs 4 5 and then 6 7
  expected[24] = 0x80, expected[25] = 0xbf;  // inputs 8 9
  expected[30] = 0x80, expected[31] = 0xbf;  // inputs 10 11
  EXPECT_EQ(bytes(bf16, 0, 32), expected);
  const LinearWeight i8 = PackWeight(Spec("bitmask-i8 1x4"), 2, 12, w.data()).value();
  EXPECT_EQ(bytes(i8, 64 + 2, 3), (std::vector<int>{2, 0, 1}));
  std::vector<int> codes = bytes(i8, 64 + 16, 8);
  EXPECT_EQ(codes[0], 128);
  EXPECT_GT(codes[1], 128);
  EXPECT_EQ(codes[2], 128);
  EXPECT_EQ(codes[5], 128);
  EXPECT_LT(codes[7], 128);
  EXPECT_EQ(ValidateWeight(bf16).value(), 3);
  EXPECT_EQ(ValidateWeight(i8).value(), 3);
  for (const char* name : {"bitmask-i4 1x4", "bitmask-u4 1x4", "bitmask-bf16 4x4",
                           "bitmask-bf16 1x8", "nm-bf16 2:4 1x4", "dense-i8 1x4"}) {
    EXPECT_FALSE(ParseSpec(name).ok()) << name;
  }
}

TEST(IndexTest, StepsOfFourByRisingIndex) {
  std::vector<float> w(2 * 160, 0.0f);
  for (const int64_t col : {3, 64, 65, 100, 127})
    w[static_cast<size_t>(col)] = 1;
  w[160 + 130] = -1;
  const LinearWeight weight = PackWeight(Spec("index-i8/128"), 2, 160, w.data()).value();
  // Table 64, scales 64, counts 64, two steps of tile 0, one of tile 1.
  ASSERT_EQ(weight.data.size(), 64u + 64 + 64 + 3 * 128 + 64);
  const auto byte = [&](int64_t at) {
    return static_cast<int>(weight.data[static_cast<size_t>(128 + at)]);
  };
  EXPECT_EQ(byte(0), 2);
  EXPECT_EQ(byte(1), 1);
  const int indices[] = {3, 64, 65, 100};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(byte(64 + i), indices[i]);
    EXPECT_GT(byte(64 + 64 + i), 128);
  }
  EXPECT_EQ(byte(64 + 128), 127);
  EXPECT_EQ(byte(64 + 128 + 1), 0);  // padding: index 0 and the code of 0
  EXPECT_EQ(byte(64 + 128 + 64 + 1), 128);
  EXPECT_EQ(byte(64 + 256 + 4), 2);  // row 1 of tile 1: input 130
  EXPECT_LT(byte(64 + 256 + 64 + 4), 128);
  EXPECT_EQ(ValidateWeight(weight).value(), 6);
}

// At the densities that it is for, close to what random weights take.
TEST(IndexTest, AnalyzeForeseesTheFullestRows) {
  Rng rng(9);
  for (const double density : {0.05, 0.1, 0.2}) {
    const WeightSpec spec = Spec("index-i8/128");
    const std::vector<float> w = RandomWeight(spec, 320, 1090, density, &rng);
    const LinearWeight weight = PackWeight(spec, 320, 1090, w.data()).value();
    const double estimate =
        static_cast<double>(AnalyzeWeight(spec, 320, 1090, ValidateWeight(weight).value()));
    EXPECT_NEAR(static_cast<double>(weight.data.size()), estimate, 0.04 * estimate);
  }
}

TEST(BitmaskTest, FourBitCodesStandInHalves) {
  std::vector<float> w(32, 0.0f);
  w[1] = 7;    // unit 0
  w[15] = -3;  // unit 3
  w[16] = 5;   // unit 4
  const LinearWeight weight = PackWeight(Spec("bitmask-i4/32"), 1, 32, w.data()).value();
  float unpacked[32];
  UnpackRows(weight, 0, 1, unpacked);
  const float scale = unpacked[1] / -8;  // the largest magnitude takes the code that goes furthest
  // Table 64, scales 64, mask 64, two bytes of codes padded to 64, slack 64.
  ASSERT_EQ(weight.data.size(), 64u + 64 + 64 + 64 + 64);
  const auto byte = [&](int64_t at) {
    return static_cast<int>(weight.data[static_cast<size_t>(128 + at)]);
  };
  EXPECT_EQ(byte(0), 1 << 1);
  EXPECT_EQ(byte(8 * 3), 1 << 3);
  EXPECT_EQ(byte(8 * 4), 1 << 0);
  const auto code = [&](int col) {
    return 8 + static_cast<int>(std::lround(unpacked[col] / scale));
  };
  EXPECT_EQ(byte(64), code(1) | code(16) << 4);
  EXPECT_EQ(byte(65), code(15));
  EXPECT_EQ(byte(66), 0);
  EXPECT_EQ(ValidateWeight(weight).value(), 3);
}

TEST(NmTest, FourBitValuesTakeGroupsOfAtMost16) {
  const Result<WeightSpec> spec = ParseSpec("nm-i4/64 8:32");
  ASSERT_FALSE(spec.ok());
  EXPECT_NE(spec.status().message().find("at most 16"), std::string::npos)
      << spec.status().ToString();
  EXPECT_TRUE(ParseSpec("nm-i8/64 8:32").ok());
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

  Pack("bitmask-bf16 1x4", 20, 64, 0.5);
  for (size_t i = 0; i < 16; ++i)
    bytes_[PanelStart(0) + i] = std::byte{0xff};
  ExpectRejected("more 1x4 blocks than values");
  Pack("bitmask-bf16 1x4", 20, 64, 1);
  bytes_[PanelStart(1)] = std::byte{0x17};  // row 4 instead of row 3
  ExpectRejected("a 1x4 block in a padding row");

  Pack("bitmask-i8", 16, 33, 1.0);  // inputs 33 .. 63 are padding
  const std::byte* block = bytes_.data() + PanelStart(0) + 64 + 64 + 512;
  const size_t second = static_cast<size_t>(block - bytes_.data());
  ASSERT_EQ(Byte(second), 0x11);
  bytes_[second] = std::byte{0x12};
  ExpectRejected("a weight in a padding column");
}

TEST_F(CorruptTest, HalvesThatNoCodeTakes) {
  // 32 inputs are units 0 to 7 of a block: those of an odd row are high halves alone.
  std::vector<float> w(32, 0.0f);
  for (size_t i = 16; i < 32; ++i)
    w[i] = 1;
  for (const bool high : {true, false}) {
    if (!high) std::rotate(w.begin(), w.begin() + 16, w.end());
    weight_ = PackWeight(Spec("bitmask-i4/32"), 1, 32, w.data()).value();
    bytes_.assign(weight_.data.begin(), weight_.data.end());
    ASSERT_EQ(weight_.data.size(), 64u + 64 + 64 + 64 + 64);
    weight_.owner = nullptr;
    weight_.data = bytes_;
    ASSERT_EQ(ValidateWeight(weight_).value(), 16);
    for (const size_t i : {0u, 7u, 15u}) {
      ASSERT_EQ(Byte(192 + i) & (high ? 0x0f : 0xf0), 0);
      bytes_[192 + i] |= std::byte{static_cast<uint8_t>(high ? 0x01 : 0x10)};
      ExpectRejected(high ? "a low half beside a high code" : "a high half beside a low code");
      bytes_[192 + i] &= std::byte{static_cast<uint8_t>(high ? 0xf0 : 0x0f)};
    }
  }
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
  Pack("bitmask-i4", 16, 32, 0.5);
  bytes_[PanelStart(0) + 128] = std::byte{0x18};
  ExpectRejected("a stored 4-bit zero code");
  Pack("bitmask-u4", 16, 32, 0.5);  // 32 bytes of scales, 16 of zero points
  bytes_[PanelStart(0) + 128] = bytes_[PanelStart(0) + 32] & std::byte{0x0f};
  ExpectRejected("a stored code that is its row's zero point");
  Pack("bitmask-i4", 1, 1, 1.0);
  bytes_[PanelStart(0) + 128] |= std::byte{0x10};
  ExpectRejected("a half byte after the last code");
  Pack("dense-u4", 3, 32, 0.5);
  bytes_[PanelStart(0) + 64 + 12] ^= std::byte{1};
  ExpectRejected("a dense 4-bit weight in a padding row");
  Pack("dense-u4", 16, 3, 0.5);
  bytes_[PanelStart(0) + 64 + 3] ^= std::byte{1};
  ExpectRejected("a dense 4-bit weight in a padding column");
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
  for (const uint16_t bits : {0x7f80, 0x7fc0, 0xff80, 0x8000}) {
    Pack("dense-i4/32", 16, 64, 0.5);
    std::memcpy(bytes_.data() + PanelStart(0) + 34, &bits, 2);
    ExpectRejected("a scale that is infinite, NaN or -0");
  }
  Pack("dense-u4/32", 16, 64, 0.5);
  bytes_[PanelStart(0) + 64 + 17] = std::byte{16};
  ExpectRejected("a zero point of 16");
}

TEST_F(CorruptTest, NmCounts) {
  for (const char* spec :
       {"nm-bf16 1:2", "nm-bf16 2:4", "nm-bf16 4:8", "nm-bf16 8:16", "nm-bf16 5:32", "nm-i8 1:2",
        "nm-i8 2:4", "nm-i8 3:8", "nm-i8 8:16", "nm-i8 31:32", "nm-i4 2:4", "nm-i4 3:8"}) {
    // Any one moved bit that changes the count of a group must be noticed.
    Pack(spec, 16, 64, 1.0);
    const int64_t cell = CellOf(weight_.spec.values);
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

TEST_F(CorruptTest, Blocks) {
  const auto pack = [&](const char* spec) { Pack(spec, 20, 60, 1); };
  for (const char* spec : {"block-bf16 16x1", "block-bf16 16x4", "block-bf16 16x16"}) {
    pack(spec);
    bytes_[PanelStart(0)] ^= std::byte{1};
    ExpectRejected("fewer blocks than values");
    pack(spec);
    // The first bit that names no block.
    const size_t blocks =
        static_cast<size_t>((60 + weight_.spec.block_cols - 1) / weight_.spec.block_cols);
    bytes_[PanelStart(1) + blocks / 8] |= static_cast<std::byte>(1u << (blocks % 8));
    ExpectRejected("a block outside the shape");
    pack(spec);
    const uint16_t infinity = 0x7f80;
    std::memcpy(bytes_.data() + PanelStart(0) + 64 + 6, &infinity, 2);
    ExpectRejected("an infinity");
    pack(spec);
    const uint16_t one = 0x3f80;
    std::memcpy(bytes_.data() + PanelStart(1) + 64 + 4 * 4, &one, 2);
    ExpectRejected("a weight in a padding row");
    pack(spec);
    SetOffset(1, PanelOffset(weight_, 0));
    ExpectRejected("a panel without an index");
  }
  pack("block-bf16 16x16");
  const uint16_t one = 0x3f80;
  std::memcpy(bytes_.data() + PanelStart(1) - 64, &one, 2);
  ExpectRejected("a weight in a padding column");
  Pack("block-i8 16x1", 16, 61, 1);
  bytes_[PanelStart(1) - 1] = std::byte{129};
  ExpectRejected("a weight in a slot without an input");
  Pack("block-i8 16x4", 16, 64, 1);
  bytes_[PanelStart(0) + 128] = std::byte{0};
  ExpectRejected("the code -128");
}

TEST_F(CorruptTest, Index) {
  const auto pack = [&] { Pack("index-i8/128", 9, 160, 0.5); };
  const size_t counts = 64 + 64, steps = counts + 64;
  pack();
  bytes_[counts] = static_cast<std::byte>(Byte(counts) + 1);
  ExpectRejected("more steps than bytes");
  pack();
  bytes_[counts + 1] = std::byte{0};
  ExpectRejected("fewer steps than bytes");
  pack();
  bytes_[steps + 1] = bytes_[steps];
  ExpectRejected("one index twice");
  pack();
  bytes_[steps + 3] = std::byte{128};
  ExpectRejected("an index beyond the tile");
  pack();
  const size_t last = steps + 128 * static_cast<size_t>(Byte(counts));
  ASSERT_LT(Byte(last), 32);
  size_t slot = last;
  while (Byte(slot + 64 + 1) != 128 && slot < last + 3)
    ++slot;
  bytes_[slot] = std::byte{32};
  ExpectRejected("an index beyond the shape");
  pack();
  bytes_[steps + 64] = std::byte{0};
  ExpectRejected("a code that does not occur");
  pack();
  bytes_[steps + 64] = std::byte{128};
  ExpectRejected("a zero before weights");
  pack();
  bytes_[steps + 9 * 4] = std::byte{1};
  ExpectRejected("an index without a weight");
  pack();
  bytes_[steps + 64 + 9 * 4] = std::byte{129};
  ExpectRejected("a weight in a padding row");
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
