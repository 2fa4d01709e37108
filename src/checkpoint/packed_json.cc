#include "checkpoint/packed_json.h"

#include <algorithm>
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

Status ReadLowRank(const json& entry, LowRankInfo* info) {
  if (!entry.is_object()) return Corruption("{}, expected an object", JsonQuote(entry));
  HARROW_RETURN_IF_ERROR(RequireJsonInt(entry, "rows", 1, kMaxWeightDim, &info->rows));
  HARROW_RETURN_IF_ERROR(RequireJsonInt(entry, "cols", 1, kMaxWeightDim, &info->cols));
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(entry, "rank", 1, std::min(info->rows, info->cols), &info->rank));
  if (JsonGet(entry, "residual") == nullptr) return Corruption("residual is missing");
  return ReadJsonBool(entry, "residual", &info->residual);
}

}  // namespace

Status ReadPackedWeights(const json& weights, PackedWeights* packed) {
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

Status ReadLowRankWeights(const json& weights, LowRankWeights* low_rank) {
  if (!weights.is_object())
    return Corruption("low_rank: {}, expected an object", JsonQuote(weights));
  for (const auto& item : weights.items()) {
    LowRankInfo info;
    HARROW_RETURN_IF_ERROR(
        ReadLowRank(item.value(), &info).At("low_rank: weight " + PrintableName(item.key())));
    low_rank->emplace(item.key(), info);
  }
  return OkStatus();
}

json LowRankWeightsJson(const LowRankWeights& low_rank) {
  json weights = json::object();
  for (const auto& [name, info] : low_rank) {
    weights[name] = {
        {"rank", info.rank}, {"rows", info.rows}, {"cols", info.cols}, {"residual", info.residual}};
  }
  return weights;
}

json PackedWeightsJson(const PackedWeights& packed) {
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
