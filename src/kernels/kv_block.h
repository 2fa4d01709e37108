// Keys and values packed in blocks of 64 tokens of one KV head: the unit in which a cache grows, a
// policy skips and a kernel reads.
#ifndef HARROW_KERNELS_KV_BLOCK_H_
#define HARROW_KERNELS_KV_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/thread_pool.h"

namespace harrow {

enum class KvType : uint8_t {
  kF32,
  kBf16,  // rounded to nearest even
  kI8,    // q * scale, one scale per token and KV head for its key, one for its value
};
std::string_view KvTypeName(KvType type);  // "f32" "bf16" "int8"
std::optional<KvType> ParseKvType(std::string_view name);

inline constexpr int64_t kKvBlockTokens = 64;
inline constexpr int64_t kValueTileDims = 64;

// A block is, in this order and each part on a cache line,
//   keys    [key_cells][64 tokens] cells of 4 bytes, a cell being 1 f32, 2 bf16 or 4 int8 that
//           follow each other along head_dim; the last is padded;
//   values  tiles of up to 64 of the padded_dim dimensions, each [64 / n][dimensions] cells, a
//           cell being the same dimension of n = 1, 2 or 4 tokens that follow each other;
//   scales  int8 only: float [64] of keys, float [64] of values.
// int8 is stored as q + 128, -127 <= q <= 127. So lanes are tokens in a product with keys and
// dimensions in one with values: neither needs a sum across lanes, and both read a block front to
// back, values a tile at a time, whose sums fit into registers.
struct KvLayout {
  KvType type = KvType::kF32;
  int32_t head_dim = 0;
  int32_t cell_values = 1;  // n
  int64_t key_cells = 0;
  int64_t padded_dim = 0;        // head_dim, up to a multiple of 16
  int64_t values_at = 0;         // bytes from the start of a block
  int64_t value_tile_bytes = 0;  // of a tile of kValueTileDims dimensions
  int64_t scales_at = 0;
  int64_t block_bytes = 0;

  KvLayout() = default;
  // head_dim > 0; int8 at most kMaxI8HeadDim, so that its sums stay within 32 bits.
  KvLayout(KvType type, int32_t head_dim);
};
inline constexpr int32_t kMaxI8HeadDim = 1024;

// Where the blocks of one layer lie: block b of KV head h, positions 64 b .. 64 b + 63, is at
// blocks[h * stride + b], on a cache line.
struct KvView {
  KvLayout layout;
  std::byte* const* blocks = nullptr;
  int64_t stride = 0;

  std::byte* block(int64_t head, int64_t index) const { return blocks[head * stride + index]; }
};

// Packs keys and values [m, kv_heads * head_dim] of positions start .. start + m - 1, whose blocks
// must be there and all positions before `start` packed. What stands at later positions is lost. A
// key or value that is not finite shows in whatever attends to its token. As f32 and BF16 a value
// also shows in tokens before it, of the same block, that Attention() computes in one call with it:
// their weight 0 times NaN or infinity is NaN. So for such input, and no other, results depend on
// how a prompt is cut.
void AppendKv(const KvView& view, int32_t kv_heads, int64_t start, int64_t m, const float* keys,
              const float* values, ThreadPool* pool);

// One element as it is stored; for reference code.
float KvKey(const KvLayout& layout, const std::byte* block, int64_t token, int64_t d);
float KvValue(const KvLayout& layout, const std::byte* block, int64_t token, int64_t d);

}  // namespace harrow

#endif  // HARROW_KERNELS_KV_BLOCK_H_
