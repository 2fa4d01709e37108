// Which format a finished weight is stored in.
#ifndef HARROW_COMPRESS_STORAGE_H_
#define HARROW_COMPRESS_STORAGE_H_

#include "compress/methods/method.h"
#include "formats/linear_weight.h"

namespace harrow {

// `store:` of a recipe: auto, fast, dense.
enum class Store : uint8_t { kSmall, kFast, kDense };

// The smallest of the formats that can hold the layer, the dense one where none is WorthStoring();
// for kFast the one that takes one token the least time, which is the smallest too unless its
// instructions cost more than its bytes (FormatOps::least_bits); for kDense the dense one.
// `nonzeros`: of the layer's values. Quantized as a quantizer asked for; otherwise dense keeps
// `source` values and sparse formats hold BF16.
WeightSpec ChooseSpec(const LayerWork& layer, int64_t nonzeros, ValueType source, Store store);

}  // namespace harrow

#endif  // HARROW_COMPRESS_STORAGE_H_
