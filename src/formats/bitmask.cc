// kBitmask: the mask of a block, then the codes of its non-zero weights or 1x4 blocks.
// docs/formats/bitmask.md
#include "formats/mask_codec.h"

namespace harrow {
namespace {

struct BitmaskCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t nonzeros) {
    // Half of the blocks have an odd number of 4-bit codes.
    const int64_t halves = CodeBits(spec.values) == 4 ? count / 2 : 0;
    return static_cast<uint64_t>(count * MaskBytes(spec) +
                                 CodeBytes(spec.values, nonzeros + halves));
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
    const int64_t stored = CountBits(LoadMask(spec, in));
    const int64_t bytes = MaskBytes(spec) + CodeBytes(spec.values, stored);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    const CodeCount count = CountMasked(spec, in, stored, zeros);
    // A 1x4 block may hold zeros; a weight of its own may not be one.
    if ((count.zeros > 0 && !IsQuadMask(spec)) || count.invalid > 0) return -1;
    *nonzeros += stored - count.zeros;
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
