// A linear layer's weight in one of the formats of formats.def, and what a format must be able to
// do.
//
// W is [rows, cols] = [N output features, K input features]; y[M,N] = x[M,K] * W^T.
// The packed bytes are at once the file's form, the memory's form and the kernels' form
// (docs/formats/).
#ifndef HARROW_FORMATS_LINEAR_WEIGHT_H_
#define HARROW_FORMATS_LINEAR_WEIGHT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/quant_grid.h"
#include "tensor/tensor.h"

namespace harrow {

enum class FormatId : uint8_t {
#define HARROW_FORMAT(id, name, ops) id,
#include "formats/formats.def"
#undef HARROW_FORMAT
};

// How a stored value is coded; quant_grid.h says what the quantized ones stand for.
enum class ValueType : uint8_t { kF32, kF16, kBf16, kI8, kI4, kU4 };
std::string_view ValueTypeName(ValueType type);  // "f32" "f16" "bf16" "i8" "i4" "u4"
std::optional<ValueType> ParseValueType(std::string_view name);

// Everything that fixes a layout, besides the shape.
struct WeightSpec {
  FormatId format = FormatId::kDense;
  ValueType values = ValueType::kBf16;
  int32_t group = 0;   // inputs that share a scale: kI8 a positive multiple of 32, kI4 and kU4
                       // 32, 64 or 128; otherwise 0
  int32_t keep_n = 0;  // kNm: keep_n of every of_m consecutive inputs; 0 otherwise
  int32_t of_m = 0;
  int32_t block_rows = 0;  // kBlock: 16; kBitmask of 1x4 blocks: 1; 0 otherwise
  int32_t block_cols = 0;  // kBlock: 1, 4 or 16; kBitmask of 1x4 blocks: 4; 0 otherwise

  bool operator==(const WeightSpec&) const = default;
};

// "dense-bf16", "bitmask-bf16", "nm-bf16 2:4", ...; the group of quantized values as in
// "dense-i8/128" or "nm-i4/64 2:4"; "block-bf16 16x4", "bitmask-i8/128 1x4".
std::string SpecName(const WeightSpec& spec);
// Parses SpecName's form; the group defaults to 128. "int8", "int4" and "uint4" are accepted for
// "i8", "i4" and "u4".
Result<WeightSpec> ParseSpec(std::string_view text);
// Whether the spec is one that Harrow has (format x value type, group, N:M limits, block shapes).
Status ValidateSpec(const WeightSpec& spec);

struct LowRankFactors;

// One packed weight. Not owning unless `owner` is set; copying is cheap.
struct LinearWeight {
  WeightSpec spec;
  int64_t rows = 0;  // N
  int64_t cols = 0;  // K
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;
  // W = what spec and data describe, the residual, plus B * A; null for most weights. A weight
  // without data, and then only, has no residual: it is B * A alone (docs/formats/low_rank.md).
  std::shared_ptr<const LowRankFactors> low_rank = nullptr;

  bool empty() const { return rows == 0; }
  bool has_residual() const { return !data.empty(); }
};

// The product B * A of rank `a.rows`. The factors are weights in any format, without factors of
// their own.
struct LowRankFactors {
  LinearWeight a;  // [rank, cols]
  LinearWeight b;  // [rows, rank]
};

// Supplies W for packing: writes row `row` (cols float32) to `out`. May be called from one thread
// at a time.
using RowReader = std::function<void(int64_t row, float* out)>;

// A format's operations; every format has all of them. Stateless, thread safe.
struct FormatOps {
  // Bytes that Pack would produce, given the number of non-zeros. An estimate for bitmask, whose
  // panels are padded one by one, and for block, where stored blocks may hold zeros.
  uint64_t (*analyze)(const WeightSpec&, int64_t rows, int64_t cols, int64_t nonzeros);
  // Packs; fails on weights that are not finite, do not fit the pattern or are off the grid, naming
  // row and column. The grid is as PackWeight says, and checked.
  Result<LinearWeight> (*pack)(const WeightSpec&, int64_t rows, int64_t cols, const RowReader&,
                               const QuantGrid* grid);
  // Exactly the values the kernels compute with (except that BF16 kernels may take weights and
  // activations below 2^-126 in magnitude for zero; masked formats are packed without such
  // weights), rows [begin, end), as float32 [end - begin, cols].
  void (*unpack)(const LinearWeight&, int64_t begin, int64_t end, float* out);
  // Checks untrusted bytes completely: after OK no kernel can read outside `data`. Also counts the
  // non-zeros.
  Result<int64_t> (*validate)(const LinearWeight&);
  // The format's way to hold weights of `wanted`: its values and group, and where zeros stand:
  // keep_n of of_m, or whole block_rows x block_cols blocks of any size, or anywhere (all 0);
  // wanted.format says nothing. Float values may come back as bf16. None where the format has no
  // use for the pattern or no such values.
  std::optional<WeightSpec> (*suit)(const WeightSpec& wanted);
  // Bits of a weight whose reading takes one token as long as the format's instructions: a smaller
  // weight is no faster. 0 where reading is always what takes the time. Measured;
  // docs/decisions/043-sparse-formats.md
  double least_bits = 0;
};

const FormatOps& OpsOf(FormatId format);
std::string_view FormatName(FormatId format);  // "dense", "bitmask", "nm", ...
std::span<const FormatId> AllFormats();

// What all formats suit for `wanted`, in the order of formats.def: the dense one first.
std::vector<WeightSpec> SuitableSpecs(const WeightSpec& wanted);

// Conveniences over OpsOf(...), for the whole weight: residual and low-rank product.
uint64_t AnalyzeWeight(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t nonzeros);
// Whether a weight of so many bytes in a sparse format is to be stored in place of a dense one (law
// 1: never slower than dense): where it saves a twentieth, because less is lost again to its
// instructions; as index two fifths; in blocks of 16x1, which gather x, two fifths, with quantized
// values three fifths (docs/decisions/046-block-kernels.md, 049-two-processors.md).
bool WorthStoring(const WeightSpec& sparse, uint64_t sparse_bytes, uint64_t dense_bytes);
//
// Packs W as `reader` supplies it. Quantized values are rounded to the nearest code of `grid`,
// whose scales are not changed; a weight that lies beyond the codes of its group is an error.
// Without a grid it is RtnGrid(), and nothing lies beyond.
Result<LinearWeight> PackWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                const RowReader& reader, const QuantGrid* grid = nullptr);
// W [rows, cols] float32, row-major.
Result<LinearWeight> PackWeight(const WeightSpec& spec, int64_t rows, int64_t cols, const float* w,
                                const QuantGrid* grid = nullptr);
// The grid that PackWeight takes by itself: round to nearest, group by group. `spec` is valid and
// has quantized values, W [rows, cols] is finite.
QuantGrid RtnGrid(const WeightSpec& spec, int64_t rows, int64_t cols, const float* w);
// Whether PackWeight can use the grid: its group and sizes fit; scales are finite bf16 values,
// negative for kI4 only; zeros are there for kU4 only, integers 0 .. 15.
Status ValidateGrid(const QuantGrid& grid, const WeightSpec& spec, int64_t rows, int64_t cols);
void UnpackRows(const LinearWeight& weight, int64_t begin, int64_t end, float* out);
// Non-zeros of residual and factors together.
Result<int64_t> ValidateWeight(const LinearWeight& weight);

// Bytes of residual and factors.
uint64_t WeightBytes(const LinearWeight& weight);
// "bitmask-bf16", "low-rank 64", "bitmask-bf16 + low-rank 64".
std::string FormatText(const LinearWeight& weight);

// Wraps a row-major float tensor [rows, cols] as kDense without copying.
Result<LinearWeight> WrapDense(const TensorView& view);

// XXH3-64 of the packed bytes of the residual.
uint64_t WeightChecksum(const LinearWeight& weight);

}  // namespace harrow

#endif  // HARROW_FORMATS_LINEAR_WEIGHT_H_
