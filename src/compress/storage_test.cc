#include "compress/storage.h"

#include <gtest/gtest.h>

namespace harrow {
namespace {

// What a layer of 256 x 512 weights is stored as.
std::string Stored(const Pattern& pattern, std::optional<ValueType> quantized, double density,
                   Store store = Store::kSmall) {
  LayerWork layer;
  layer.rows = 256;
  layer.cols = 512;
  layer.pattern = pattern;
  if (quantized) layer.quantization = Quantization{*quantized, 64, nullptr};
  const int64_t nonzeros =
      static_cast<int64_t>(density * static_cast<double>(layer.rows * layer.cols));
  return SpecName(ChooseSpec(layer, nonzeros, ValueType::kF16, store));
}

Pattern Blocks(int32_t rows, int32_t cols) {
  Pattern pattern;
  pattern.block = BlockShape{rows, cols};
  return pattern;
}

Pattern Nm(int32_t keep, int32_t of) {
  Pattern pattern;
  pattern.nm = NmPattern{keep, of};
  return pattern;
}

TEST(StorageTest, TheSmallestFormatThatSuits) {
  EXPECT_EQ(Stored({}, std::nullopt, 1), "dense-f16");
  EXPECT_EQ(Stored({}, std::nullopt, 0.5), "bitmask-bf16");
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.5), "bitmask-i8/64");
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.95), "dense-i8/64");
  EXPECT_EQ(Stored({}, ValueType::kI4, 0.7), "dense-i4/64");  // 4 % smaller as bitmask, and slower
  EXPECT_EQ(Stored({}, ValueType::kI4, 0.6), "bitmask-i4/64");
  EXPECT_EQ(Stored(Nm(2, 4), std::nullopt, 0.5), "nm-bf16 2:4");
  EXPECT_EQ(Stored(Nm(2, 4), ValueType::kI8, 0.5), "nm-i8/64 2:4");
  EXPECT_EQ(Stored(Nm(2, 5), std::nullopt, 0.4), "bitmask-bf16");
  EXPECT_EQ(Stored(Blocks(16, 1), std::nullopt, 0.7), "bitmask-bf16");  // 16x1 loses in prefill
  EXPECT_EQ(Stored(Blocks(16, 1), std::nullopt, 0.5), "block-bf16 16x1");
  EXPECT_EQ(Stored(Blocks(32, 2), ValueType::kI8, 0.5), "bitmask-i8/64");  // and with few tokens
  EXPECT_EQ(Stored(Blocks(32, 2), ValueType::kI8, 0.3), "block-i8/64 16x1");
  EXPECT_EQ(Stored(Blocks(16, 4), ValueType::kI8, 0.5), "block-i8/64 16x4");
  EXPECT_EQ(Stored(Blocks(32, 32), ValueType::kI8, 0.2), "block-i8/64 16x16");
  EXPECT_EQ(Stored(Blocks(4, 4), ValueType::kI8, 0.2), "bitmask-i8/64 1x4");
  EXPECT_EQ(Stored(Blocks(1, 4), std::nullopt, 0.5), "bitmask-bf16 1x4");
  EXPECT_EQ(Stored(Blocks(16, 16), std::nullopt, 1), "dense-f16");
}

TEST(StorageTest, TheFastestOfVerySparse) {
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.05), "bitmask-i8/64");
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.05, Store::kFast), "index-i8/64");
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.2, Store::kFast), "bitmask-i8/64");
  EXPECT_EQ(Stored({}, ValueType::kI8, 0.95, Store::kFast), "dense-i8/64");
  EXPECT_EQ(Stored({}, std::nullopt, 0.1, Store::kFast), "bitmask-bf16");
  EXPECT_EQ(Stored(Nm(2, 32), ValueType::kI8, 0.06, Store::kFast), "nm-i8/64 2:32");
  EXPECT_EQ(Stored(Blocks(1, 4), ValueType::kI8, 0.1, Store::kFast), "bitmask-i8/64 1x4");
}

TEST(StorageTest, DenseOnRequest) {
  EXPECT_EQ(Stored(Blocks(16, 16), std::nullopt, 0.2, Store::kDense), "dense-f16");
  EXPECT_EQ(Stored(Nm(2, 4), ValueType::kI8, 0.5, Store::kDense), "dense-i8/64");
}

}  // namespace
}  // namespace harrow
