// What bitmask and nm share: a block is a mask of the weights that are stored, followed at once by
// their codes in the order of BlockPosition. The mask has 512 bits, bit i for the weight at
// BlockPosition i; or, where weights are stored in 1 x 4 blocks, 128: bit 16 * j + r for inputs
// 4 * j .. 4 * j + 3 of row r.
#ifndef HARROW_FORMATS_MASK_CODEC_H_
#define HARROW_FORMATS_MASK_CODEC_H_

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

// Set bits of the 512. SWAR, because a plain build has no popcount instruction.
inline int64_t CountBits(const BlockMask& mask) {
  uint64_t bytes = 0;
  for (const uint64_t word : mask.words) {
    uint64_t x = word - (word >> 1 & 0x5555555555555555u);
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    bytes += (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  }
  const uint64_t halves = (bytes & 0x00ff00ff00ff00ffu) + (bytes >> 8 & 0x00ff00ff00ff00ffu);
  return static_cast<int64_t>(halves * 0x0001000100010001u >> 48);
}

// Appends the mask and the codes that it names; the rest of a last half byte is 0.
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
    stored[bytes] = std::byte{0};
    bytes = (bytes + 1) / 2;
    for (size_t i = 0; i < bytes; ++i)
      stored[i] = stored[2 * i] | stored[2 * i + 1] << 4;
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
  in += MaskBytes(spec);
  uint16_t stored[kBlockWeights + 1];
  for (int64_t i = 0; i < count; ++i) {
    switch (CodeBits(values)) {
      case 4:
        stored[i] = static_cast<uint16_t>(static_cast<int>(in[i / 2]) >> (i % 2 * 4) & 0xf);
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
  return in + CodeBytes(values, count);
}

// Of the block at `in`, whose mask has `stored` bits and whose codes are all there. A padding half
// byte that is not 0 counts as invalid.
inline CodeCount CountMasked(const WeightSpec& spec, const std::byte* in, int64_t stored,
                             const uint16_t* zeros) {
  const ValueType values = spec.values;
  CodeCount count;
  if (values == ValueType::kU4) {
    uint16_t codes[kBlockWeights];
    DecodeMasked(spec, in, zeros, codes);
    count.zeros = stored - CountBlock(codes, zeros, values, kPanelRows, kBlockCols).nonzeros;
  } else {
    count = CountCodes(values, in + MaskBytes(spec), stored);
  }
  if (CodeBits(values) == 4 && stored % 2 != 0)
    count.invalid += static_cast<int>(in[MaskBytes(spec) + stored / 2]) > 0xf;
  return count;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_MASK_CODEC_H_
