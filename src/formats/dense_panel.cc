// kDensePanel: all 512 codes of a block, in unit order. docs/formats/dense_panel.md
#include "formats/panel_codec.h"

namespace harrow {
namespace {

struct DensePanelCodec {
  static uint64_t BlocksBytes(const WeightSpec&, int64_t count, int64_t) {
    return static_cast<uint64_t>(count * kBlockWeights);
  }
  static int64_t Encode(const WeightSpec&, const uint16_t* codes, std::vector<std::byte>* out) {
    for (int64_t i = 0; i < kBlockWeights; ++i)
      out->push_back(static_cast<std::byte>(codes[i]));
    return -1;
  }
  static const std::byte* Decode(const WeightSpec&, const std::byte* in, uint16_t* codes) {
    for (int64_t i = 0; i < kBlockWeights; ++i)
      codes[i] = static_cast<uint16_t>(in[i]);
    return in + kBlockWeights;
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       int64_t* nonzeros) {
    if (available < static_cast<uint64_t>(kBlockWeights)) return -1;
    const CodeCount count = CountCodes(spec.values, in, kBlockWeights);
    if (count.invalid > 0) return -1;
    *nonzeros += kBlockWeights - count.zeros;
    return kBlockWeights;
  }
};

}  // namespace

extern const FormatOps kDensePanelOps;
const FormatOps kDensePanelOps = {
    .analyze = AnalyzePanels<DensePanelCodec>,
    .pack = PackPanels<DensePanelCodec>,
    .unpack = UnpackPanels<DensePanelCodec>,
    .validate = ValidatePanels<DensePanelCodec>,
};

}  // namespace harrow
