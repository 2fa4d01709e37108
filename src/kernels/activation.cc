#include "kernels/activation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/float16.h"
#include "formats/panel.h"

namespace harrow {
namespace {

// Elements of x below which handing work to other threads costs more than it saves.
constexpr int64_t kParallelElements = 1 << 15;

void RoundToBf16Row(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = F32ToBf16(x[i]);
}

void RoundToBf16RowF32(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = Bf16ToF32(F32ToBf16(x[i]));
}

float QuantizeRow(const float* x, int64_t count, int8_t* q, int32_t* sum) {
  // Magnitudes order like their bits, NaN above all of them.
  int32_t largest_bits = 0;
  for (int64_t i = 0; i < count; ++i)
    largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  const QuantizeScale scale = QuantizeScaleOf(largest_bits);
  *sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    q[i] =
        scale.inverse == 0 ? int8_t{0} : static_cast<int8_t>(std::nearbyint(x[i] * scale.inverse));
    *sum += q[i];
  }
  return scale.scale;
}

constexpr RoundingOps kScalarRounding = {RoundToBf16Row, RoundToBf16RowF32, QuantizeRow};

// Bytes per input in the packed form.
int64_t ElementBytes(const XFormat& format) {
  if (format.layout == XLayout::kReference) return 4;
  switch (format.element) {
    case XElement::kBf16: return 2;
    case XElement::kI8:
    case XElement::kU8: return 1;
    default: return 4;
  }
}

bool IsQuantized(const XFormat& format) {
  return format.element == XElement::kI8 || format.element == XElement::kU8;
}

// [token][item] to [item][stride], items of kBytes; zeros for tokens from `tokens` on. A line of
// each token at a time: rows are often a power of two apart, where few of their lines fit into the
// cache together.
template <int kBytes>
void Interleave(const std::byte* rows, int64_t row_bytes, int64_t tokens, int64_t stride,
                std::byte* out) {
  constexpr int64_t kLineItems = 64 / kBytes;
  const int64_t items = row_bytes / kBytes;
  for (int64_t first = 0; first < items; first += kLineItems) {
    const int64_t end = std::min(first + kLineItems, items);
    for (int64_t t = 0; t < stride; ++t) {
      for (int64_t i = first; i < end; ++i) {
        std::byte* to = out + (i * stride + t) * kBytes;
        if (t < tokens) {
          std::memcpy(to, rows + t * row_bytes + i * kBytes, kBytes);
        } else {
          std::memset(to, 0, kBytes);
        }
      }
    }
  }
}

// Interleave<2>, 4 tokens of 4 inputs at a time in 64-bit words; `stride` is a multiple of 4,
// `row_bytes` of 64, and there are `stride` rows.
void InterleaveWords(const std::byte* rows, int64_t row_bytes, int64_t /*tokens*/, int64_t stride,
                     std::byte* out) {
  constexpr uint64_t kEven = 0x0000ffff0000ffff;
  constexpr uint64_t kLow = 0xffffffff;
  for (int64_t first = 0; first < row_bytes; first += 64) {
    for (int64_t t = 0; t < stride; t += 4) {
      for (int64_t i = first; i < first + 64; i += 8) {
        uint64_t in[4];
        for (int64_t r = 0; r < 4; ++r)
          std::memcpy(&in[r], rows + (t + r) * row_bytes + i, 8);
        const uint64_t even01 = (in[0] & kEven) | (in[1] & kEven) << 16;
        const uint64_t odd01 = (in[0] >> 16 & kEven) | (in[1] & ~kEven);
        const uint64_t even23 = (in[2] & kEven) | (in[3] & kEven) << 16;
        const uint64_t odd23 = (in[2] >> 16 & kEven) | (in[3] & ~kEven);
        const uint64_t turned[4] = {(even01 & kLow) | even23 << 32, (odd01 & kLow) | odd23 << 32,
                                    even01 >> 32 | (even23 & ~kLow), odd01 >> 32 | (odd23 & ~kLow)};
        for (int64_t r = 0; r < 4; ++r)
          std::memcpy(out + (i + 2 * r) * stride + 2 * t, &turned[r], 8);
      }
    }
  }
}

}  // namespace

QuantizeScale QuantizeScaleOf(int32_t largest_bits) {
  const float largest = std::bit_cast<float>(largest_bits);
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  if (largest < 0x1p-100f) return {0, 0};
  return {largest / 127.0f, 127.0f / largest};
}

const RoundingOps& ActiveRounding() {
#if defined(__x86_64__)
  switch (ActiveIsa()) {
    case Isa::kScalar: break;
    case Isa::kAvx2: return avx2::Rounding();
    case Isa::kAvx512:
    case Isa::kAvx512Bf16: return avx512::Rounding();
  }
#endif
  return kScalarRounding;
}

const PackedX& PackedXBuffer::Pack(const XFormat& format, const float* x, int64_t x_stride,
                                   int64_t m, int64_t k, ThreadPool* pool) {
  PackedX& p = packed_;
  p = PackedX();
  p.format = format;
  p.m = m;
  p.k = k;
  const int64_t width = ElementBytes(format);
  const int64_t unit_bytes = format.layout == XLayout::kRows ? 64 : 4;
  int64_t padded_k = k;
  if (format.layout == XLayout::kRows) {
    padded_k = (k * width + 63) / 64 * 64 / width;
  } else if (format.layout != XLayout::kReference) {
    padded_k = (k + kBlockCols - 1) / kBlockCols * kBlockCols;
  }
  p.units = padded_k * width / unit_bytes;
  p.groups = IsQuantized(format) ? (k + format.group - 1) / format.group : 0;
  p.blocks = 1;
  if (format.block_tokens > 0) p.blocks = (m + format.block_tokens - 1) / format.block_tokens;
  const int64_t stored = p.BlockBegin(p.blocks - 1) + p.BlockStride(p.blocks - 1);
  p.values = values_.Reserve(static_cast<uint64_t>(stored * padded_k * width + kXSlack));
  p.scales = scales_.Reserve(static_cast<uint64_t>(stored * p.groups));
  p.corrections = corrections_.Reserve(static_cast<uint64_t>(stored * p.groups));

  const RoundingOps& ops = ActiveRounding();
  if (pool != nullptr && pool->size() > 1 && p.blocks > 1 && m * k >= kParallelElements) {
    pool->ParallelFor(p.blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        PackBlock(ops, x, x_stride, b);
    });
  } else {
    for (int64_t b = 0; b < p.blocks; ++b)
      PackBlock(ops, x, x_stride, b);
  }
  return p;
}

void PackedXBuffer::PackBlock(const RoundingOps& ops, const float* x, int64_t x_stride,
                              int64_t block) {
  const PackedX& p = packed_;
  const bool reference = p.format.layout == XLayout::kReference;
  const int64_t begin = p.BlockBegin(block);
  const int64_t tokens = p.BlockBegin(block + 1) - begin;
  const int64_t stride = p.BlockStride(block);
  const int64_t unit_bytes = p.format.layout == XLayout::kRows ? 64 : 4;
  const int64_t row_bytes = p.units * unit_bytes;
  std::byte* values = values_.data() + begin * row_bytes;
  float* scales = scales_.data() + begin * p.groups;
  int32_t* corrections = corrections_.data() + begin * p.groups;

  // Each token in input order, zero padded; one after the other in `rows`, then interleaved.
  thread_local std::vector<std::byte> rows;
  const int64_t held = p.format.layout == XLayout::kInputs ? stride : tokens;
  rows.assign(static_cast<size_t>(reference ? row_bytes : held * row_bytes), std::byte{0});
  for (int64_t t = 0; t < tokens; ++t) {
    const float* from = x + (begin + t) * x_stride;
    std::byte* row = reference ? values + t * row_bytes : rows.data() + t * row_bytes;
    switch (p.format.element) {
      case XElement::kF32: std::memcpy(row, from, static_cast<size_t>(p.k) * sizeof(float)); break;
      case XElement::kF32RoundedToBf16:
        ops.bf16_as_f32(from, p.k, reinterpret_cast<float*>(row));
        break;
      case XElement::kBf16: ops.bf16(from, p.k, reinterpret_cast<uint16_t*>(row)); break;
      case XElement::kI8:
      case XElement::kU8: {
        int8_t* q = reinterpret_cast<int8_t*>(reference ? rows.data() : row);
        for (int64_t g = 0; g < p.groups; ++g) {
          const int64_t first = g * p.format.group;
          const int64_t count = std::min<int64_t>(p.format.group, p.k - first);
          int32_t sum;
          const float scale = ops.i8(from + first, count, q + first, &sum);
          const int64_t at = reference ? t * p.groups + g : g * stride + t;
          scales[at] = scale;
          corrections[at] = -128 * sum;
        }
        if (reference) {
          for (int64_t i = 0; i < p.k; ++i)
            reinterpret_cast<float*>(row)[i] = static_cast<float>(q[i]);
        }
        if (p.format.element == XElement::kU8) {
          for (int64_t i = 0; i < p.k; ++i)
            row[i] ^= std::byte{128};
        }
        break;
      }
    }
  }
  if (reference) return;
  if (unit_bytes == 64) {
    for (int64_t u = 0; u < p.units; ++u) {
      for (int64_t t = 0; t < tokens; ++t, values += 64)
        std::memcpy(values, rows.data() + t * row_bytes + 64 * u, 64);
    }
  } else {
    const int64_t item_bytes =
        p.format.layout == XLayout::kInputs ? ElementBytes(p.format) : unit_bytes;
    const auto interleave = item_bytes == 1   ? Interleave<1>
                            : item_bytes == 2 ? InterleaveWords
                                              : Interleave<4>;
    interleave(rows.data(), row_bytes, tokens, stride, values);
    // What pads a tile must not be an outlier of another call.
    for (int64_t g = 0; g < p.groups; ++g)
      std::fill(scales + g * stride + tokens, scales + (g + 1) * stride, 0.0f);
  }
}

}  // namespace harrow
