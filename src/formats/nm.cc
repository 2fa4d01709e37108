// kNm: keep N of every M inputs. A block as in bitmask, but with exactly N bits set in each group
// of M inputs of a row, so that every block has the same size. docs/formats/nm.md
#include "formats/mask_codec.h"

namespace harrow {
namespace {

// Whether each row has exactly keep_n bits in each group of of_m inputs.
//
// The mask is a sequence of fields, one per row and cell (2 bits for bf16, else 4), unit after
// unit. Groups that fit in a cell are fields or parts of them; longer ones add up the same field of
// consecutive units.
bool HasExactCounts(const WeightSpec& spec, const BlockMask& mask) {
  constexpr uint64_t kOnes2 = 0x5555555555555555u;
  constexpr uint64_t kTwos = 0x3333333333333333u;
  constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0fu;
  const uint64_t n = static_cast<uint64_t>(spec.keep_n);
  const auto pairs = [](uint64_t x) { return x - (x >> 1 & kOnes2); };
  if (spec.of_m == 2) {
    for (const uint64_t word : mask.words) {
      if (pairs(word) != n * kOnes2) return false;
    }
    return true;
  }
  if (CellOf(spec.values) == 4) {
    // One unit a word, one nibble a row; even and odd rows apart so that sums of up to 8 units fit
    // a byte.
    const int units = spec.of_m / 4;
    for (int first = 0; first < 8; first += units) {
      uint64_t even = 0;
      uint64_t odd = 0;
      for (int u = first; u < first + units; ++u) {
        uint64_t x = pairs(mask.words[u]);
        x = (x & kTwos) + (x >> 2 & kTwos);
        even += x & kNibbles;
        odd += x >> 4 & kNibbles;
      }
      if (even != n * 0x0101010101010101u || odd != n * 0x0101010101010101u) return false;
    }
    return true;
  }
  // Two units a word, two bits a row. A group of 4 spans both halves of a word.
  const int words = spec.of_m / 4;
  for (int first = 0; first < 8; first += words) {
    uint64_t rows[4] = {};  // rows 4i + j of the panel in byte i of rows[j]
    for (int w = first; w < first + words; ++w) {
      const uint64_t x = pairs(mask.words[w]);
      const uint64_t low = x & 0xffffffffu;
      const uint64_t high = x >> 32;
      for (int j = 0; j < 4; ++j)
        rows[j] += (low >> (2 * j) & 0x03030303u) + (high >> (2 * j) & 0x03030303u);
    }
    for (const uint64_t counts : rows) {
      if (counts != n * 0x01010101u) return false;
    }
  }
  return true;
}

struct NmCodec {
  static uint64_t BlocksBytes(const WeightSpec& spec, int64_t count, int64_t) {
    return static_cast<uint64_t>(count * BlockStride(spec));
  }
  static int64_t Encode(const WeightSpec& spec, const uint16_t* codes, const uint16_t* zeros,
                        std::vector<std::byte>* out) {
    const int64_t cell = CellOf(spec.values);
    BlockMask mask;
    for (int64_t row = 0; row < kPanelRows; ++row) {
      for (int64_t group = 0; group < kBlockCols; group += spec.of_m) {
        int kept = 0;
        for (int64_t c = group; c < group + spec.of_m; ++c) {
          const int64_t at = BlockPosition(row, c, cell);
          if (codes[at] == zeros[row]) continue;
          if (kept == spec.keep_n) return at;
          mask.Set(at);
          ++kept;
        }
        for (int64_t c = group; kept < spec.keep_n; ++c) {
          const int64_t at = BlockPosition(row, c, cell);
          if (mask.Bit(at)) continue;
          mask.Set(at);
          ++kept;
        }
      }
    }
    EncodeMasked(spec, mask, codes, out);
    return -1;
  }
  static const std::byte* Decode(const WeightSpec& spec, const std::byte* in, const uint16_t* zeros,
                                 uint16_t* codes) {
    return DecodeMasked(spec, in, zeros, codes);
  }
  static int64_t Check(const WeightSpec& spec, const std::byte* in, uint64_t available,
                       const uint16_t* zeros, int64_t* nonzeros) {
    const int64_t stored = kBlockWeights / spec.of_m * spec.keep_n;
    const int64_t bytes = BlockStride(spec);
    if (available < static_cast<uint64_t>(bytes)) return -1;
    const BlockMask mask = LoadMask(spec, in);
    if (!HasExactCounts(spec, mask)) return -1;
    const CodeCount count = CountMasked(spec, in, mask, zeros);
    if (count.invalid > 0) return -1;
    *nonzeros += stored - count.zeros;
    return bytes;
  }
};

Result<LinearWeight> PackNm(const WeightSpec& spec, int64_t rows, int64_t cols,
                            const RowReader& reader, const QuantGrid* grid) {
  if (cols % spec.of_m != 0) {
    return InvalidArgument("{}: {} columns are not a multiple of {}", SpecName(spec), cols,
                           spec.of_m);
  }
  return PackPanels<NmCodec>(spec, rows, cols, reader, grid);
}

Result<int64_t> ValidateNm(const LinearWeight& weight) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(weight.spec));
  if (weight.cols % weight.spec.of_m != 0) {
    return Corruption("{}: {} columns are not a multiple of {}", SpecName(weight.spec), weight.cols,
                      weight.spec.of_m);
  }
  return ValidatePanels<NmCodec>(weight);
}

std::optional<WeightSpec> SuitNm(const WeightSpec& wanted) {
  if (wanted.of_m == 0) return std::nullopt;
  WeightSpec spec;
  spec.format = FormatId::kNm;
  spec.values = IsQuantized(wanted.values) ? wanted.values : ValueType::kBf16;
  spec.group = wanted.group;
  spec.keep_n = wanted.keep_n;
  spec.of_m = wanted.of_m;
  if (!ValidateSpec(spec).ok()) return std::nullopt;
  return spec;
}

}  // namespace

extern const FormatOps kNmOps;
const FormatOps kNmOps = {
    .analyze = AnalyzePanels<NmCodec>,
    .pack = PackNm,
    .unpack = UnpackPanels<NmCodec>,
    .validate = ValidateNm,
    .suit = SuitNm,
};

}  // namespace harrow
