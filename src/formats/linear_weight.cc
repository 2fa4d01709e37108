#include "formats/linear_weight.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/float16.h"
#include "formats/low_rank.h"
#include "formats/panel.h"

namespace harrow {

#define HARROW_FORMAT(id, name, ops) extern const FormatOps ops;
#include "formats/formats.def"
#undef HARROW_FORMAT

namespace {

constexpr FormatId kFormats[] = {
#define HARROW_FORMAT(id, name, ops) FormatId::id,
#include "formats/formats.def"
#undef HARROW_FORMAT
};

constexpr int32_t kDefaultGroup = 128;

// Takes a decimal number off the front of `text`.
bool TakeNumber(std::string_view* text, int32_t* value) {
  const char* end = text->data() + text->size();
  const std::from_chars_result result = std::from_chars(text->data(), end, *value);
  if (result.ec != std::errc() || *value < 0) return false;
  text->remove_prefix(static_cast<size_t>(result.ptr - text->data()));
  return true;
}

bool TakePrefix(std::string_view* text, std::string_view prefix) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

}  // namespace

std::string_view ValueTypeName(ValueType type) {
  switch (type) {
    case ValueType::kF32: return "f32";
    case ValueType::kF16: return "f16";
    case ValueType::kBf16: return "bf16";
    case ValueType::kI8: return "i8";
    case ValueType::kI4: return "i4";
    case ValueType::kU4: return "u4";
  }
  return "?";
}

std::optional<ValueType> ParseValueType(std::string_view name) {
  for (const ValueType type : {ValueType::kF32, ValueType::kF16, ValueType::kBf16, ValueType::kI8,
                               ValueType::kI4, ValueType::kU4}) {
    if (name == ValueTypeName(type)) return type;
  }
  if (name == "int8") return ValueType::kI8;
  if (name == "int4") return ValueType::kI4;
  if (name == "uint4") return ValueType::kU4;
  return std::nullopt;
}

std::string SpecName(const WeightSpec& spec) {
  // Dense quantized weights exist as panels only, and users need not know.
  const std::string_view format =
      spec.format == FormatId::kDensePanel ? FormatName(FormatId::kDense) : FormatName(spec.format);
  std::string name = fmt::format("{}-{}", format, ValueTypeName(spec.values));
  if (IsQuantized(spec.values)) name += fmt::format("/{}", spec.group);
  if (spec.format == FormatId::kNm) name += fmt::format(" {}:{}", spec.keep_n, spec.of_m);
  if (spec.block_rows > 0) name += fmt::format(" {}x{}", spec.block_rows, spec.block_cols);
  return name;
}

Result<WeightSpec> ParseSpec(std::string_view text) {
  const Status error = InvalidArgument(
      "weight format \"{}\": expected something like dense-bf16, dense-i8/128, bitmask-i4, "
      "\"nm-bf16 2:4\", \"block-i8 16x4\", \"bitmask-bf16 1x4\"",
      text);
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) return error;
  WeightSpec spec;
  bool found = false;
  for (const FormatId format : kFormats) {
    if (text.substr(0, dash) == FormatName(format)) {
      spec.format = format;
      found = true;
    }
  }
  std::string_view rest = text.substr(dash + 1);
  const size_t end = rest.find_first_of("/ ");
  const std::optional<ValueType> values = ParseValueType(rest.substr(0, end));
  if (!found || !values) return error;
  spec.values = *values;
  if (spec.format == FormatId::kDense && IsQuantized(spec.values))
    spec.format = FormatId::kDensePanel;
  if (IsQuantized(spec.values)) spec.group = kDefaultGroup;
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end);
  while (!rest.empty()) {
    if (TakePrefix(&rest, "/")) {
      if (!TakeNumber(&rest, &spec.group)) return error;
    } else if (TakePrefix(&rest, " ")) {
      int32_t first, second;
      if (!TakeNumber(&rest, &first)) return error;
      const bool block = TakePrefix(&rest, "x");
      if ((!block && !TakePrefix(&rest, ":")) || !TakeNumber(&rest, &second)) return error;
      (block ? spec.block_rows : spec.keep_n) = first;
      (block ? spec.block_cols : spec.of_m) = second;
    } else {
      return error;
    }
  }
  HARROW_RETURN_IF_ERROR(ValidateSpec(spec));
  return spec;
}

Status ValidateSpec(const WeightSpec& spec) {
  if (static_cast<size_t>(spec.format) >= std::size(kFormats))
    return InvalidArgument("unknown weight format {}", static_cast<int>(spec.format));
  if (spec.values > ValueType::kU4)
    return InvalidArgument("unknown value type {}", static_cast<int>(spec.values));
  const bool quantized = IsQuantized(spec.values);
  bool known = quantized || spec.values == ValueType::kBf16;
  if (spec.format == FormatId::kDense) known = !quantized;
  if (spec.format == FormatId::kDensePanel) known = quantized;
  if (spec.format == FormatId::kIndex) known = spec.values == ValueType::kI8;
  if (spec.format == FormatId::kBlock)
    known = spec.values == ValueType::kBf16 || spec.values == ValueType::kI8;
  if (!known) {
    return InvalidArgument("format {} has no values of type {}", FormatName(spec.format),
                           ValueTypeName(spec.values));
  }
  bool group_fits = spec.group == 0;
  const char* expected = "0";
  if (spec.values == ValueType::kI8) {
    group_fits = spec.group > 0 && spec.group % kBlockCols == 0 && spec.group <= kMaxWeightDim;
    expected = "a positive multiple of 32";
  } else if (quantized) {
    group_fits = spec.group == 32 || spec.group == 64 || spec.group == 128;
    expected = "32, 64 or 128";
  }
  if (!group_fits) {
    return InvalidArgument("group of {} inputs for {} values; expected {}", spec.group,
                           ValueTypeName(spec.values), expected);
  }
  if (spec.format == FormatId::kNm) {
    const bool divides = spec.of_m >= 2 && spec.of_m <= kBlockCols && kBlockCols % spec.of_m == 0;
    if (spec.of_m == 0) {
      return InvalidArgument("format {} needs a pattern, as in \"nm-i8 2:4\"",
                             FormatName(spec.format));
    }
    if (!divides || spec.keep_n < 1 || spec.keep_n >= spec.of_m) {
      return InvalidArgument("keep {} of {}: expected M of 2, 4, 8, 16 or 32 and 1 <= N < M",
                             spec.keep_n, spec.of_m);
    }
    // So that both halves of a block hold the same number of codes.
    if (CodeBits(spec.values) == 4 && spec.of_m > kBlockCols / 2) {
      return InvalidArgument("keep {} of {}: expected M of at most 16 for {} values", spec.keep_n,
                             spec.of_m, ValueTypeName(spec.values));
    }
  } else if (spec.keep_n != 0 || spec.of_m != 0) {
    return InvalidArgument("format {} takes no N:M pattern", FormatName(spec.format));
  }
  if (spec.format == FormatId::kBlock) {
    const int32_t cols = spec.block_cols;
    if (spec.block_rows != kPanelRows || (cols != 1 && cols != 4 && cols != 16)) {
      return InvalidArgument("blocks of {}x{}: expected 16x1, 16x4 or 16x16", spec.block_rows,
                             cols);
    }
  } else if (spec.format == FormatId::kBitmask && spec.block_rows == 1 && spec.block_cols == 4) {
    if (CodeBits(spec.values) < 8) {
      return InvalidArgument("format {} has no 1x4 blocks of {} values", FormatName(spec.format),
                             ValueTypeName(spec.values));
    }
  } else if (spec.block_rows != 0 || spec.block_cols != 0) {
    return InvalidArgument("format {} takes no block shape", FormatName(spec.format));
  }
  return OkStatus();
}

const FormatOps& OpsOf(FormatId format) {
  switch (format) {
#define HARROW_FORMAT(id, name, ops) \
  case FormatId::id:                 \
    return ops;
#include "formats/formats.def"
#undef HARROW_FORMAT
  }
  return kDenseOps;
}

std::string_view FormatName(FormatId format) {
  switch (format) {
#define HARROW_FORMAT(id, name, ops) \
  case FormatId::id:                 \
    return name;
#include "formats/formats.def"
#undef HARROW_FORMAT
  }
  return "?";
}

std::span<const FormatId> AllFormats() {
  return kFormats;
}

std::vector<WeightSpec> SuitableSpecs(const WeightSpec& wanted) {
  std::vector<WeightSpec> specs;
  for (const FormatId format : kFormats) {
    const std::optional<WeightSpec> spec = OpsOf(format).suit(wanted);
    // A format may lack just this N:M, or these values.
    if (spec && ValidateSpec(*spec).ok()) specs.push_back(*spec);
  }
  return specs;
}

uint64_t AnalyzeWeight(const WeightSpec& spec, int64_t rows, int64_t cols, int64_t nonzeros) {
  return OpsOf(spec.format).analyze(spec, rows, cols, nonzeros);
}

bool WorthStoring(const WeightSpec& sparse, uint64_t sparse_bytes, uint64_t dense_bytes) {
  double share = 0.95;
  if (sparse.format == FormatId::kIndex) share = 0.6;
  if (sparse.block_cols == 1) share = IsQuantized(sparse.values) ? 0.4 : 0.6;
  return static_cast<double>(sparse_bytes) <= share * static_cast<double>(dense_bytes);
}

Result<LinearWeight> PackWeight(const WeightSpec& spec, int64_t rows, int64_t cols,
                                const RowReader& reader, const QuantGrid* grid) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(spec));
  HARROW_RETURN_IF_ERROR(ValidateWeightShape(rows, cols));
  if (grid != nullptr) HARROW_RETURN_IF_ERROR(ValidateGrid(*grid, spec, rows, cols));
  return OpsOf(spec.format).pack(spec, rows, cols, reader, grid);
}

Result<LinearWeight> PackWeight(const WeightSpec& spec, int64_t rows, int64_t cols, const float* w,
                                const QuantGrid* grid) {
  const RowReader reader = [w, cols](int64_t row, float* out) {
    std::memcpy(out, w + row * cols, static_cast<size_t>(cols) * sizeof(float));
  };
  return PackWeight(spec, rows, cols, reader, grid);
}

QuantGrid RtnGrid(const WeightSpec& spec, int64_t rows, int64_t cols, const float* w) {
  HARROW_CHECK(IsQuantized(spec.values) && spec.group > 0);
  QuantGrid grid;
  grid.group = spec.group;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t begin = 0; begin < cols; begin += spec.group) {
      const GroupGrid group = RtnGroupGrid(spec.values, w + row * cols + begin,
                                           std::min<int64_t>(spec.group, cols - begin));
      grid.scales.push_back(group.scale);
      if (spec.values == ValueType::kU4) grid.zeros.push_back(group.zero);
    }
  }
  return grid;
}

Status ValidateGrid(const QuantGrid& grid, const WeightSpec& spec, int64_t rows, int64_t cols) {
  if (!IsQuantized(spec.values))
    return InvalidArgument("{}: has no grid to be packed with", SpecName(spec));
  if (grid.group != spec.group) {
    return InvalidArgument("{}: a grid of groups of {} inputs", SpecName(spec), grid.group);
  }
  const int64_t groups = (cols + spec.group - 1) / spec.group;
  const size_t count = static_cast<size_t>(rows * groups);
  const bool asymmetric = spec.values == ValueType::kU4;
  if (grid.scales.size() != count || grid.zeros.size() != (asymmetric ? count : 0)) {
    return InvalidArgument(
        "{} [{}, {}]: a grid of {} scales and {} zero points, expected {} and {}", SpecName(spec),
        rows, cols, grid.scales.size(), grid.zeros.size(), count, asymmetric ? count : 0);
  }
  for (size_t i = 0; i < count; ++i) {
    const int64_t row = static_cast<int64_t>(i) / groups;
    const int64_t group = static_cast<int64_t>(i) % groups;
    const float scale = grid.scales[i];
    const bool bf16 = std::isfinite(scale) && Bf16ToF32(F32ToBf16(scale)) == scale;
    if (!bf16 || (scale < 0 && spec.values != ValueType::kI4)) {
      return InvalidArgument("{}: the scale of row {}, group {} is {}; expected a {}bf16 value",
                             SpecName(spec), row, group, scale,
                             spec.values == ValueType::kI4 ? "" : "non-negative ");
    }
    if (!asymmetric) continue;
    const float zero = grid.zeros[i];
    if (!(zero >= 0 && zero <= 15 && zero == std::nearbyint(zero))) {
      return InvalidArgument(
          "{}: the zero point of row {}, group {} is {}; expected an integer 0 to 15",
          SpecName(spec), row, group, zero);
    }
  }
  return OkStatus();
}

void UnpackRows(const LinearWeight& weight, int64_t begin, int64_t end, float* out) {
  if (weight.has_residual()) {
    OpsOf(weight.spec.format).unpack(weight, begin, end, out);
  } else {
    std::fill_n(out, (end - begin) * weight.cols, 0.0f);
  }
  if (weight.low_rank != nullptr) AddLowRankRows(*weight.low_rank, begin, end, out);
}

Result<int64_t> ValidateWeight(const LinearWeight& weight) {
  int64_t nonzeros = 0;
  if (weight.low_rank == nullptr || weight.has_residual()) {
    HARROW_RETURN_IF_ERROR(ValidateSpec(weight.spec));
    HARROW_ASSIGN_OR_RETURN(nonzeros, OpsOf(weight.spec.format).validate(weight));
  }
  if (weight.low_rank == nullptr) return nonzeros;
  HARROW_ASSIGN_OR_RETURN(const int64_t factors,
                          ValidateLowRank(*weight.low_rank, weight.rows, weight.cols));
  return nonzeros + factors;
}

uint64_t WeightBytes(const LinearWeight& weight) {
  uint64_t bytes = weight.data.size();
  if (weight.low_rank != nullptr) {
    bytes += weight.low_rank->a.data.size() + weight.low_rank->b.data.size();
  }
  return bytes;
}

std::string FormatText(const LinearWeight& weight) {
  if (weight.low_rank == nullptr) return SpecName(weight.spec);
  return fmt::format("{}{}low-rank {}", weight.has_residual() ? SpecName(weight.spec) : "",
                     weight.has_residual() ? " + " : "", weight.low_rank->a.rows);
}

uint64_t WeightChecksum(const LinearWeight& weight) {
  return XXH3_64bits(weight.data.data(), weight.data.size());
}

}  // namespace harrow
