#include "checkpoint/packed_json.h"

#include <charconv>

#include "formats/panel.h"

namespace harrow {
namespace {

using nlohmann::json;

constexpr size_t kMaxSpecText = 64;

Status ReadPackedWeight(const json& entry, PackedWeightInfo* info) {
  if (!entry.is_object()) return Corruption("{}, expected an object", JsonQuote(entry));
  std::string format, checksum;
  HARROW_RETURN_IF_ERROR(ReadJsonString(entry, "format", &format));
  if (format.size() > kMaxSpecText) return Corruption("format: {}", JsonQuote(format));
  const auto spec = ParseSpec(format);
  if (!spec.ok()) return Unsupported("format: {}", spec.status().message());
  info->spec = *spec;
  if (info->spec.format == FormatId::kDense) {
    return Corruption("format: {}, but a dense weight is a plain tensor", format);
  }
  HARROW_RETURN_IF_ERROR(RequireJsonInt(entry, "rows", 1, kMaxWeightDim, &info->rows));
  HARROW_RETURN_IF_ERROR(RequireJsonInt(entry, "cols", 1, kMaxWeightDim, &info->cols));
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(entry, "nonzeros", 0, info->rows * info->cols, &info->nonzeros));
  HARROW_RETURN_IF_ERROR(ReadJsonString(entry, "xxh3", &checksum));
  const char* const end = checksum.data() + checksum.size();
  const auto parsed = std::from_chars(checksum.data(), end, info->checksum, 16);
  if (checksum.size() != 16 || parsed.ec != std::errc() || parsed.ptr != end) {
    return Corruption("xxh3: {}, expected 16 hexadecimal digits", JsonQuote(checksum));
  }
  return OkStatus();
}

}  // namespace

Status ReadPackedWeights(const json& weights, std::map<std::string, PackedWeightInfo>* packed) {
  if (!weights.is_object())
    return Corruption("weights: {}, expected an object", JsonQuote(weights));
  for (const auto& item : weights.items()) {
    PackedWeightInfo info;
    HARROW_RETURN_IF_ERROR(
        ReadPackedWeight(item.value(), &info).At("weight " + PrintableName(item.key())));
    packed->emplace(item.key(), info);
  }
  return OkStatus();
}

json PackedWeightsJson(const std::map<std::string, PackedWeightInfo>& packed) {
  json weights = json::object();
  for (const auto& [name, info] : packed) {
    weights[name] = {{"format", SpecName(info.spec)},
                     {"rows", info.rows},
                     {"cols", info.cols},
                     {"nonzeros", info.nonzeros},
                     {"xxh3", fmt::format("{:016x}", info.checksum)}};
  }
  return weights;
}

}  // namespace harrow
