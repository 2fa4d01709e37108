#include "kernels/activation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "formats/panel.h"

namespace harrow {
namespace {

// Elements of x below which handing work to other threads costs more than it saves.
constexpr int64_t kParallelElements = 1 << 15;

float RoundToBf16(float value) {
  return Bf16ToF32(F32ToBf16(value));
}

// Rounds one token's values [begin, end) to `out` as 4-byte cells in order; `out` is zero beyond.
// Bytes an input in the packed form.
int64_t ElementBytes(XElement element) {
  switch (element) {
    case XElement::kBf16: return 2;
    case XElement::kI8: return 1;
    default: return 4;
  }
}

// One token, rounded, in input order.
void RoundRow(XElement element, const float* x, int64_t k, std::byte* out) {
  switch (element) {
    case XElement::kF32: std::memcpy(out, x, static_cast<size_t>(k) * sizeof(float)); break;
    case XElement::kF32RoundedToBf16: {
      float* to = reinterpret_cast<float*>(out);
      for (int64_t i = 0; i < k; ++i)
        to[i] = RoundToBf16(x[i]);
      break;
    }
    case XElement::kBf16: {
      uint16_t* to = reinterpret_cast<uint16_t*>(out);
      for (int64_t i = 0; i < k; ++i)
        to[i] = F32ToBf16(x[i]);
      break;
    }
    case XElement::kI8: break;  // has scales: its callers quantize
  }
}

}  // namespace

float QuantizeGroup(const float* x, int64_t count, int8_t* q) {
  // Bit patterns of magnitudes order like the magnitudes, and NaN above all of them.
  int32_t largest_bits = 0;
  for (int64_t i = 0; i < count; ++i)
    largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  const float largest = std::bit_cast<float>(largest_bits);
  if (!std::isfinite(largest) || largest < 0x1p-100f) {
    std::fill(q, q + count, int8_t{0});
    return std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = 127.0f / largest;
  // Adding 1.5 * 2^23 leaves the value, rounded to nearest even, in the low bits of the mantissa.
  constexpr float kMagic = 12582912.0f;
  for (int64_t i = 0; i < count; ++i)
    q[i] = static_cast<int8_t>(std::bit_cast<int32_t>(x[i] * inverse + kMagic));
  return largest / 127.0f;
}

const PackedX& PackedXBuffer::Pack(const XFormat& format, const float* x, int64_t x_stride,
                                   int64_t m, int64_t k, ThreadPool* pool) {
  PackedX& p = packed_;
  p = PackedX();
  p.format = format;
  p.m = m;
  p.k = k;
  const bool i8 = format.element == XElement::kI8;
  const bool reference = format.layout == XLayout::kReference;
  const int64_t width = reference ? 4 : ElementBytes(format.element);
  const int64_t unit_bytes = format.layout == XLayout::kCells ? 4 : 64;
  int64_t padded_k = k;
  if (format.layout == XLayout::kRows) {
    padded_k = (k * width + 63) / 64 * 64 / width;
  } else if (format.layout == XLayout::kCells) {
    padded_k = (k + kBlockCols - 1) / kBlockCols * kBlockCols;
  }
  p.units = padded_k * width / unit_bytes;
  p.groups = i8 ? (k + format.group - 1) / format.group : 0;
  p.blocks =
      format.layout == XLayout::kCells ? (m + format.block_tokens - 1) / format.block_tokens : 1;
  std::byte* values = values_.Reserve(static_cast<uint64_t>(m * padded_k * width));
  float* scales = scales_.Reserve(static_cast<uint64_t>(m * p.groups));
  int32_t* corrections = corrections_.Reserve(static_cast<uint64_t>(m * p.groups));
  p.values = values;
  p.scales = scales;
  p.corrections = corrections;

  const auto pack_block = [&](int64_t block) {
    // Row in input order first, then cells to their places.
    AlignedArray<std::byte> row(static_cast<uint64_t>(padded_k * 4));
    const int64_t begin = p.BlockBegin(block);
    const int64_t tokens = p.BlockBegin(block + 1) - begin;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* from = x + (begin + t) * x_stride;
      if (i8) {
        int8_t* q = reinterpret_cast<int8_t*>(row.data());
        for (int64_t g = 0; g < p.groups; ++g) {
          const int64_t first = g * format.group;
          const int64_t count = std::min<int64_t>(format.group, k - first);
          const float scale = QuantizeGroup(from + first, count, q + first);
          if (reference) {
            scales[t * p.groups + g] = scale;
            continue;
          }
          int32_t sum = 0;
          for (int64_t i = 0; i < count; ++i)
            sum += q[first + i];
          scales[begin * p.groups + g * tokens + t] = scale;
          corrections[begin * p.groups + g * tokens + t] = -128 * sum;
        }
      } else {
        RoundRow(format.element, from, k, row.data());
      }
      if (reference) {
        float* to = reinterpret_cast<float*>(values) + t * k;
        if (i8) {
          for (int64_t i = 0; i < k; ++i)
            to[i] = static_cast<float>(reinterpret_cast<const int8_t*>(row.data())[i]);
        } else {
          std::memcpy(to, row.data(), static_cast<size_t>(k) * sizeof(float));
        }
        continue;
      }
      std::byte* to = values + begin * padded_k * width + t * unit_bytes;
      const std::byte* unit = row.data();
      if (unit_bytes == 4) {
        for (int64_t u = 0; u < p.units; ++u, unit += 4, to += tokens * 4)
          std::memcpy(to, unit, 4);
      } else {
        for (int64_t u = 0; u < p.units; ++u, unit += 64, to += tokens * 64)
          std::memcpy(to, unit, 64);
      }
    }
  };
  if (pool != nullptr && pool->size() > 1 && p.blocks > 1 && m * k >= kParallelElements) {
    pool->ParallelFor(p.blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        pack_block(b);
    });
  } else {
    for (int64_t b = 0; b < p.blocks; ++b)
      pack_block(b);
  }
  return p;
}

}  // namespace harrow
