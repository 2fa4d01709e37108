#include "formats/panel.h"

#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "formats/panel_codec.h"

namespace harrow {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
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
  g.cell = CellOf(spec.values);
  if (IsQuantized(spec.values)) {
    g.groups = (cols + spec.group - 1) / spec.group;
    g.group_blocks = spec.group / kBlockCols;
    const int64_t zero_bytes = spec.values == ValueType::kU4 ? g.groups * kPanelRows : 0;
    g.scale_bytes = RoundUp(g.zeros_at() + zero_bytes, kPanelAlign);
  }
  g.header_bytes = static_cast<uint64_t>(RoundUp((g.panels + 1) * 8, kPanelAlign));
  return g;
}

int64_t BlockStride(const WeightSpec& spec) {
  switch (spec.format) {
    case FormatId::kDensePanel: return CodeBytes(spec.values, kBlockWeights);
    case FormatId::kNm:
      return kMaskBytes + CodeBytes(spec.values, kBlockWeights / spec.of_m * spec.keep_n);
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

void LoadZeroCodes(const WeightSpec& spec, const PanelGeometry& g, const std::byte* panel,
                   int64_t block, uint16_t* zeros) {
  std::fill_n(zeros, kPanelRows, ZeroCode(spec.values));
  if (spec.values != ValueType::kU4) return;
  const std::byte* from = panel + g.zeros_at() + block / g.group_blocks * kPanelRows;
  for (int64_t lane = 0; lane < kPanelRows; ++lane)
    zeros[lane] = static_cast<uint16_t>(from[lane]);
}

PanelBuilder::PanelBuilder(const WeightSpec& spec, const PanelGeometry& geometry,
                           const QuantGrid* grid)
    : spec_(spec),
      geometry_(geometry),
      grid_(grid),
      row_(static_cast<size_t>(geometry.blocks * kBlockCols)),
      codes_(static_cast<size_t>(geometry.blocks * kBlockWeights)),
      head_(static_cast<size_t>(geometry.scale_bytes)) {}

Status PanelBuilder::Load(int64_t panel, const RowReader& reader) {
  const PanelGeometry& g = geometry_;
  std::fill(codes_.begin(), codes_.end(), ZeroCode(spec_.values));
  std::fill(head_.begin(), head_.end(), std::byte{0});
  for (int64_t lane = 0; lane < kPanelRows && panel * kPanelRows + lane < g.rows; ++lane) {
    const int64_t row = panel * kPanelRows + lane;
    reader(row, row_.data());
    for (int64_t c = 0; c < g.cols; ++c) {
      const float value = row_[static_cast<size_t>(c)];
      if (!std::isfinite(value)) {
        return Error(StatusCode::kNumerical, "row {}, column {}: the weight is {}", row, c, value);
      }
    }
    HARROW_RETURN_IF_ERROR(IsQuantized(spec_.values) ? Quantize(row, lane)
                                                     : RoundToBf16(row, lane));
  }
  return OkStatus();
}

uint16_t* PanelBuilder::CodeAt(int64_t lane, int64_t col) {
  return &codes_[static_cast<size_t>(col / kBlockCols * kBlockWeights +
                                     BlockPosition(lane, col % kBlockCols, geometry_.cell))];
}

Status PanelBuilder::RoundToBf16(int64_t row, int64_t lane) {
  for (int64_t c = 0; c < geometry_.cols; ++c) {
    uint16_t bits = F32ToBf16(row_[static_cast<size_t>(c)]);
    if (!IsFiniteBf16(bits)) {
      return Error(StatusCode::kNumerical, "row {}, column {}: {} overflows bf16", row, c,
                   row_[static_cast<size_t>(c)]);
    }
    // Zero is one code. Subnormals go too: vdpbf16ps takes them for zero.
    if ((bits & 0x7f80u) == 0) bits = 0;
    *CodeAt(lane, c) = bits;
  }
  return OkStatus();
}

Status PanelBuilder::Quantize(int64_t row, int64_t lane) {
  const PanelGeometry& g = geometry_;
  const bool u4 = spec_.values == ValueType::kU4;
  const CodeRange range = CodeRangeOf(spec_.values);
  const int32_t offset = u4 ? 0 : ZeroCode(spec_.values);
  for (int64_t group = 0; group < g.groups; ++group) {
    const int64_t begin = group * spec_.group;
    const int64_t end = std::min<int64_t>(g.cols, begin + spec_.group);
    GroupGrid grid;
    if (grid_ == nullptr) {
      grid = RtnGroupGrid(spec_.values, row_.data() + begin, end - begin);
    } else {
      const size_t at = static_cast<size_t>(row * g.groups + group);
      grid.scale = grid_->scales[at];
      if (u4) grid.zero = grid_->zeros[at];
    }
    const uint16_t scale = F32ToBf16(grid.scale + 0.0f);  // no -0.0
    std::memcpy(&head_[static_cast<size_t>((group * kPanelRows + lane) * 2)], &scale, 2);
    if (u4) {
      head_[static_cast<size_t>(g.zeros_at() + group * kPanelRows + lane)] =
          static_cast<std::byte>(grid.zero);
    }
    for (int64_t c = begin; c < end; ++c) {
      const float value = row_[static_cast<size_t>(c)];
      const int32_t code = NearestCode(spec_.values, grid, value);
      if (grid_ != nullptr) {
        // In units of the scale; NaN where the scale and the weight are 0.
        const float beyond = value / grid.scale + grid.zero;
        if (std::nearbyint(beyond) < static_cast<float>(range.low) ||
            std::nearbyint(beyond) > static_cast<float>(range.high)) {
          return InvalidArgument(
              "row {}, column {}: the weight {} is outside its grid of scale {} and zero point {}",
              row, c, value, grid.scale, grid.zero);
        }
      }
      if (!std::isfinite(ValueOfCode(grid, code))) {
        return Error(StatusCode::kNumerical, "row {}, column {}: {} overflows float32 as {}", row,
                     c, value, ValueTypeName(spec_.values));
      }
      *CodeAt(lane, c) = static_cast<uint16_t>(code + offset);
    }
    // Inputs past the end count as zeros of the last group.
    for (int64_t c = end; u4 && group + 1 == g.groups && c < g.blocks * kBlockCols; ++c)
      *CodeAt(lane, c) = static_cast<uint16_t>(grid.zero);
  }
  return OkStatus();
}

void PanelBuilder::AppendScales(std::vector<std::byte>* out) const {
  out->insert(out->end(), head_.begin(), head_.end());
}

Result<LinearWeight> PackByPanel(const WeightSpec& spec, int64_t rows, int64_t cols,
                                 const RowReader& reader, const QuantGrid* grid,
                                 const PanelAppender& append) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  PanelBuilder panel(spec, g, grid);
  std::vector<std::byte> blob(g.header_bytes);
  for (int64_t p = 0;; ++p) {
    // Entry p of the table: where panel p begins, or after the last one ends.
    const uint64_t offset = blob.size();
    std::memcpy(blob.data() + p * 8, &offset, sizeof(offset));
    if (p == g.panels) break;
    HARROW_RETURN_IF_ERROR(panel.Load(p, reader));
    panel.AppendScales(&blob);
    HARROW_RETURN_IF_ERROR(append(panel, p, &blob));
    blob.resize((blob.size() + kPanelAlign - 1) / kPanelAlign * kPanelAlign);
  }
  const uint64_t end = blob.size();
  std::shared_ptr<std::byte> memory = AllocateBytes(end + kPanelSlack);
  std::memcpy(memory.get(), blob.data(), end);
  LinearWeight weight;
  weight.spec = spec;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = {memory.get(), static_cast<size_t>(end + kPanelSlack)};
  weight.owner = std::move(memory);
  return weight;
}

BlockCount CountBlock(const uint16_t* codes, const uint16_t* zeros, ValueType values, int64_t rows,
                      int64_t cols) {
  const int64_t cell = CellOf(values);
  BlockCount count;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t c = 0; c < kBlockCols; ++c) {
      const bool nonzero = codes[BlockPosition(r, c, cell)] != zeros[r];
      const bool inside = r < rows && c < cols;
      count.nonzeros += nonzero && inside ? 1 : 0;
      count.padding_is_zero &= inside || !nonzero;
    }
  }
  return count;
}

CodeCount CountCodes(ValueType values, const std::byte* in, int64_t count) {
  // As narrow as the codes, so that whole vectors of them are counted; a block has at most 512.
  uint16_t zeros = 0;
  uint16_t invalid = 0;
  switch (values) {
    case ValueType::kI8:
      for (int64_t i = 0; i < count; ++i) {
        zeros = static_cast<uint16_t>(zeros + (in[i] == std::byte{128}));
        invalid = static_cast<uint16_t>(invalid + (in[i] == std::byte{0}));
      }
      break;
    case ValueType::kI4: {
      constexpr std::byte kLow{0x0f};
      constexpr std::byte kHigh{0xf0};
      for (int64_t i = 0; i < count / 2; ++i) {
        zeros = static_cast<uint16_t>(zeros + ((in[i] & kLow) == std::byte{8}));
        zeros = static_cast<uint16_t>(zeros + ((in[i] & kHigh) == std::byte{128}));
      }
      break;
    }
    default:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t code;
        std::memcpy(&code, in + 2 * i, sizeof(code));
        zeros = static_cast<uint16_t>(zeros + (code == 0));
        invalid = static_cast<uint16_t>(invalid + (!IsFiniteBf16(code) | (code == 0x8000u)));
      }
  }
  return {zeros, invalid};
}

Result<PanelGeometry> ValidatePanelFrame(const LinearWeight& weight) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(weight.spec));
  HARROW_RETURN_IF_ERROR(ValidateWeightShape(weight.rows, weight.cols));
  const PanelGeometry g = GeometryOf(weight.spec, weight.rows, weight.cols);
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
      const bool negative = (bits & 0x8000u) != 0;
      const bool sign_fits = !negative || (weight.spec.values == ValueType::kI4 && bits != 0x8000u);
      if (!IsFiniteBf16(bits) || !sign_fits) {
        return Corruption("{}: scale of row {}, group {} is {}", name,
                          p * kPanelRows + i % kPanelRows, i / kPanelRows, Bf16ToF32(bits));
      }
      if (weight.spec.values == ValueType::kU4) {
        const int zero = static_cast<int>(scales[g.zeros_at() + i]);
        if (zero > 15) {
          return Corruption("{}: zero point of row {}, group {} is {}", name,
                            p * kPanelRows + i % kPanelRows, i / kPanelRows, zero);
        }
      }
    }
  }
  if (PanelOffset(weight, g.panels) != size - kPanelSlack) {
    return Corruption("{}: {} bytes, expected {}", name, size,
                      PanelOffset(weight, g.panels) + kPanelSlack);
  }
  return g;
}

}  // namespace harrow
