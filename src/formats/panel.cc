#include "formats/panel.h"

#include <bit>
#include <cmath>

#include "formats/panel_codec.h"

namespace harrow {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The smallest bf16 that is not below `value` (finite, >= 0).
uint16_t Bf16RoundedUp(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits >> 16) + ((bits & 0xffffu) != 0 ? 1 : 0));
}

bool IsFiniteBf16(uint16_t bits) {
  return (bits & 0x7f80u) != 0x7f80u;
}

}  // namespace

PanelGeometry GeometryOf(const WeightSpec& spec, int64_t rows, int64_t cols) {
  PanelGeometry g;
  g.rows = rows;
  g.cols = cols;
  g.panels = (rows + kPanelRows - 1) / kPanelRows;
  g.blocks = (cols + kBlockCols - 1) / kBlockCols;
  g.value_bytes = spec.values == ValueType::kI8 ? 1 : 2;
  g.cell = 4 / g.value_bytes;
  if (spec.values == ValueType::kI8) {
    g.groups = (cols + spec.group - 1) / spec.group;
    g.group_blocks = spec.group / kBlockCols;
    g.scale_bytes = RoundUp(g.groups * kPanelRows * 2, kPanelAlign);
  }
  g.header_bytes = static_cast<uint64_t>(RoundUp((g.panels + 1) * 8, kPanelAlign));
  return g;
}

int64_t BlockStride(const WeightSpec& spec) {
  const int64_t value_bytes = spec.values == ValueType::kI8 ? 1 : 2;
  switch (spec.format) {
    case FormatId::kDensePanel: return kBlockWeights * value_bytes;
    case FormatId::kNm: return kMaskBytes + kBlockWeights / spec.of_m * spec.keep_n * value_bytes;
    default: return 0;
  }
}

int64_t ActivationGroup(int64_t weight_group) {
  for (const int64_t group : {128, 96, 64}) {
    if (weight_group % group == 0) return group;
  }
  return 32;
}

Status ValidateWeightShape(int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1 || rows > kMaxWeightDim || cols > kMaxWeightDim) {
    return InvalidArgument("weight shape [{}, {}]: each side must be 1 to {}", rows, cols,
                           kMaxWeightDim);
  }
  return OkStatus();
}

PanelBuilder::PanelBuilder(const WeightSpec& spec, const PanelGeometry& geometry)
    : spec_(spec),
      geometry_(geometry),
      row_(static_cast<size_t>(geometry.blocks * kBlockCols)),
      codes_(static_cast<size_t>(geometry.blocks * kBlockWeights)),
      scales_(static_cast<size_t>(geometry.scale_bytes / 2)) {}

Status PanelBuilder::Load(int64_t panel, const RowReader& reader) {
  const PanelGeometry& g = geometry_;
  std::fill(codes_.begin(), codes_.end(), ZeroCode(spec_.values));
  std::fill(scales_.begin(), scales_.end(), uint16_t{0});
  for (int64_t lane = 0; lane < kPanelRows && panel * kPanelRows + lane < g.rows; ++lane) {
    const int64_t row = panel * kPanelRows + lane;
    reader(row, row_.data());
    for (int64_t c = 0; c < g.cols; ++c) {
      const float value = row_[static_cast<size_t>(c)];
      if (!std::isfinite(value)) {
        return Error(StatusCode::kNumerical, "row {}, column {}: the weight is {}", row, c, value);
      }
    }
    if (spec_.values == ValueType::kI8) {
      for (int64_t group = 0; group < g.groups; ++group) {
        const int64_t begin = group * spec_.group;
        const int64_t end = std::min<int64_t>(g.cols, begin + spec_.group);
        float largest = 0;
        for (int64_t c = begin; c < end; ++c)
          largest = std::max(largest, std::fabs(row_[static_cast<size_t>(c)]));
        const uint16_t bits = Bf16RoundedUp(largest / 127.0f);
        const float scale = Bf16ToF32(bits);
        scales_[static_cast<size_t>(group * kPanelRows + lane)] = bits;
        if (scale == 0) continue;
        for (int64_t c = begin; c < end; ++c) {
          const int q = static_cast<int>(std::nearbyint(row_[static_cast<size_t>(c)] / scale));
          codes_[static_cast<size_t>(c / kBlockCols * kBlockWeights +
                                     BlockPosition(lane, c % kBlockCols, g.cell))] =
              static_cast<uint16_t>(std::clamp(q, -127, 127) + 128);
        }
      }
    } else {
      for (int64_t c = 0; c < g.cols; ++c) {
        uint16_t bits = F32ToBf16(row_[static_cast<size_t>(c)]);
        if (!IsFiniteBf16(bits)) {
          return Error(StatusCode::kNumerical, "row {}, column {}: {} overflows bf16", row, c,
                       row_[static_cast<size_t>(c)]);
        }
        // Zero is one code. Subnormals go too: vdpbf16ps takes them for zero.
        if ((bits & 0x7f80u) == 0) bits = 0;
        codes_[static_cast<size_t>(c / kBlockCols * kBlockWeights +
                                   BlockPosition(lane, c % kBlockCols, g.cell))] = bits;
      }
    }
  }
  return OkStatus();
}

void PanelBuilder::AppendScales(std::vector<std::byte>* out) const {
  const size_t at = out->size();
  out->resize(at + scales_.size() * 2);
  if (!scales_.empty()) std::memcpy(out->data() + at, scales_.data(), scales_.size() * 2);
}

BlockCount CountBlock(const uint16_t* codes, ValueType values, int64_t rows, int64_t cols) {
  const int64_t cell = values == ValueType::kI8 ? 4 : 2;
  const uint16_t zero = ZeroCode(values);
  BlockCount count;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t c = 0; c < kBlockCols; ++c) {
      if (codes[BlockPosition(r, c, cell)] == zero) continue;
      if (r < rows && c < cols) {
        ++count.nonzeros;
      } else {
        count.padding_is_zero = false;
      }
    }
  }
  return count;
}

CodeCount CountCodes(ValueType values, const std::byte* in, int64_t count) {
  // As narrow as the codes, so that whole vectors of them are counted; a block has at most 512.
  uint16_t zeros = 0;
  uint16_t invalid = 0;
  if (values == ValueType::kI8) {
    for (int64_t i = 0; i < count; ++i) {
      zeros = static_cast<uint16_t>(zeros + (in[i] == std::byte{128}));
      invalid = static_cast<uint16_t>(invalid + (in[i] == std::byte{0}));
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t code;
      std::memcpy(&code, in + 2 * i, sizeof(code));
      zeros = static_cast<uint16_t>(zeros + (code == 0));
      invalid = static_cast<uint16_t>(invalid + (!IsFiniteBf16(code) | (code == 0x8000u)));
    }
  }
  return {zeros, invalid};
}

Status ValidatePanelFrame(const LinearWeight& weight, const PanelGeometry& g) {
  const std::string name = SpecName(weight.spec);
  const uint64_t size = weight.data.size();
  if (size < g.header_bytes + kPanelSlack) {
    return Corruption("{} [{}, {}]: {} bytes are too few for the table of {} panels", name,
                      weight.rows, weight.cols, size, g.panels);
  }
  if (PanelOffset(weight, 0) != g.header_bytes) {
    return Corruption("{}: panel 0 starts at byte {}, expected {}", name, PanelOffset(weight, 0),
                      g.header_bytes);
  }
  for (int64_t p = 0; p < g.panels; ++p) {
    const uint64_t begin = PanelOffset(weight, p);
    const uint64_t end = PanelOffset(weight, p + 1);
    if (end % kPanelAlign != 0 || end > size - kPanelSlack || end < begin ||
        end - begin < static_cast<uint64_t>(g.scale_bytes)) {
      return Corruption("{}: panel {} is bytes {} to {} of {}", name, p, begin, end, size);
    }
    const std::byte* scales = weight.data.data() + begin;
    for (int64_t i = 0; i < g.groups * kPanelRows; ++i) {
      uint16_t bits;
      std::memcpy(&bits, scales + 2 * i, sizeof(bits));
      if (!IsFiniteBf16(bits) || (bits & 0x8000u) != 0) {
        return Corruption("{}: scale of row {}, group {} is {}", name,
                          p * kPanelRows + i % kPanelRows, i / kPanelRows, Bf16ToF32(bits));
      }
    }
  }
  if (PanelOffset(weight, g.panels) != size - kPanelSlack) {
    return Corruption("{}: {} bytes, expected {}", name, size,
                      PanelOffset(weight, g.panels) + kPanelSlack);
  }
  return OkStatus();
}

}  // namespace harrow
