// The grid of a layer while a quantizer chooses it, group by group.
#ifndef HARROW_COMPRESS_METHODS_GRID_H_
#define HARROW_COMPRESS_METHODS_GRID_H_

#include <algorithm>
#include <cstdint>
#include <memory>

#include "compress/methods/quantization.h"
#include "formats/quant_grid.h"

namespace harrow {

// The range of a group's weights; it always contains zero.
struct GroupRange {
  double min = 0;
  double max = 0;
  void Add(double w) {
    min = std::min(min, w);
    max = std::max(max, w);
  }
  // GridOfRange: the grid that round-to-nearest would take.
  GroupGrid Grid(ValueType values) const {
    return GridOfRange(values, static_cast<float>(min), static_cast<float>(max));
  }
};

// The value of the nearest code.
inline float RoundToGrid(ValueType values, const GroupGrid& grid, double w) {
  return ValueOfCode(grid, NearestCode(values, grid, static_cast<float>(w)));
}

// The grids of a weight [rows, cols], all zero at first. Groups are in input order.
class GridBuilder {
 public:
  GridBuilder(const Quantization& quantization, int64_t rows, int64_t cols)
      : quantization_(quantization),
        groups_((cols + quantization.group - 1) / quantization.group),
        grid_(std::make_shared<QuantGrid>()) {
    grid_->group = quantization.group;
    grid_->scales.resize(static_cast<size_t>(rows * groups_));
    if (quantization.values == ValueType::kU4) grid_->zeros.resize(grid_->scales.size());
  }
  int64_t groups() const { return groups_; }
  void Set(int64_t row, int64_t group, const GroupGrid& grid) {
    const auto i = static_cast<size_t>(row * groups_ + group);
    grid_->scales[i] = grid.scale;
    if (!grid_->zeros.empty()) grid_->zeros[i] = grid.zero;
  }
  // The nearest value to a weight of `row` at input `col`.
  float Round(int64_t row, int64_t col, double w) const {
    const auto i = static_cast<size_t>(row * groups_ + col / quantization_.group);
    return RoundToGrid(quantization_.values,
                       {grid_->scales[i], grid_->zeros.empty() ? 0.0f : grid_->zeros[i]}, w);
  }
  // How to store a layer whose values lie on the grids. To be called once, last.
  Quantization Finish() {
    quantization_.grid = std::move(grid_);
    return quantization_;
  }

 private:
  Quantization quantization_;
  int64_t groups_;
  std::shared_ptr<QuantGrid> grid_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_GRID_H_
