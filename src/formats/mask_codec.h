// What bitmask and nm share: a block is a mask of the weights that are stored, followed at once by
// their codes in the order of BlockPosition. The mask has 512 bits, bit i for the weight at
// BlockPosition i; or, where weights are stored in 1 x 4 blocks, 128: bit 16 * j + r for inputs
// 4 * j .. 4 * j + 3 of row r. Two 4-bit codes share a byte: those of units 0 .. 3 are the low
// halves of the bytes, from the first on, those of units 4 .. 7 the high halves; as many bytes as
// the longer of both takes. So no unit begins in the middle of a byte.
#ifndef HARROW_FORMATS_MASK_CODEC_H_
#define HARROW_FORMATS_MASK_CODEC_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "formats/panel_codec.h"

namespace harrow {

struct BlockMask {
  uint64_t words[8] = {};

  bool Bit(int64_t i) const { return (words[i / 64] >> (i % 64) & 1) != 0; }
  void Set(int64_t i) { words[i / 64] |= uint64_t{1} << (i % 64); }
};

// The four weights of bit 16 * j + r of a 1x4 mask: two lanes of bf16 units stand side by side, one
// unit apart.
inline uint64_t QuadBits(int64_t cell, int64_t lane) {
  return cell == 4 ? uint64_t{0xf} << (4 * lane) : (uint64_t{0x3} << (2 * lane)) * 0x100000001u;
}

inline BlockMask LoadMask(const WeightSpec& spec, const std::byte* in) {
  BlockMask mask;
  if (!IsQuadMask(spec)) {
    std::memcpy(mask.words, in, sizeof(mask.words));
    return mask;
  }
  const int64_t cell = CellOf(spec.values);
  for (int64_t i = 0; i < kQuadMaskBytes * 8; ++i) {
    const bool bit = (static_cast<int>(in[i / 8]) >> (i % 8) & 1) != 0;
    mask.words[i / kPanelRows] |= bit ? QuadBits(cell, i % kPanelRows) : 0;
  }
  return mask;
}

// The mask of all 1x4 blocks that it has a bit of.
inline BlockMask WholeQuads(const WeightSpec& spec, BlockMask mask) {
  const int64_t cell = CellOf(spec.values);
  for (int64_t i = 0; i < kQuadMaskBytes * 8; ++i) {
    const uint64_t quad = QuadBits(cell, i % kPanelRows);
    uint64_t& word = mask.words[i / kPanelRows];
    word |= (word & quad) != 0 ? quad : 0;
  }
  return mask;
}

// The mask as it is stored, of MaskBytes(spec); whole 1x4 blocks of it where they are its unit.
inline void AppendMask(const WeightSpec& spec, const BlockMask& mask, std::vector<std::byte>* out) {
  BlockMask stored = mask;
  if (IsQuadMask(spec)) {
    stored = BlockMask();
    const int64_t cell = CellOf(spec.values);
    for (int64_t i = 0; i < kQuadMaskBytes * 8; ++i) {
      if ((mask.words[i / kPanelRows] & QuadBits(cell, i % kPanelRows)) != 0) stored.Set(i);
    }
  }
  const std::byte* bytes = reinterpret_cast<const std::byte*>(stored.words);
  out->insert(out->end(), bytes, bytes + MaskBytes(spec));
}

// Set bits of `count` of the words. SWAR, because a plain build has no popcount instruction.
inline int64_t CountWords(const uint64_t* words, int count) {
  uint64_t bytes = 0;
  for (int i = 0; i < count; ++i) {
    const uint64_t word = words[i];
    uint64_t x = word - (word >> 1 & 0x5555555555555555u);
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    bytes += (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  }
  const uint64_t halves = (bytes & 0x00ff00ff00ff00ffu) + (bytes >> 8 & 0x00ff00ff00ff00ffu);
  return static_cast<int64_t>(halves * 0x0001000100010001u >> 48);
}
// Of the 512, and of those of units 0 .. 3.
inline int64_t CountBits(const BlockMask& mask) {
  return CountWords(mask.words, 8);
}
inline int64_t CountLowBits(const BlockMask& mask) {
  return CountWords(mask.words, 4);
}

// Bytes of the codes of a mask's weights.
inline int64_t MaskedCodeBytes(ValueType values, const BlockMask& mask) {
  const int64_t count = CountBits(mask);
  if (CodeBits(values) != 4) return CodeBytes(values, count);
  const int64_t low = CountLowBits(mask);
  return std::max(low, count - low);
}

// Appends the mask and the codes that it names; halves that no code takes are 0.
inline void EncodeMasked(const WeightSpec& spec, const BlockMask& mask, const uint16_t* codes,
                         std::vector<std::byte>* out) {
  const ValueType values = spec.values;
  const size_t width = values == ValueType::kBf16 ? 2 : 1;
  // Every code is written and only stored ones are kept: no branch to mispredict.
  std::byte stored[kBlockWeights * 2];
  size_t bytes = 0;
  for (int64_t i = 0; i < kBlockWeights; ++i) {
    std::memcpy(stored + bytes, &codes[i], width);  // little endian: the low byte comes first
    bytes += mask.Bit(i) ? width : 0;
  }
  if (CodeBits(values) == 4) {
    const size_t low = static_cast<size_t>(CountLowBits(mask));
    std::byte halves[kBlockWeights / 2] = {};
    for (size_t i = 0; i < bytes; ++i) {
      if (i < low) {
        halves[i] |= stored[i];
      } else {
        halves[i - low] |= stored[i] << 4;
      }
    }
    bytes = std::max(low, bytes - low);
    std::memcpy(stored, halves, bytes);
  }
  AppendMask(spec, mask, out);
  out->insert(out->end(), stored, stored + bytes);
}

// `zeros`: the code of each row for weights that are not stored.
inline const std::byte* DecodeMasked(const WeightSpec& spec, const std::byte* in,
                                     const uint16_t* zeros, uint16_t* codes) {
  const ValueType values = spec.values;
  const BlockMask mask = LoadMask(spec, in);
  const int64_t count = CountBits(mask);
  const int64_t low = CountLowBits(mask);
  in += MaskBytes(spec);
  uint16_t stored[kBlockWeights + 1];
  for (int64_t i = 0; i < count; ++i) {
    switch (CodeBits(values)) {
      case 4:
        stored[i] = static_cast<uint16_t>(i < low ? static_cast<int>(in[i]) & 0xf
                                                  : static_cast<int>(in[i - low]) >> 4);
        break;
      case 8: stored[i] = static_cast<uint16_t>(in[i]); break;
      default: std::memcpy(&stored[i], in + 2 * i, 2);
    }
  }
  stored[count] = 0;
  // No branch to mispredict: masks are as good as random.
  const int64_t cell = CellOf(values);
  int64_t next = 0;
  for (int64_t i = 0; i < kBlockWeights; ++i) {
    const bool bit = mask.Bit(i);
    codes[i] = bit ? stored[next] : zeros[BlockLane(i, cell)];
    next += bit ? 1 : 0;
  }
  return in + MaskedCodeBytes(values, mask);
}

// Of the block at `in`, whose codes are all there. A half that no code takes and that is not 0
// counts as invalid.
inline CodeCount CountMasked(const WeightSpec& spec, const std::byte* in, const BlockMask& mask,
                             const uint16_t* zeros) {
  const ValueType values = spec.values;
  const int64_t stored = CountBits(mask);
  const std::byte* halves = in + MaskBytes(spec);
  if (CodeBits(values) != 4) return CountCodes(values, halves, stored);
  CodeCount count;
  uint16_t codes[kBlockWeights];
  DecodeMasked(spec, in, zeros, codes);
  count.zeros = stored - CountBlock(codes, zeros, values, kPanelRows, kBlockCols).nonzeros;
  const int64_t low = CountLowBits(mask);
  for (int64_t i = low; i < stored - low; ++i)
    count.invalid += (static_cast<int>(halves[i]) & 0xf) != 0;
  for (int64_t i = stored - low; i < low; ++i)
    count.invalid += static_cast<int>(halves[i]) > 0xf;
  return count;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_MASK_CODEC_H_
