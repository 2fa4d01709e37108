#include "compress/storage.h"

#include <vector>

namespace harrow {

WeightSpec ChooseSpec(const LayerWork& layer, int64_t nonzeros, ValueType source, bool dense) {
  const bool quantized = layer.quantization.has_value();
  WeightSpec best;
  best.format = quantized ? FormatId::kDensePanel : FormatId::kDense;
  best.values = quantized ? layer.quantization->values : source;
  best.group = quantized ? layer.quantization->group : 0;
  if (dense) return best;

  WeightSpec bitmask = best;
  bitmask.format = FormatId::kBitmask;
  if (!quantized) bitmask.values = ValueType::kBf16;
  // At equal size N:M comes first: its positions are fixed, its groups equally long.
  std::vector<WeightSpec> candidates;
  if (layer.pattern.nm) {
    WeightSpec nm = bitmask;
    nm.format = FormatId::kNm;
    nm.keep_n = layer.pattern.nm->keep;
    nm.of_m = layer.pattern.nm->of;
    candidates.push_back(nm);
  }
  candidates.push_back(bitmask);
  uint64_t bytes = AnalyzeWeight(best, layer.rows, layer.cols, nonzeros);
  for (const WeightSpec& spec : candidates) {
    if (!ValidateSpec(spec).ok()) continue;  // an M that the N:M format does not have
    const uint64_t candidate = AnalyzeWeight(spec, layer.rows, layer.cols, nonzeros);
    if (candidate < bytes) {
      best = spec;
      bytes = candidate;
    }
  }
  return best;
}

}  // namespace harrow
