// kDensePanel: all 512 codes of a block, in unit order. docs/formats/dense_panel.md
#include "formats/panel_codec.h"

namespace harrow {
namespace {

// Weights of one unit, and of the 4-bit units that share 64 bytes: the first in the low halves.
constexpr int64_t kUnit = 64;
constexpr int64_t kPair = 2 * kUnit;

struct DensePanelCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t) {
    return static_cast<uint64_t>(count * BlockStride(spec));
  }
  static int64_t Encode(const WeightSpec& spec, const uint16_t* codes, const uint16_t*,
                        std::vector<std::byte>* out) {
    if (CodeBits(spec.values) == 8) {
      for (int64_t i = 0; i < kBlockWeights; ++i)
        out->push_back(static_cast<std::byte>(codes[i]));
      return -1;
    }
    for (int64_t pair = 0; pair < kBlockWeights; pair += kPair) {
      for (int64_t i = pair; i < pair + kUnit; ++i)
        out->push_back(static_cast<std::byte>(codes[i] | codes[i + kUnit] << 4));
    }
    return -1;
  }
  static const std::byte* Decode(const WeightSpec& spec, const std::byte* in, const uint16_t*,
                                 uint16_t* codes) {
    if (CodeBits(spec.values) == 8) {
      for (int64_t i = 0; i < kBlockWeights; ++i)
        codes[i] = static_cast<uint16_t>(in[i]);
    } else {
      for (int64_t pair = 0; pair < kBlockWeights; pair += kPair) {
        for (int64_t i = 0; i < kUnit; ++i) {
          const uint16_t both = static_cast<uint16_t>(in[pair / 2 + i]);
          codes[pair + i] = both & 0xf;
          codes[pair + kUnit + i] = both >> 4;
        }
      }
    }
    return in + BlockStride(spec);
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       const uint16_t* zeros, int64_t* nonzeros) {
    const int64_t bytes = BlockStride(spec);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    if (spec.values == ValueType::kU4) {
      uint16_t codes[kBlockWeights];
      Decode(spec, in, zeros, codes);
      *nonzeros += CountBlock(codes, zeros, spec.values, kPanelRows, kBlockCols).nonzeros;
      return bytes;
    }
    const CodeCount count = CountCodes(spec.values, in, kBlockWeights);
    if (count.invalid > 0) return -1;
    *nonzeros += kBlockWeights - count.zeros;
    return bytes;
  }
};

std::optional<WeightSpec> SuitDensePanel(const WeightSpec& wanted) {
  if (!IsQuantized(wanted.values)) return std::nullopt;
  return WeightSpec{
      .format = FormatId::kDensePanel, .values = wanted.values, .group = wanted.group};
}

}  // namespace

extern const FormatOps kDensePanelOps;
const FormatOps kDensePanelOps = {
    .analyze = AnalyzePanels<DensePanelCodec>,
    .pack = PackPanels<DensePanelCodec>,
    .unpack = UnpackPanels<DensePanelCodec>,
    .validate = ValidatePanels<DensePanelCodec>,
    .suit = SuitDensePanel,
};

}  // namespace harrow
