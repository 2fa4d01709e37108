// kIndex: an index byte beside each non-zero code. docs/formats/index.md
#include "formats/index.h"

#include <cmath>
#include <cstring>

#include "formats/panel_codec.h"

namespace harrow {
namespace {

// Steps of a tile of `inputs` that are non-zero with probability `density`, each by itself: the
// fullest of 16 rows decides.
double ExpectedSteps(int64_t inputs, double density) {
  if (density <= 0) return 0;
  if (density >= 1) return static_cast<double>((inputs + kStepPerRow - 1) / kStepPerRow);
  const double n = static_cast<double>(inputs);
  double steps = 0;
  double at_most = 0;  // probability of at most k non-zeros in a row
  for (int64_t k = 0; k < inputs; ++k) {
    const double c = static_cast<double>(k);
    at_most += std::exp(std::lgamma(n + 1) - std::lgamma(c + 1) - std::lgamma(n - c + 1) +
                        c * std::log(density) + (n - c) * std::log1p(-density));
    if (k % kStepPerRow == 0)
      steps += 1 - std::pow(std::min(at_most, 1.0), static_cast<double>(kPanelRows));
  }
  return steps;
}

uint64_t AnalyzeIndex(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t nonzeros) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  const IndexGeometry x = IndexGeometryOf(spec, cols);
  const double density = static_cast<double>(nonzeros) / static_cast<double>(rows * cols);
  const double steps = ExpectedSteps(x.tile, density) * static_cast<double>(cols / x.tile) +
                       ExpectedSteps(cols % x.tile, density);
  return g.header_bytes +
         static_cast<uint64_t>(g.panels) *
             (static_cast<uint64_t>(g.scale_bytes + x.count_bytes) +
              static_cast<uint64_t>(steps + 0.5) * static_cast<uint64_t>(kStepBytes)) +
         kPanelSlack;
}

// Appends the counts and the steps of one panel.
void AppendPanel(const PanelGeometry& g, const IndexGeometry& x, const PanelBuilder& panel,
                 uint16_t zero, std::vector<std::byte>* out) {
  const size_t counts = out->size();
  out->resize(counts + static_cast<size_t>(x.count_bytes));
  for (int64_t tile = 0; tile < x.tiles; ++tile) {
    const size_t first = out->size();
    const int64_t end = std::min((tile + 1) * x.tile, g.cols);
    for (int64_t row = 0; row < kPanelRows; ++row) {
      int64_t stored = 0;
      for (int64_t col = tile * x.tile; col < end; ++col) {
        const uint16_t code =
            panel.BlockCodes(col / kBlockCols)[BlockPosition(row, col % kBlockCols, g.cell)];
        if (code == zero) continue;
        const size_t step = first + static_cast<size_t>(stored / kStepPerRow * kStepBytes);
        if (step == out->size()) {
          out->resize(step + kStepBytes);
          std::fill_n(out->begin() + static_cast<int64_t>(step) + kStepCodes, kStepCodes,
                      static_cast<std::byte>(zero));
        }
        const size_t at = step + static_cast<size_t>(row * kStepPerRow + stored % kStepPerRow);
        (*out)[at] = static_cast<std::byte>(col - tile * x.tile);
        (*out)[at + kStepCodes] = static_cast<std::byte>(code);
        ++stored;
      }
    }
    (*out)[counts + static_cast<size_t>(tile)] =
        static_cast<std::byte>((out->size() - first) / kStepBytes);
  }
}

Result<LinearWeight> PackIndex(const WeightSpec& spec, int64_t rows, int64_t cols,
                               const RowReader& reader, const QuantGrid* grid) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  const IndexGeometry x = IndexGeometryOf(spec, cols);
  const auto append = [&](const PanelBuilder& panel, int64_t, std::vector<std::byte>* blob) {
    AppendPanel(g, x, panel, ZeroCode(spec.values), blob);
    return OkStatus();
  };
  return PackByPanel(spec, rows, cols, reader, grid, append);
}

// The four slots of a row in a step.
struct RowStep {
  const std::byte* step;
  int64_t row;
  int64_t Index(int64_t i) const { return static_cast<int64_t>(step[row * kStepPerRow + i]); }
  uint16_t Code(int64_t i) const {
    return static_cast<uint16_t>(step[kStepCodes + row * kStepPerRow + i]);
  }
};

void UnpackIndex(const LinearWeight& weight, int64_t begin, int64_t end, float* out) {
  const WeightSpec& spec = weight.spec;
  const PanelGeometry g = GeometryOf(spec, weight.rows, weight.cols);
  const IndexGeometry x = IndexGeometryOf(spec, weight.cols);
  const uint16_t zero = ZeroCode(spec.values);
  std::fill_n(out, (end - begin) * weight.cols, 0.0f);
  for (int64_t p = begin / kPanelRows; p * kPanelRows < end; ++p) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, p);
    const std::byte* counts = panel + g.scale_bytes;
    const std::byte* step = counts + x.count_bytes;
    const int64_t row_begin = std::max(begin, p * kPanelRows);
    const int64_t row_end = std::min(end, (p + 1) * kPanelRows);
    for (int64_t tile = 0; tile < x.tiles; ++tile) {
      for (int64_t s = static_cast<int64_t>(counts[tile]); s > 0; --s, step += kStepBytes) {
        for (int64_t row = row_begin; row < row_end; ++row) {
          const int64_t lane = row - p * kPanelRows;
          const RowStep slots = {step, lane};
          for (int64_t i = 0; i < kStepPerRow; ++i) {
            if (slots.Code(i) == zero) continue;
            const int64_t col = tile * x.tile + slots.Index(i);
            const float scale = GroupScale(g, panel, col / kBlockCols, lane);
            out[(row - begin) * weight.cols + col] =
                DecodeValue(spec.values, slots.Code(i), zero, scale);
          }
        }
      }
    }
  }
}

// Non-zeros of a row of a tile with `inputs` inputs, -1 where its steps are not well formed:
// weights by rising index, then only padding, index 0 and the code of 0.
int64_t CountRow(const std::byte* steps, int64_t count, int64_t row, int64_t inputs) {
  int64_t nonzeros = 0;
  int64_t last = -1;
  bool padding = false;
  for (int64_t s = 0; s < count; ++s) {
    const RowStep slots = {steps + s * kStepBytes, row};
    for (int64_t i = 0; i < kStepPerRow; ++i) {
      const int64_t index = slots.Index(i);
      const uint16_t code = slots.Code(i);
      if (code == ZeroCode(ValueType::kI8)) {
        padding = true;
        if (index != 0) return -1;
        continue;
      }
      if (padding || code == 0 || index <= last || index >= inputs) return -1;
      last = index;
      ++nonzeros;
    }
  }
  return nonzeros;
}

Result<int64_t> ValidateIndex(const LinearWeight& weight) {
  const WeightSpec& spec = weight.spec;
  HARROW_ASSIGN_OR_RETURN(const PanelGeometry g, ValidatePanelFrame(weight));
  const IndexGeometry x = IndexGeometryOf(spec, weight.cols);
  int64_t nonzeros = 0;
  for (int64_t p = 0; p < g.panels; ++p) {
    const auto corrupt = [&](std::string_view what) {
      return Corruption("{}: panel {}: {}", SpecName(spec), p, what);
    };
    const std::byte* counts = weight.data.data() + PanelOffset(weight, p) + g.scale_bytes;
    const int64_t rest = weight.data.data() + PanelOffset(weight, p + 1) - counts;
    if (rest < x.count_bytes) return corrupt("its counts run past its end");
    int64_t steps = 0;
    for (int64_t tile = 0; tile < x.tiles; ++tile)
      steps += static_cast<int64_t>(counts[tile]);
    if (rest != x.count_bytes + steps * kStepBytes) {
      return corrupt(fmt::format("{} bytes of weights, expected {}", rest - x.count_bytes,
                                 steps * kStepBytes));
    }
    const std::byte* tile_steps = counts + x.count_bytes;
    const int64_t rows = std::min(weight.rows - p * kPanelRows, kPanelRows);
    for (int64_t tile = 0; tile < x.tiles; ++tile) {
      const int64_t count = static_cast<int64_t>(counts[tile]);
      const int64_t inputs = std::min(x.tile, weight.cols - tile * x.tile);
      for (int64_t row = 0; row < kPanelRows; ++row) {
        const int64_t found = CountRow(tile_steps, count, row, row < rows ? inputs : 0);
        if (found < 0) {
          return corrupt(
              fmt::format("tile {}, row {}: not the weights of {} inputs by rising index, then "
                          "zeros",
                          tile, row, row < rows ? inputs : 0));
        }
        nonzeros += found;
      }
      tile_steps += count * kStepBytes;
    }
  }
  return nonzeros;
}

std::optional<WeightSpec> SuitIndex(const WeightSpec& wanted) {
  // Only zeros anywhere fill the rows of a tile evenly.
  if (wanted.values != ValueType::kI8 || wanted.of_m > 0 || wanted.block_rows > 0)
    return std::nullopt;
  return WeightSpec{.format = FormatId::kIndex, .values = wanted.values, .group = wanted.group};
}

}  // namespace

extern const FormatOps kIndexOps;
const FormatOps kIndexOps = {
    .analyze = AnalyzeIndex,
    .pack = PackIndex,
    .unpack = UnpackIndex,
    .validate = ValidateIndex,
    .suit = SuitIndex,
};

}  // namespace harrow
