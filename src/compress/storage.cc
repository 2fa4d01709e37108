#include "compress/storage.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace harrow {

WeightSpec ChooseSpec(const LayerWork& layer, int64_t nonzeros, ValueType source, Store store) {
  WeightSpec wanted;
  wanted.values = layer.quantization ? layer.quantization->values : source;
  wanted.group = layer.quantization ? layer.quantization->group : 0;
  if (layer.pattern.nm) {
    wanted.keep_n = layer.pattern.nm->keep;
    wanted.of_m = layer.pattern.nm->of;
  }
  if (layer.pattern.block) {
    wanted.block_rows = layer.pattern.block->rows;
    wanted.block_cols = layer.pattern.block->cols;
  }
  const std::vector<WeightSpec> specs = SuitableSpecs(wanted);
  HARROW_CHECK(!specs.empty());
  const WeightSpec& dense = specs.front();
  if (store == Store::kDense) return dense;
  const auto bytes_of = [&](const WeightSpec& spec) {
    return AnalyzeWeight(spec, layer.rows, layer.cols, nonzeros);
  };
  const auto cost = [&](const WeightSpec& spec) {
    const uint64_t bytes = bytes_of(spec);
    if (store != Store::kFast) return bytes;
    const double weights = static_cast<double>(layer.rows) * static_cast<double>(layer.cols);
    return std::max(bytes, static_cast<uint64_t>(OpsOf(spec.format).least_bits / 8 * weights));
  };
  WeightSpec best = dense;
  uint64_t least = cost(best);
  for (const WeightSpec& spec : specs) {
    if (!WorthStoring(spec, bytes_of(spec), bytes_of(dense))) continue;
    const uint64_t candidate = cost(spec);
    // Of sparse formats of one size the later knows more about where the weights stand.
    if (candidate < least || (candidate == least && best != dense)) {
      best = spec;
      least = candidate;
    }
  }
  return best;
}

}  // namespace harrow
