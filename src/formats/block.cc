// kBlock: an index of the 16 x 1, 16 x 4 or 16 x 16 blocks that are stored, then their inputs.
// docs/formats/block.md
#include "formats/block.h"

#include <cstring>

#include "formats/panel_codec.h"

namespace harrow {
namespace {

constexpr int64_t kUnitBytes = 64;

bool Bit(const std::byte* index, int64_t i) {
  return (static_cast<int>(index[i / 8]) >> (i % 8) & 1) != 0;
}

// The input of each slot of a panel, -1 for the slots that fill up the last unit of a run. Inputs
// of the last block may lie beyond the shape.
void ListSlots(const BlockGeometry& b, int64_t cell, const std::byte* index,
               std::vector<int64_t>* slots) {
  slots->clear();
  int64_t run_end = b.run;
  const auto fill_unit = [&] {
    while (slots->size() % static_cast<size_t>(cell) != 0)
      slots->push_back(-1);
  };
  for (int64_t i = 0; i < b.bits; ++i) {
    if (!Bit(index, i)) continue;
    const int64_t begin = i * b.block_cols;
    if (begin >= run_end) {
      fill_unit();
      run_end = (begin / b.run + 1) * b.run;
    }
    for (int64_t c = begin; c < begin + b.block_cols; ++c)
      slots->push_back(c);
  }
  fill_unit();
}

// Where row 0 of a slot stands among the values, counted in codes; row r is r * cell further on.
size_t SlotPosition(size_t slot, int64_t cell) {
  const size_t n = static_cast<size_t>(cell);
  return slot / n * n * kPanelRows + slot % n;
}

int64_t CodeWidth(int64_t cell) {
  return kUnitBytes / kPanelRows / cell;
}

uint16_t LoadCode(const std::byte* values, size_t position, int64_t cell) {
  uint16_t code = 0;
  const size_t width = static_cast<size_t>(CodeWidth(cell));
  std::memcpy(&code, values + position * width, width);
  return code;
}

uint64_t AnalyzeBlocks(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t nonzeros) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  const BlockGeometry b = BlockGeometryOf(spec, cols);
  // Stored blocks without zeros, spread evenly; half of a unit's slots are lost at the end of a run
  // unless blocks are whole units.
  const double density = static_cast<double>(nonzeros) / static_cast<double>(rows * cols);
  double slots = density * static_cast<double>(b.bits * b.block_cols);
  if (b.block_cols < g.cell) slots += density * static_cast<double>(b.runs * (g.cell - 1)) / 2;
  const uint64_t units = static_cast<uint64_t>(slots / static_cast<double>(g.cell) + 0.5);
  return g.header_bytes +
         static_cast<uint64_t>(g.panels) *
             (static_cast<uint64_t>(g.scale_bytes + b.index_bytes) + units * kUnitBytes) +
         kPanelSlack;
}

// Appends the index and the values of one panel.
void AppendPanel(const PanelGeometry& g, const BlockGeometry& b, const PanelBuilder& panel,
                 uint16_t zero, std::vector<int64_t>* slots, std::vector<std::byte>* out) {
  const auto code = [&](int64_t row, int64_t col) {
    return panel.BlockCodes(col / kBlockCols)[BlockPosition(row, col % kBlockCols, g.cell)];
  };
  const size_t index = out->size();
  out->resize(index + static_cast<size_t>(b.index_bytes));
  for (int64_t i = 0; i < b.bits; ++i) {
    bool stored = false;
    for (int64_t c = i * b.block_cols; c < (i + 1) * b.block_cols && !stored; ++c) {
      for (int64_t r = 0; r < kPanelRows; ++r)
        stored |= code(r, c) != zero;
    }
    if (stored) (*out)[index + static_cast<size_t>(i / 8)] |= static_cast<std::byte>(1 << (i % 8));
  }
  ListSlots(b, g.cell, out->data() + index, slots);
  const size_t values = out->size();
  const size_t width = static_cast<size_t>(CodeWidth(g.cell));
  out->resize(values + slots->size() * kPanelRows * width);
  for (size_t s = 0; s < slots->size(); ++s) {
    const int64_t col = (*slots)[s];
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const uint16_t stored = col < 0 ? zero : code(r, col);
      const size_t at = SlotPosition(s, g.cell) + static_cast<size_t>(r * g.cell);
      std::memcpy(out->data() + values + at * width, &stored, width);
    }
  }
}

Result<LinearWeight> PackBlocks(const WeightSpec& spec, int64_t rows, int64_t cols,
                                const RowReader& reader, const QuantGrid* grid) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  const BlockGeometry b = BlockGeometryOf(spec, cols);
  std::vector<int64_t> slots;
  const auto append = [&](const PanelBuilder& panel, int64_t, std::vector<std::byte>* blob) {
    AppendPanel(g, b, panel, ZeroCode(spec.values), &slots, blob);
    return OkStatus();
  };
  return PackByPanel(spec, rows, cols, reader, grid, append);
}

void UnpackBlocks(const LinearWeight& weight, int64_t begin, int64_t end, float* out) {
  const WeightSpec& spec = weight.spec;
  const PanelGeometry g = GeometryOf(spec, weight.rows, weight.cols);
  const BlockGeometry b = BlockGeometryOf(spec, weight.cols);
  const uint16_t zero = ZeroCode(spec.values);
  std::fill_n(out, (end - begin) * weight.cols, 0.0f);
  std::vector<int64_t> slots;
  for (int64_t p = begin / kPanelRows; p * kPanelRows < end; ++p) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, p);
    const std::byte* index = panel + g.scale_bytes;
    const std::byte* values = index + b.index_bytes;
    ListSlots(b, g.cell, index, &slots);
    const int64_t row_begin = std::max(begin, p * kPanelRows);
    const int64_t row_end = std::min(end, (p + 1) * kPanelRows);
    for (size_t s = 0; s < slots.size(); ++s) {
      const int64_t col = slots[s];
      if (col < 0 || col >= weight.cols) continue;
      for (int64_t row = row_begin; row < row_end; ++row) {
        const int64_t lane = row - p * kPanelRows;
        const size_t at = SlotPosition(s, g.cell) + static_cast<size_t>(lane * g.cell);
        const float scale = GroupScale(g, panel, col / kBlockCols, lane);
        out[(row - begin) * weight.cols + col] =
            DecodeValue(spec.values, LoadCode(values, at, g.cell), zero, scale);
      }
    }
  }
}

// Whether every slot is zero in the lanes [first_lane, 16), and in all lanes where it is no input
// of the shape.
bool PaddingIsZero(const PanelGeometry& g, const std::vector<int64_t>& slots, int64_t first_lane,
                   uint16_t zero, const std::byte* values) {
  for (size_t s = 0; s < slots.size(); ++s) {
    const bool padding = slots[s] < 0 || slots[s] >= g.cols;
    for (int64_t lane = padding ? 0 : first_lane; lane < kPanelRows; ++lane) {
      const size_t at = SlotPosition(s, g.cell) + static_cast<size_t>(lane * g.cell);
      if (LoadCode(values, at, g.cell) != zero) return false;
    }
  }
  return true;
}

Result<int64_t> ValidateBlocks(const LinearWeight& weight) {
  const WeightSpec& spec = weight.spec;
  HARROW_ASSIGN_OR_RETURN(const PanelGeometry g, ValidatePanelFrame(weight));
  const BlockGeometry b = BlockGeometryOf(spec, weight.cols);
  const int64_t unit_codes = kPanelRows * g.cell;
  int64_t nonzeros = 0;
  std::vector<int64_t> slots;
  for (int64_t p = 0; p < g.panels; ++p) {
    const auto corrupt = [&](std::string_view what) {
      return Corruption("{}: panel {}: {}", SpecName(spec), p, what);
    };
    const std::byte* index = weight.data.data() + PanelOffset(weight, p) + g.scale_bytes;
    const int64_t rest = weight.data.data() + PanelOffset(weight, p + 1) - index;
    if (rest < b.index_bytes) return corrupt("its index runs past its end");
    for (int64_t i = b.bits; i < 8 * b.index_bytes; ++i) {
      if (Bit(index, i)) return corrupt("its index names a block outside the shape");
    }
    ListSlots(b, g.cell, index, &slots);
    const int64_t units = static_cast<int64_t>(slots.size()) / g.cell;
    if (rest != b.index_bytes + units * kUnitBytes) {
      return corrupt(
          fmt::format("{} bytes of values, expected {}", rest - b.index_bytes, units * kUnitBytes));
    }
    const std::byte* values = index + b.index_bytes;
    for (int64_t u = 0; u < units; ++u) {
      const CodeCount count = CountCodes(spec.values, values + u * kUnitBytes, unit_codes);
      if (count.invalid > 0) return corrupt("a value is not finite, or no code of the format");
      nonzeros += unit_codes - count.zeros;
    }
    const int64_t lanes = std::min(weight.rows - p * kPanelRows, kPanelRows);
    if (!PaddingIsZero(g, slots, lanes, ZeroCode(spec.values), values))
      return corrupt("a weight outside the shape is not zero");
  }
  return nonzeros;
}

// The largest blocks that the pattern's consist of.
std::optional<WeightSpec> SuitBlocks(const WeightSpec& wanted) {
  if (wanted.block_rows == 0 || wanted.block_rows % kPanelRows != 0) return std::nullopt;
  WeightSpec spec;
  spec.format = FormatId::kBlock;
  spec.values = IsQuantized(wanted.values) ? wanted.values : ValueType::kBf16;
  spec.group = wanted.group;
  spec.block_rows = static_cast<int32_t>(kPanelRows);
  if (wanted.block_cols <= 0) return std::nullopt;
  spec.block_cols = wanted.block_cols % 16 == 0 ? 16 : wanted.block_cols % 4 == 0 ? 4 : 1;
  return spec;
}

}  // namespace

extern const FormatOps kBlockOps;
const FormatOps kBlockOps = {
    .analyze = AnalyzeBlocks,
    .pack = PackBlocks,
    .unpack = UnpackBlocks,
    .validate = ValidateBlocks,
    .suit = SuitBlocks,
};

}  // namespace harrow
