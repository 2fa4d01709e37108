// Pack, Unpack and Validate of every panel format, written once over a block codec. A codec is a
// struct of static functions; `zeros` are the codes that mean 0, one for each row of the panel:
//
//   // Bytes of `count` blocks that hold `nonzeros` non-zero weights.
//   uint64_t BlocksBytes(const WeightSpec&, int64_t count, int64_t nonzeros);
//   // Appends one block of 512 codes. Returns -1, or the position of a weight that does not fit.
//   int64_t Encode(const WeightSpec&, const uint16_t* codes, const uint16_t* zeros,
//                  std::vector<std::byte>* out);
//   // Expands the block at `in`; returns the end of it.
//   const std::byte* Decode(const WeightSpec&, const std::byte* in, const uint16_t* zeros,
//                           uint16_t* codes);
//   // Bytes of the block at `in` when all of them lie within `available` and the block is well
//   // formed, else -1. Adds to *nonzeros.
//   int64_t Check(const WeightSpec&, const std::byte* in, uint64_t available,
//                 const uint16_t* zeros, int64_t* nonzeros);
#ifndef HARROW_FORMATS_PANEL_CODEC_H_
#define HARROW_FORMATS_PANEL_CODEC_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "base/float16.h"
#include "formats/panel.h"

namespace harrow {

// The codes that mean 0 in the 16 rows of a block. `panel` is where the panel begins.
void LoadZeroCodes(const WeightSpec& spec, const PanelGeometry& geometry, const std::byte* panel,
                   int64_t block, uint16_t* zeros);

// One panel on its way into a blob: 16 rows of float32 turned into scales and codes.
class PanelBuilder {
 public:
  // `grid` may be null: round to nearest.
  PanelBuilder(const WeightSpec& spec, const PanelGeometry& geometry, const QuantGrid* grid);
  // Reads rows [panel * 16, ...) and fills the scales and codes. Fails on a value that is not
  // finite, or not after rounding, or off the grid.
  Status Load(int64_t panel, const RowReader& reader);
  // Scales and zero points, padded.
  void AppendScales(std::vector<std::byte>* out) const;
  const uint16_t* BlockCodes(int64_t block) const { return codes_.data() + block * kBlockWeights; }
  void ZeroCodes(int64_t block, uint16_t* zeros) const {
    LoadZeroCodes(spec_, geometry_, head_.data(), block, zeros);
  }

 private:
  uint16_t* CodeAt(int64_t lane, int64_t col);
  Status RoundToBf16(int64_t row, int64_t lane);
  Status Quantize(int64_t row, int64_t lane);

  WeightSpec spec_;
  PanelGeometry geometry_;
  const QuantGrid* grid_;
  std::vector<float> row_;
  std::vector<uint16_t> codes_;  // [blocks][512]
  std::vector<std::byte> head_;  // [scale_bytes]
};

// Non-zero weights among the first `rows` x `cols` of a block, and whether all others are zero.
struct BlockCount {
  int64_t nonzeros = 0;
  bool padding_is_zero = true;
};
BlockCount CountBlock(const uint16_t* codes, const uint16_t* zeros, ValueType values, int64_t rows,
                      int64_t cols);

// Codes among `count` <= 512 values that mean 0, and that do not occur (i8: 0; bf16: -0, infinities
// and NaN; halves of a block of 4-bit codes that no weight takes: not 0). Not for u4, where the row
// decides what means 0; 4 bits: an even `count`.
struct CodeCount {
  int64_t zeros = 0;
  int64_t invalid = 0;
};
CodeCount CountCodes(ValueType values, const std::byte* in, int64_t count);

// The checks that do not depend on what stands behind the scales of a panel: spec, shape, table,
// sizes, scales.
Result<PanelGeometry> ValidatePanelFrame(const LinearWeight& weight);

// Packs a weight of a valid spec and shape panel by panel: `append` puts what the format has behind
// the scales of panel `index`; table, padding and slack come from here.
using PanelAppender =
    std::function<Status(const PanelBuilder& panel, int64_t index, std::vector<std::byte>* blob)>;
Result<LinearWeight> PackByPanel(const WeightSpec& spec, int64_t rows, int64_t cols,
                                 const RowReader& reader, const QuantGrid* grid,
                                 const PanelAppender& append);

// Scale of a lane for the inputs of a block; 1 without scales. `panel` is where the panel begins.
inline float GroupScale(const PanelGeometry& geometry, const std::byte* panel, int64_t block,
                        int64_t lane) {
  if (geometry.groups == 0) return 1.0f;
  uint16_t bits;
  const int64_t index = block / geometry.group_blocks * kPanelRows + lane;
  std::memcpy(&bits, panel + index * 2, sizeof(bits));
  return Bf16ToF32(bits);
}

// float32 value of a code under a scale, where `zero` is the code that means 0.
inline float DecodeValue(ValueType values, uint16_t code, uint16_t zero, float scale) {
  if (!IsQuantized(values)) return Bf16ToF32(code);
  return ValueOfCode({scale, static_cast<float>(zero)}, code);
}

template <class Codec>
uint64_t AnalyzePanels(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t nonzeros) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  // The values of all panels as one run; each panel then wastes at most 63 bytes of padding.
  const uint64_t blocks = Codec::BlocksBytes(spec, g.panels * g.blocks, nonzeros);
  const uint64_t per_panel =
      (blocks / static_cast<uint64_t>(g.panels) + kPanelAlign - 1) / kPanelAlign * kPanelAlign;
  return g.header_bytes +
         static_cast<uint64_t>(g.panels) * (static_cast<uint64_t>(g.scale_bytes) + per_panel) +
         kPanelSlack;
}

template <class Codec>
Result<LinearWeight> PackPanels(const WeightSpec& spec, int64_t rows, int64_t cols,
                                const RowReader& reader, const QuantGrid* grid) {
  const PanelGeometry g = GeometryOf(spec, rows, cols);
  const auto append = [&](const PanelBuilder& panel, int64_t p, std::vector<std::byte>* blob) {
    uint16_t zeros[kPanelRows];
    for (int64_t b = 0; b < g.blocks; ++b) {
      panel.ZeroCodes(b, zeros);
      const int64_t bad = Codec::Encode(spec, panel.BlockCodes(b), zeros, blob);
      if (bad >= 0) {
        const int64_t unit = kPanelRows * g.cell;
        const int64_t col = b * kBlockCols + bad / unit * g.cell + bad % g.cell;
        return InvalidArgument("row {}, column {}: more than {} of {} weights are not zero",
                               p * kPanelRows + bad % unit / g.cell, col, spec.keep_n, spec.of_m);
      }
    }
    return OkStatus();
  };
  return PackByPanel(spec, rows, cols, reader, grid, append);
}

template <class Codec>
void UnpackPanels(const LinearWeight& weight, int64_t begin, int64_t end, float* out) {
  const WeightSpec& spec = weight.spec;
  const PanelGeometry g = GeometryOf(spec, weight.rows, weight.cols);
  uint16_t codes[kBlockWeights];
  uint16_t zeros[kPanelRows];
  for (int64_t p = begin / kPanelRows; p * kPanelRows < end; ++p) {
    const std::byte* scales = weight.data.data() + PanelOffset(weight, p);
    const std::byte* in = scales + g.scale_bytes;
    const int64_t row_begin = std::max(begin, p * kPanelRows);
    const int64_t row_end = std::min(end, (p + 1) * kPanelRows);
    for (int64_t b = 0; b < g.blocks; ++b) {
      LoadZeroCodes(spec, g, scales, b, zeros);
      in = Codec::Decode(spec, in, zeros, codes);
      const int64_t col_end = std::min(weight.cols - b * kBlockCols, kBlockCols);
      for (int64_t row = row_begin; row < row_end; ++row) {
        const int64_t lane = row - p * kPanelRows;
        const float scale = GroupScale(g, scales, b, lane);
        float* to = out + (row - begin) * weight.cols + b * kBlockCols;
        for (int64_t c = 0; c < col_end; ++c)
          to[c] =
              DecodeValue(spec.values, codes[BlockPosition(lane, c, g.cell)], zeros[lane], scale);
      }
    }
  }
}

template <class Codec>
Result<int64_t> ValidatePanels(const LinearWeight& weight) {
  HARROW_ASSIGN_OR_RETURN(const PanelGeometry g, ValidatePanelFrame(weight));
  int64_t total = 0;
  uint16_t codes[kBlockWeights];
  uint16_t zeros[kPanelRows];
  for (int64_t p = 0; p < g.panels; ++p) {
    const std::byte* panel = weight.data.data() + PanelOffset(weight, p);
    const std::byte* in = panel + g.scale_bytes;
    const std::byte* end = weight.data.data() + PanelOffset(weight, p + 1);
    const int64_t rows = std::min(weight.rows - p * kPanelRows, kPanelRows);
    for (int64_t b = 0; b < g.blocks; ++b) {
      const int64_t cols = std::min(weight.cols - b * kBlockCols, kBlockCols);
      int64_t nonzeros = 0;
      LoadZeroCodes(weight.spec, g, panel, b, zeros);
      const int64_t bytes =
          Codec::Check(weight.spec, in, static_cast<uint64_t>(end - in), zeros, &nonzeros);
      if (bytes < 0) {
        return Corruption(
            "{}: panel {}, block {}: masks and values do not fit the format, are not "
            "finite or run past the end of the panel",
            SpecName(weight.spec), p, b);
      }
      if (rows < kPanelRows || cols < kBlockCols) {
        Codec::Decode(weight.spec, in, zeros, codes);
        const BlockCount count = CountBlock(codes, zeros, weight.spec.values, rows, cols);
        if (!count.padding_is_zero) {
          return Corruption("{}: panel {}, block {}: a weight outside [{}, {}] is not zero",
                            SpecName(weight.spec), p, b, weight.rows, weight.cols);
        }
        nonzeros = count.nonzeros;
      }
      total += nonzeros;
      in += bytes;
    }
    if (end - in >= kPanelAlign) {
      return Corruption("{}: panel {} holds {} bytes more than its blocks", SpecName(weight.spec),
                        p, end - in);
    }
  }
  return total;
}

}  // namespace harrow

#endif  // HARROW_FORMATS_PANEL_CODEC_H_
