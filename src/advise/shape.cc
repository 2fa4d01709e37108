#include "advise/shape.h"

#include <charconv>

namespace harrow {

Result<int64_t> ParseCount(std::string_view text, int64_t max, std::string_view flag) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 1 || value > max)
    return InvalidArgument("{}: '{}' is not an integer in 1 .. {}", flag, text, max);
  return value;
}

Result<LayerShape> ParseShape(std::string_view text, std::string_view flag) {
  constexpr int64_t kMostSide = 1 << 20;
  constexpr int64_t kMostWeights = 1 << 30;
  const size_t times = text.find('x');
  if (times == std::string_view::npos)
    return InvalidArgument("{}: '{}' is not ROWSxCOLS, as 5632x2048", flag, text);
  LayerShape shape;
  HARROW_ASSIGN_OR_RETURN(shape.rows, ParseCount(text.substr(0, times), kMostSide, flag));
  HARROW_ASSIGN_OR_RETURN(shape.cols, ParseCount(text.substr(times + 1), kMostSide, flag));
  if (shape.rows * shape.cols > kMostWeights) {
    return InvalidArgument("{}: {} are {} weights, more than the {} that fit here", flag, text,
                           shape.rows * shape.cols, kMostWeights);
  }
  return shape;
}

}  // namespace harrow
