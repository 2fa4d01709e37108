// Which format a finished weight is stored in.
#ifndef HARROW_COMPRESS_STORAGE_H_
#define HARROW_COMPRESS_STORAGE_H_

#include "compress/methods/method.h"
#include "formats/linear_weight.h"

namespace harrow {

// The smallest of the formats that can hold the layer, for `store: auto`; the dense one for
// `dense` or where none is smaller. `nonzeros`: of the layer's values. Quantized as a quantizer
// asked for; otherwise dense keeps `source` values and sparse formats hold BF16.
WeightSpec ChooseSpec(const LayerWork& layer, int64_t nonzeros, ValueType source, bool dense);

}  // namespace harrow

#endif  // HARROW_COMPRESS_STORAGE_H_
