// The panel layout that dense_panel, bitmask and nm share; docs/formats/panel.md has it bit by bit.
//
// W is cut into panels of 16 output rows and each panel into blocks of 32 inputs: 512 weights. In a
// block the weights stand cell by cell: a cell is 4 bytes along the inputs (2 bf16 or 4 int8) and a
// unit is the same cell of all 16 rows, so that one 64-byte vector holds one unit and every lane
// belongs to one output row. Rows are padded to a multiple of 16 and inputs to a multiple of 32
// with zeros.
//
// A stored value is a code: the bits of a bf16; a byte q + 128 with q in [-127, 127]; or 4 bits, q
// + 8 (i4) or q + zero (u4), where q times the scale is the weight.
#ifndef HARROW_FORMATS_PANEL_H_
#define HARROW_FORMATS_PANEL_H_

#include <cstdint>
#include <cstring>

#include "formats/linear_weight.h"

namespace harrow {

inline constexpr int64_t kPanelRows = 16;
inline constexpr int64_t kBlockCols = 32;
inline constexpr int64_t kBlockWeights = kPanelRows * kBlockCols;
inline constexpr int64_t kMaskBytes = kBlockWeights / 8;
inline constexpr int64_t kQuadMaskBytes = kMaskBytes / 4;
inline constexpr int64_t kPanelAlign = 64;
// Readable bytes after the last panel: a full-width load that starts inside it stays in the blob.
inline constexpr int64_t kPanelSlack = 64;
// The largest accepted number of rows or columns; keeps all size arithmetic far from overflow.
inline constexpr int64_t kMaxWeightDim = int64_t{1} << 28;

// Everything about a panel blob that follows from its spec and shape.
struct PanelGeometry {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t panels = 0;        // ceil(rows / 16)
  int64_t blocks = 0;        // ceil(cols / 32), per panel
  int64_t groups = 0;        // scale groups per row; 0 for bf16
  int64_t group_blocks = 0;  // blocks of a full group
  int64_t cell = 0;          // inputs of a cell: 2 for bf16, 4 for others
  int64_t scale_bytes = 0;   // at the start of every panel: bf16 scales [groups][16], then (u4)
                             // bytes zero[groups][16]; padded to a multiple of 64
  uint64_t header_bytes = 0;

  // Where in a panel the zero points are (u4).
  int64_t zeros_at() const { return groups * kPanelRows * 2; }
};
PanelGeometry GeometryOf(const WeightSpec& spec, int64_t rows, int64_t cols);

// Where the weight (row, col) of a block stands: 0 .. 511.
inline int64_t BlockPosition(int64_t row, int64_t col, int64_t cell) {
  return (col / cell) * (kPanelRows * cell) + row * cell + col % cell;
}

// The panel row of a position.
inline int64_t BlockLane(int64_t position, int64_t cell) {
  return (position >> (cell == 4 ? 2 : 1)) % kPanelRows;
}

// The code that means 0; for u4 under a scale of 0.
inline uint16_t ZeroCode(ValueType values) {
  return values == ValueType::kI8 ? 128 : values == ValueType::kI4 ? 8 : 0;
}

// Of a stored code: 4, 8 or 16.
inline int64_t CodeBits(ValueType values) {
  return values == ValueType::kBf16 ? 16 : values == ValueType::kI8 ? 8 : 4;
}
// Of `count` codes one behind the other.
inline int64_t CodeBytes(ValueType values, int64_t count) {
  return (count * CodeBits(values) + 7) / 8;
}
inline int64_t CellOf(ValueType values) {
  return values == ValueType::kBf16 ? 2 : 4;
}

// Whether a masked format has one mask bit for each 1 x 4 block.
inline bool IsQuadMask(const WeightSpec& spec) {
  return spec.block_cols == 4;
}
inline int64_t MaskBytes(const WeightSpec& spec) {
  return IsQuadMask(spec) ? kQuadMaskBytes : kMaskBytes;
}

// Bytes of every block of a format whose blocks are all of one size (dense_panel, nm); 0 for
// others.
int64_t BlockStride(const WeightSpec& spec);

// Byte offset of a panel from the start of the blob; `panel` = panels gives the end of the last
// one.
inline uint64_t PanelOffset(const LinearWeight& weight, int64_t panel) {
  uint64_t offset;
  std::memcpy(&offset, weight.data.data() + panel * 8, sizeof(offset));
  return offset;
}

// Kernels quantize activations in groups of this many inputs: the largest divisor of the weight's
// group that is a multiple of 32 and at most 128.
int64_t ActivationGroup(int64_t weight_group);

// Whether rows and cols are positive and within kMaxWeightDim.
Status ValidateWeightShape(int64_t rows, int64_t cols);

}  // namespace harrow

#endif  // HARROW_FORMATS_PANEL_H_
