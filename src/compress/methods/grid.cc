#include "compress/methods/grid.h"

#include <bit>
#include <cmath>

#include "base/float16.h"

namespace harrow {
namespace {

float RoundedUp(double value) {
  uint16_t bits = F32ToBf16(static_cast<float>(value));
  while (static_cast<double>(Bf16ToF32(bits)) < value)
    ++bits;
  return Bf16ToF32(bits);
}

int32_t MaxCode(const GridSpec& spec) {
  return spec.symmetric ? (1 << (spec.bits - 1)) - 1 : (1 << spec.bits) - 1;
}

}  // namespace

GridSpec GridSpec::Read(OptionReader* options) {
  GridSpec spec;
  spec.bits = options->Choice("format", "int4", {"int4", "int8"}) == "int8" ? 8 : 4;
  const int64_t group = options->Integer("group", 128, 32, 1 << 16);
  if (group % 32 != 0) {
    options->Fail("group", fmt::format("expected a multiple of 32, found {}", group));
  }
  spec.group = static_cast<int32_t>(group);
  spec.symmetric = options->Boolean("symmetric", true);
  return spec;
}

GroupScale FitGrid(const GridSpec& spec, const GroupRange& range) {
  GroupScale grid;
  if (spec.symmetric) {
    grid.scale = RoundedUp(std::max(-range.min, range.max) / MaxCode(spec));
    return grid;
  }
  grid.scale = RoundedUp((range.max - range.min) / MaxCode(spec));
  if (grid.scale > 0) grid.zero = static_cast<float>(std::nearbyint(-range.min / grid.scale));
  return grid;
}

double RoundToGrid(const GridSpec& spec, const GroupScale& grid, double w) {
  if (grid.scale == 0) return 0;
  const double most = MaxCode(spec);
  const double least = spec.symmetric ? -most : 0;
  const double zero = grid.zero;
  const double code = std::clamp(std::nearbyint(w / grid.scale) + zero, least, most);
  return grid.scale * (code - zero);
}

void StoreGrid(const GridSpec& spec, const std::vector<GroupScale>& grids, LayerWork* layer) {
  layer->quant_group = spec.group;
}

}  // namespace harrow
