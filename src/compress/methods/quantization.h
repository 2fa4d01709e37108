// What the steps that quantize have in common.
#ifndef HARROW_COMPRESS_METHODS_QUANTIZATION_H_
#define HARROW_COMPRESS_METHODS_QUANTIZATION_H_

#include "compress/methods/method.h"

namespace harrow {

// Reads `format` (int8 | int4), `group` and `symmetric` of a step, which default to int8, 128 and
// true. The grid is null. Mistakes are left in the reader.
Quantization ReadQuantization(OptionReader* options);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_QUANTIZATION_H_
