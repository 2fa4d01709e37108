// What bitmask and nm share: a block is a 512-bit mask (bit i = weight at BlockPosition i is
// stored) followed at once by the stored codes in the same order.
#ifndef HARROW_FORMATS_MASK_CODEC_H_
#define HARROW_FORMATS_MASK_CODEC_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "formats/panel.h"

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

inline void EncodeMasked(ValueType values, const BlockMask& mask, const uint16_t* codes,
                         std::vector<std::byte>* out) {
  const size_t width = values == ValueType::kI8 ? 1 : 2;
  // Every code is written and only stored ones are kept: no branch to mispredict.
  std::byte stored[kBlockWeights * 2];
  size_t bytes = 0;
  for (int64_t i = 0; i < kBlockWeights; ++i) {
    std::memcpy(stored + bytes, &codes[i], width);  // little endian: the low byte comes first
    bytes += mask.Bit(i) ? width : 0;
  }
  const std::byte* masks = reinterpret_cast<const std::byte*>(mask.words);
  out->insert(out->end(), masks, masks + sizeof(mask.words));
  out->insert(out->end(), stored, stored + bytes);
}

inline const std::byte* DecodeMasked(ValueType values, const std::byte* in, uint16_t* codes) {
  const BlockMask mask = LoadMask(in);
  in += sizeof(mask.words);
  const size_t width = values == ValueType::kI8 ? 1 : 2;
  for (int64_t i = 0; i < kBlockWeights; ++i) {
    codes[i] = ZeroCode(values);
    if (!mask.Bit(i)) continue;
    codes[i] = 0;
    std::memcpy(&codes[i], in, width);
    in += width;
  }
  return in;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_MASK_CODEC_H_
