// What bitmask and nm share: a block is a 512-bit mask (bit i = weight at BlockPosition i is
// stored) followed at once by the stored codes in the same order.
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

inline BlockMask LoadMask(const std::byte* in) {
  BlockMask mask;
  std::memcpy(mask.words, in, sizeof(mask.words));
  return mask;
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
inline void EncodeMasked(ValueType values, const BlockMask& mask, const uint16_t* codes,
                         std::vector<std::byte>* out) {
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
  const std::byte* masks = reinterpret_cast<const std::byte*>(mask.words);
  out->insert(out->end(), masks, masks + sizeof(mask.words));
  out->insert(out->end(), stored, stored + bytes);
}

// `zeros`: the code of each row for weights that are not stored.
inline const std::byte* DecodeMasked(ValueType values, const std::byte* in, const uint16_t* zeros,
                                     uint16_t* codes) {
  const BlockMask mask = LoadMask(in);
  const int64_t count = CountBits(mask);
  in += sizeof(mask.words);
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
inline CodeCount CountMasked(ValueType values, const std::byte* in, int64_t stored,
                             const uint16_t* zeros) {
  CodeCount count;
  if (values == ValueType::kU4) {
    uint16_t codes[kBlockWeights];
    DecodeMasked(values, in, zeros, codes);
    count.zeros = stored - CountBlock(codes, zeros, values, kPanelRows, kBlockCols).nonzeros;
  } else {
    count = CountCodes(values, in + kMaskBytes, stored);
  }
  if (CodeBits(values) == 4 && stored % 2 != 0)
    count.invalid += static_cast<int>(in[kMaskBytes + stored / 2]) > 0xf;
  return count;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_MASK_CODEC_H_
