#include "compress/storage.h"

#include <vector>

#include "base/check.h"

namespace harrow {

WeightSpec ChooseSpec(const LayerWork& layer, int64_t nonzeros, ValueType source, bool dense) {
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
  WeightSpec best = specs.front();
  if (dense) return best;
  uint64_t bytes = AnalyzeWeight(best, layer.rows, layer.cols, nonzeros);
  for (const WeightSpec& spec : specs) {
    const uint64_t candidate = AnalyzeWeight(spec, layer.rows, layer.cols, nonzeros);
    // Of sparse formats of one size the later knows more about where the weights stand.
    if (candidate < bytes || (candidate == bytes && best != specs.front())) {
      best = spec;
      bytes = candidate;
    }
  }
  return best;
}

}  // namespace harrow
