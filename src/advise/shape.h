// Shapes of layers as users write them.
#ifndef HARROW_ADVISE_SHAPE_H_
#define HARROW_ADVISE_SHAPE_H_

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace harrow {

struct LayerShape {
  int64_t rows = 0;  // output features
  int64_t cols = 0;  // input features
};

// "5632x2048": at least 1 and at most 2^20 each, 2^30 weights together. Errors name `flag`.
Result<LayerShape> ParseShape(std::string_view text, std::string_view flag);
// A positive integer up to `max`.
Result<int64_t> ParseCount(std::string_view text, int64_t max, std::string_view flag);

}  // namespace harrow

#endif  // HARROW_ADVISE_SHAPE_H_
