// kBitmask: the mask of a block, then the codes of its non-zero weights or 1x4 blocks.
// docs/formats/bitmask.md
#include <algorithm>
#include <cmath>

#include "formats/mask_codec.h"

namespace harrow {
namespace {

struct BitmaskCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t nonzeros) {
    const int64_t masks = count * MaskBytes(spec);
    if (count == 0) return 0;
    if (CodeBits(spec.values) != 4)
      return static_cast<uint64_t>(masks + CodeBytes(spec.values, nonzeros));
    // The longer of two halves of 256 weights, each stored with the same probability: their mean
    // and 1 / sqrt(pi) of their standard deviation (exact for the normal distribution).
    const double density =
        std::min(1.0, static_cast<double>(nonzeros) / static_cast<double>(count * kBlockWeights));
    const double half = kBlockWeights / 2;
    const double longer =
        std::min(half, half * density + 0.5642 * std::sqrt(half * density * (1 - density)));
    return static_cast<uint64_t>(masks) +
           static_cast<uint64_t>(static_cast<double>(count) * longer);
  }
  static int64_t Encode(const WeightSpec& spec, const uint16_t* codes, const uint16_t* zeros,
                        std::vector<std::byte>* out) {
    const int64_t cell = CellOf(spec.values);
    BlockMask mask;
    for (int64_t i = 0; i < kBlockWeights; ++i) {
      mask.words[i / 64] |= uint64_t{codes[i] != zeros[BlockLane(i, cell)]} << (i % 64);
    }
    if (IsQuadMask(spec)) mask = WholeQuads(spec, mask);
    EncodeMasked(spec, mask, codes, out);
    return -1;
  }
  static const std::byte* Decode(const WeightSpec& spec, const std::byte* in, const uint16_t* zeros,
                                 uint16_t* codes) {
    return DecodeMasked(spec, in, zeros, codes);
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       const uint16_t* zeros, int64_t* nonzeros) {
    if (available < static_cast<uint64_t>(MaskBytes(spec))) return -1;
    const BlockMask mask = LoadMask(spec, in);
    const int64_t bytes = MaskBytes(spec) + MaskedCodeBytes(spec.values, mask);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    const CodeCount count = CountMasked(spec, in, mask, zeros);
    // A 1x4 block may hold zeros; a weight of its own may not be one.
    if ((count.zeros > 0 && !IsQuadMask(spec)) || count.invalid > 0) return -1;
    *nonzeros += CountBits(mask) - count.zeros;
    return bytes;
  }
};

std::optional<WeightSpec> SuitBitmask(const WeightSpec& wanted) {
  WeightSpec spec;
  spec.format = FormatId::kBitmask;
  spec.values = IsQuantized(wanted.values) ? wanted.values : ValueType::kBf16;
  spec.group = wanted.group;
  // Blocks that consist of 1x4 ones, unless their rows or values ask for more than one mask bit.
  if (wanted.block_cols > 0 && wanted.block_cols % 4 == 0) {
    spec.block_rows = 1;
    spec.block_cols = 4;
    if (!ValidateSpec(spec).ok()) spec.block_rows = spec.block_cols = 0;
  }
  return spec;
}

}  // namespace

extern const FormatOps kBitmaskOps;
const FormatOps kBitmaskOps = {
    .analyze = AnalyzePanels<BitmaskCodec>,
    .pack = PackPanels<BitmaskCodec>,
    .unpack = UnpackPanels<BitmaskCodec>,
    .validate = ValidatePanels<BitmaskCodec>,
    .suit = SuitBitmask,
    .least_bits = 2.5,
};

}  // namespace harrow
