// kBitmask: the mask of a block, then its non-zero codes. docs/formats/bitmask.md
#include "formats/mask_codec.h"
#include "formats/panel_codec.h"

namespace harrow {
namespace {

struct BitmaskCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t nonzeros) {
    const int64_t width = spec.values == ValueType::kI8 ? 1 : 2;
    return static_cast<uint64_t>(count * kMaskBytes + nonzeros * width);
  }
  static int64_t Encode(const WeightSpec& spec, const uint16_t* codes,
                        std::vector<std::byte>* out) {
    BlockMask mask;
    for (int64_t i = 0; i < kBlockWeights; ++i) {
      mask.words[i / 64] |= uint64_t{codes[i] != ZeroCode(spec.values)} << (i % 64);
    }
    EncodeMasked(spec.values, mask, codes, out);
    return -1;
  }
  static const std::byte* Decode(const WeightSpec& spec, const std::byte* in, uint16_t* codes) {
    return DecodeMasked(spec.values, in, codes);
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       int64_t* nonzeros) {
    if (available < static_cast<uint64_t>(kMaskBytes)) return -1;
    const int64_t stored = CountBits(LoadMask(in));
    const int64_t bytes = kMaskBytes + stored * (spec.values == ValueType::kI8 ? 1 : 2);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    const CodeCount count = CountCodes(spec.values, in + kMaskBytes, stored);
    if (count.zeros > 0 || count.invalid > 0) return -1;
    *nonzeros += stored;
    return bytes;
  }
};

}  // namespace

extern const FormatOps kBitmaskOps;
const FormatOps kBitmaskOps = {
    .analyze = AnalyzePanels<BitmaskCodec>,
    .pack = PackPanels<BitmaskCodec>,
    .unpack = UnpackPanels<BitmaskCodec>,
    .validate = ValidatePanels<BitmaskCodec>,
};

}  // namespace harrow
