// What a linear kernel is: an entry of the list in linear_list.cc. Internal to kernels/.
#ifndef HARROW_KERNELS_LINEAR_KERNEL_H_
#define HARROW_KERNELS_LINEAR_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "formats/linear_weight.h"
#include "kernels/isa.h"

namespace harrow {

// How x is rounded and stored for a kernel.
enum class XElement : uint8_t {
  kF32,
  kF32RoundedToBf16,  // float32 that holds a bf16
  kBf16,
  kI8,  // symmetric, one scale per token and group
  kU8,  // kI8 + 128
};

enum class XLayout : uint8_t {
  kReference,  // float32 [m][k]; kI8: the integers as floats, and scales [m][groups]
  kRows,       // per token block (all of them, if block_tokens is 0): [chunk of 64 bytes along k]
               // [tokens of the block][64 bytes]; the last chunk is zero padded
  kCells,      // per token block: [cell of 4 bytes along k][tokens of the block]; k is zero padded
               // to a multiple of 32. kI8: scales and corrections [group][tokens of the block]
  kTiles,      // kCells with all blocks but the last full, and that padded to BlockStride()
  kInputs,     // kTiles, but of single inputs: [input][tokens of the tile]
};

struct XFormat {
  XElement element = XElement::kF32;
  XLayout layout = XLayout::kReference;
  int32_t group = 0;           // kI8: inputs that share a scale
  int32_t block_tokens = 0;    // kRows, kCells, kTiles, kInputs: the most tokens of a block
  int32_t tile_multiple = 16;  // tiles: the last block is padded to a multiple of so many tokens

  bool tiles() const { return layout == XLayout::kTiles || layout == XLayout::kInputs; }
  bool operator==(const XFormat&) const = default;
};

// Readable bytes after the values of x: kernels load 128 of them at any multiple of 32.
inline constexpr int64_t kXSlack = 96;

// x [m, k] in an XFormat.
struct PackedX {
  XFormat format;
  int64_t m = 0;
  int64_t k = 0;
  int64_t units = 0;  // cells or chunks along k, padding included
  int64_t groups = 0;
  int64_t blocks = 0;  // token blocks; block b holds tokens [BlockBegin(b), BlockBegin(b + 1))
  const std::byte* values = nullptr;
  const float* scales = nullptr;
  const int32_t* corrections = nullptr;  // kI8: -128 * sum of the group's integers

  int64_t BlockBegin(int64_t b) const {
    if (!format.tiles()) return b * m / blocks;
    return b < blocks ? b * format.block_tokens : m;
  }
  // Tokens that the layout gives to block b.
  int64_t BlockStride(int64_t b) const {
    const int64_t tokens = BlockBegin(b + 1) - BlockBegin(b);
    const int64_t multiple = format.tile_multiple;
    return format.tiles() ? (tokens + multiple - 1) / multiple * multiple : tokens;
  }
};

// A share of one product: rows [row_begin, row_end) of W for all tokens. row_begin is a multiple of
// kTaskRows, row_end too unless it is the last row.
struct LinearTask {
  const LinearWeight* weight = nullptr;
  const PackedX* x = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  // How many bytes ahead of what is read of W kernels ask memory for it; 0: the hardware will do.
  int64_t fetch_distance = 0;
  std::byte* scratch = nullptr;  // scratch_bytes(m, k), 64-byte aligned, of this thread
};

struct LinearKernel {
  std::string_view name;
  Isa needs = Isa::kScalar;
  bool (*supports)(const WeightSpec&) = nullptr;
  XFormat (*x_format)(const WeightSpec&, int64_t m) = nullptr;
  void (*run)(const LinearTask&) noexcept = nullptr;
  // For kernels that are the fastest of their tier only at some densities (StoredDensity) or M:
  // whether this is such a case, on the machine of decision 041. Null: always. `supports` holds.
  bool (*pays)(const LinearWeight&, int64_t m) = nullptr;
  int64_t (*scratch_bytes)(int64_t m, int64_t k) = nullptr;  // null: LinearScratchBytes
};

// Fastest first: of those that run here, support the weight and round x as
// QuantizedActivations() says the first that pays is taken. The last two support all.
std::span<const LinearKernel> LinearKernels();

// Tasks are cut at multiples of this many rows: four panels.
inline constexpr int64_t kTaskRows = 64;

// What a prefill kernel expands at a time. It fills the first-level cache of Zen 4, but half of it
// means twice as many sums to load and store, which costs bf16 3 to 6 % there.
inline constexpr int64_t kExpandBytes = 32 << 10;

inline int64_t LinearScratchBytes(int64_t m, int64_t k) {
  const int64_t padded_k = (k + 63) / 64 * 64;
  // Expanded weights; then 16 unpacked rows (reference) and a y tile.
  return kExpandBytes + 16 * padded_k * 4 + m * kTaskRows * 4;
}

namespace ref {
// Any format, any tier: unpacks rows and accumulates in double.
XFormat LinearX(const WeightSpec& spec, int64_t m);
// Of quantized weights whose activations stay BF16.
XFormat LinearWeightOnlyX(const WeightSpec& spec, int64_t m);
void Linear(const LinearTask& task) noexcept;
}  // namespace ref

}  // namespace harrow

#endif  // HARROW_KERNELS_LINEAR_KERNEL_H_
