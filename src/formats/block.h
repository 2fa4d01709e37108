// Where the stored weights of kBlock stand; docs/formats/block.md.
//
// A panel is scales, an index with one bit for each 16 x block_cols block, padded to 64 bytes, and
// the inputs of the stored blocks ("slots") in order: `cell` slots make a unit. Units do not cross
// the ends of runs: a run is the inputs whose activations share a scale, or the whole row for bf16.
#ifndef HARROW_FORMATS_BLOCK_H_
#define HARROW_FORMATS_BLOCK_H_

#include <cstdint>

#include "formats/panel.h"

namespace harrow {

struct BlockGeometry {
  int64_t block_cols = 0;
  int64_t bits = 0;         // blocks of a panel: ceil(cols / block_cols)
  int64_t index_bytes = 0;  // a multiple of 64
  int64_t run = 0;          // inputs of a run, a multiple of 32
  int64_t runs = 0;
};

inline BlockGeometry BlockGeometryOf(const WeightSpec& spec, int64_t cols) {
  BlockGeometry b;
  b.block_cols = spec.block_cols;
  b.bits = (cols + b.block_cols - 1) / b.block_cols;
  b.index_bytes = (b.bits + 511) / 512 * kPanelAlign;
  b.run = spec.group > 0 ? ActivationGroup(spec.group)
                         : (cols + kBlockCols - 1) / kBlockCols * kBlockCols;
  b.runs = (cols + b.run - 1) / b.run;
  return b;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_BLOCK_H_
