// The grid that the weights of a group are rounded to, and how quantizers ask for one.
#ifndef HARROW_COMPRESS_METHODS_GRID_H_
#define HARROW_COMPRESS_METHODS_GRID_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "compress/methods/method.h"
#include "compress/option_reader.h"

namespace harrow {

// The keys `format`, `group` and `symmetric`.
struct GridSpec {
  int32_t bits = 4;       // 4 or 8
  int32_t group = 128;    // inputs that share a scale
  bool symmetric = true;  // no zero point

  static GridSpec Read(OptionReader* options);
};

// The range of a group's weights; it always contains zero.
struct GroupRange {
  double min = 0;
  double max = 0;
  void Add(double w) {
    min = std::min(min, w);
    max = std::max(max, w);
  }
};

// The values scale * (q - zero) for codes q; scale and zero as the formats store them.
struct GroupScale {
  float scale = 0;  // BF16; 0: every weight becomes 0
  float zero = 0;   // an integer
};

// Source of the asymmetric grid: gptq quant.py find_params.
GroupScale FitGrid(const GridSpec& spec, const GroupRange& range);
// The grid's value that is nearest to w, ties to the even code; exact in float32.
double RoundToGrid(const GridSpec& spec, const GroupScale& grid, double w);
// Makes the layer be stored with these grids [rows, groups].
void StoreGrid(const GridSpec& spec, const std::vector<GroupScale>& grids, LayerWork* layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_GRID_H_
