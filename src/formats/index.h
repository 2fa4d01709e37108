// Where the parts of a kIndex panel stand; docs/formats/index.md.
//
// A panel is scales, the number of steps of each tile (a byte each, padded to 64), and the steps,
// tile after tile. A tile is the inputs whose activations share a scale. A step holds four weights
// of each of the 16 rows: 64 bytes say which inputs of the tile, 64 hold the codes.
#ifndef HARROW_FORMATS_INDEX_H_
#define HARROW_FORMATS_INDEX_H_

#include <cstdint>

#include "formats/panel.h"

namespace harrow {

inline constexpr int64_t kStepPerRow = 4;
inline constexpr int64_t kStepCodes = kPanelRows * kStepPerRow;
inline constexpr int64_t kStepBytes = 2 * kStepCodes;

struct IndexGeometry {
  int64_t tile = 0;         // inputs: 32, 64, 96 or 128
  int64_t tiles = 0;        // of a panel; the last may be short
  int64_t count_bytes = 0;  // a multiple of 64
};

inline IndexGeometry IndexGeometryOf(const WeightSpec& spec, int64_t cols) {
  IndexGeometry i;
  i.tile = ActivationGroup(spec.group);
  i.tiles = (cols + i.tile - 1) / i.tile;
  i.count_bytes = (i.tiles + kPanelAlign - 1) / kPanelAlign * kPanelAlign;
  return i;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_INDEX_H_
