#include "kernels/kv_block.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/check.h"
#include "base/float16.h"
#include "kernels/activation.h"

namespace harrow {
namespace {

constexpr std::string_view kNames[] = {"f32", "bf16", "int8"};
constexpr int32_t kCellValues[] = {1, 2, 4};
constexpr int64_t kCellBytes = 4;
constexpr int64_t kLanes = 16;

int64_t KeyByte(const KvLayout& layout, int64_t token, int64_t d) {
  const int64_t n = layout.cell_values;
  return (d / n * kKvBlockTokens + token) * kCellBytes + d % n * (kCellBytes / n);
}

int64_t ValueByte(const KvLayout& layout, int64_t token, int64_t d) {
  const int64_t n = layout.cell_values;
  const int64_t begin = d / kValueTileDims * kValueTileDims;
  const int64_t dims = std::min(kValueTileDims, layout.padded_dim - begin);
  return layout.values_at + d / kValueTileDims * layout.value_tile_bytes +
         (token / n * dims + d - begin) * kCellBytes + token % n * (kCellBytes / n);
}

float Scale(const KvLayout& layout, const std::byte* block, int64_t index) {
  float scale;
  std::memcpy(&scale, block + layout.scales_at + index * static_cast<int64_t>(sizeof(float)),
              sizeof(scale));
  return scale;
}

float Element(const KvLayout& layout, const std::byte* at, float scale) {
  switch (layout.type) {
    case KvType::kF32: {
      float value;
      std::memcpy(&value, at, sizeof(value));
      return value;
    }
    case KvType::kBf16: {
      uint16_t bits;
      std::memcpy(&bits, at, sizeof(bits));
      return Bf16ToF32(bits);
    }
    case KvType::kI8: break;
  }
  return static_cast<float>(static_cast<int>(*at) - 128) * scale;
}

void PutScale(const KvLayout& layout, int64_t index, float scale, std::byte* block) {
  std::memcpy(block + layout.scales_at + index * static_cast<int64_t>(sizeof(float)), &scale,
              sizeof(scale));
}

// x [head_dim] as the layout's elements, zero padded to whole cells, at `row`; returns the scale.
float RoundRow(const KvLayout& layout, const RoundingOps& ops, const float* x, std::byte* row) {
  const int64_t padded = layout.key_cells * layout.cell_values;
  const size_t tail = static_cast<size_t>(padded - layout.head_dim);
  switch (layout.type) {
    case KvType::kF32:
      std::memcpy(row, x, static_cast<size_t>(layout.head_dim) * sizeof(float));
      return 1;
    case KvType::kBf16: {
      auto* values = reinterpret_cast<uint16_t*>(row);
      ops.bf16(x, layout.head_dim, values);
      std::fill_n(values + layout.head_dim, tail, uint16_t{0});
      return 1;
    }
    case KvType::kI8: break;
  }
  auto* codes = reinterpret_cast<int8_t*>(row);
  int32_t sum;
  const float scale = ops.i8(x, layout.head_dim, codes, &sum);
  std::fill_n(codes + layout.head_dim, tail, int8_t{0});
  for (int64_t i = 0; i < padded; ++i)
    row[i] ^= std::byte{0x80};
  return scale;
}

// The elements at `row`, of type T, to where the values of `token` are. As wide as Stored, zeros
// behind the element.
template <class T, class Stored = T>
void ScatterValue(const KvLayout& layout, const std::byte* row, int64_t token, std::byte* block) {
  for (int64_t begin = 0; begin < layout.head_dim; begin += kValueTileDims) {
    const int64_t dims = std::min<int64_t>(kValueTileDims, layout.head_dim - begin);
    std::byte* to = block + ValueByte(layout, token, begin);
    for (int64_t d = 0; d < dims; ++d, row += sizeof(T)) {
      Stored value = 0;
      std::memcpy(&value, row, sizeof(T));
      std::memcpy(to + d * kCellBytes, &value, sizeof(Stored));
    }
  }
}

// `row` is scratch of key_cells cells.
void PackToken(const KvLayout& layout, const RoundingOps& ops, const float* key, const float* value,
               int64_t token, std::byte* row, std::byte* block) {
  const float key_scale = RoundRow(layout, ops, key, row);
  std::byte* to = block + token * kCellBytes;
  for (int64_t cell = 0; cell < layout.key_cells; ++cell)
    std::memcpy(to + cell * kKvBlockTokens * kCellBytes, row + cell * kCellBytes, kCellBytes);

  const float value_scale = RoundRow(layout, ops, value, row);
  switch (layout.type) {
    case KvType::kF32: ScatterValue<float>(layout, row, token, block); return;
    case KvType::kBf16:
      // The other half of a cell is multiplied by a weight of 0: it must not hold an old NaN.
      if (token % 2 == 0) {
        ScatterValue<uint16_t, uint32_t>(layout, row, token, block);
      } else {
        ScatterValue<uint16_t>(layout, row, token, block);
      }
      return;
    case KvType::kI8: break;
  }
  ScatterValue<uint8_t>(layout, row, token, block);
  PutScale(layout, token, key_scale, block);
  PutScale(layout, kKvBlockTokens + token, value_scale, block);
}

}  // namespace

std::string_view KvTypeName(KvType type) {
  return kNames[static_cast<size_t>(type)];
}

std::optional<KvType> ParseKvType(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<KvType>(i);
  }
  return std::nullopt;
}

KvLayout::KvLayout(KvType element, int32_t dim) : type(element), head_dim(dim) {
  HARROW_CHECK(dim > 0 && (element != KvType::kI8 || dim <= kMaxI8HeadDim));
  cell_values = kCellValues[static_cast<size_t>(element)];
  key_cells = (dim + cell_values - 1) / cell_values;
  padded_dim = (dim + kLanes - 1) / kLanes * kLanes;
  values_at = key_cells * kKvBlockTokens * kCellBytes;
  value_tile_bytes = kKvBlockTokens / cell_values * kValueTileDims * kCellBytes;
  scales_at = values_at + kKvBlockTokens / cell_values * padded_dim * kCellBytes;
  block_bytes = scales_at;
  if (element == KvType::kI8)
    block_bytes += 2 * kKvBlockTokens * static_cast<int64_t>(sizeof(float));
}

void AppendKv(const KvView& view, int32_t kv_heads, int64_t start, int64_t m, const float* keys,
              const float* values, ThreadPool* pool) {
  if (m == 0) return;
  const KvLayout& layout = view.layout;
  const RoundingOps& ops = ActiveRounding();
  const int64_t width = int64_t{kv_heads} * layout.head_dim;
  const int64_t first_block = start / kKvBlockTokens;
  const int64_t blocks = (start + m - 1) / kKvBlockTokens - first_block + 1;
  // Whole blocks of one head a thread: neighbouring tokens share cells.
  const auto pack = [&](int64_t begin, int64_t end) {
    thread_local AlignedArray<std::byte> row;
    row.Reserve(static_cast<uint64_t>(layout.key_cells * kCellBytes));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task % kv_heads;
      const int64_t index = first_block + task / kv_heads;
      std::byte* block = view.block(head, index);
      const int64_t from = std::max(start, index * kKvBlockTokens);
      const int64_t to = std::min(start + m, (index + 1) * kKvBlockTokens);
      for (int64_t position = from; position < to; ++position) {
        const int64_t at = (position - start) * width + head * layout.head_dim;
        PackToken(layout, ops, keys + at, values + at, position % kKvBlockTokens, row.data(),
                  block);
      }
    }
  };
  constexpr int64_t kFloatsWorthAFork = 32768;
  if (m * width < kFloatsWorthAFork) {
    pack(0, blocks * kv_heads);
  } else {
    pool->ParallelFor(blocks * kv_heads, 1, pack);
  }
}

float KvKey(const KvLayout& layout, const std::byte* block, int64_t token, int64_t d) {
  const float scale = layout.type == KvType::kI8 ? Scale(layout, block, token) : 1;
  return Element(layout, block + KeyByte(layout, token, d), scale);
}

float KvValue(const KvLayout& layout, const std::byte* block, int64_t token, int64_t d) {
  const float scale = layout.type == KvType::kI8 ? Scale(layout, block, kKvBlockTokens + token) : 1;
  return Element(layout, block + ValueByte(layout, token, d), scale);
}

}  // namespace harrow
