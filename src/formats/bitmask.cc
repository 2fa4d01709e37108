// kBitmask: the mask of a block, then its non-zero codes. docs/formats/bitmask.md
#include "formats/mask_codec.h"

namespace harrow {
namespace {

struct BitmaskCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t nonzeros) {
    // Half of the blocks have an odd number of 4-bit codes.
    const int64_t halves = CodeBits(spec.values) == 4 ? count / 2 : 0;
    return static_cast<uint64_t>(count * kMaskBytes + CodeBytes(spec.values, nonzeros + halves));
  }
  static int64_t Encode(const WeightSpec& spec, const uint16_t* codes, const uint16_t* zeros,
                        std::vector<std::byte>* out) {
    const int64_t cell = CellOf(spec.values);
    BlockMask mask;
    for (int64_t i = 0; i < kBlockWeights; ++i) {
      mask.words[i / 64] |= uint64_t{codes[i] != zeros[BlockLane(i, cell)]} << (i % 64);
    }
    EncodeMasked(spec.values, mask, codes, out);
    return -1;
  }
  static const std::byte* Decode(const WeightSpec& spec, const std::byte* in, const uint16_t* zeros,
                                 uint16_t* codes) {
    return DecodeMasked(spec.values, in, zeros, codes);
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       const uint16_t* zeros, int64_t* nonzeros) {
    if (available < static_cast<uint64_t>(kMaskBytes)) return -1;
    const int64_t stored = CountBits(LoadMask(in));
    const int64_t bytes = kMaskBytes + CodeBytes(spec.values, stored);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    const CodeCount count = CountMasked(spec.values, in, stored, zeros);
    if (count.zeros > 0 || count.invalid > 0) return -1;
    *nonzeros += stored;
    return bytes;
  }
};

std::optional<WeightSpec> SuitBitmask(const WeightSpec& wanted) {
  WeightSpec spec;
  spec.format = FormatId::kBitmask;
  spec.values = IsQuantized(wanted.values) ? wanted.values : ValueType::kBf16;
  spec.group = wanted.group;
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
};

}  // namespace harrow
