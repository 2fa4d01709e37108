#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace harrow {
namespace {

// Slow pairs (wavelength past the trained context / low_freq_factor) are stretched by `factor`,
// fast ones (short of context / high_freq_factor) stay, and those between are blended linearly in
// context / wavelength.
double Llama3Frequency(const RopeScaling& scaling, double frequency) {
  const double context = static_cast<double>(scaling.original_max_position_embeddings);
  const double turns = context * frequency / (2 * std::numbers::pi);  // context / wavelength
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  if (turns > scaling.high_freq_factor) return frequency;
  const double blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - blend) * frequency / scaling.factor + blend * frequency;
}

Status CheckScaling(const RopeScaling& scaling) {
  if (scaling.type.empty() || scaling.type == "default") return OkStatus();
  if (scaling.type != "linear" && scaling.type != "llama3") {
    return Unsupported("rope_scaling type \"{}\" (supported: default, linear, llama3)",
                       scaling.type);
  }
  // Written so that NaN fails too.
  if (!(scaling.factor >= 1 && std::isfinite(scaling.factor))) {
    return InvalidArgument("rope_scaling factor {}, expected at least 1", scaling.factor);
  }
  if (scaling.type == "linear") return OkStatus();
  if (!(scaling.low_freq_factor > 0 && scaling.high_freq_factor > scaling.low_freq_factor &&
        std::isfinite(scaling.high_freq_factor))) {
    return InvalidArgument(
        "rope_scaling low_freq_factor {} and high_freq_factor {}, expected 0 < low < high",
        scaling.low_freq_factor, scaling.high_freq_factor);
  }
  if (scaling.original_max_position_embeddings <= 0) {
    return InvalidArgument(
        "rope_scaling type \"llama3\" needs original_max_position_embeddings, found {}",
        scaling.original_max_position_embeddings);
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<float>> RopeInverseFrequencies(const HfConfig& config) {
  HARROW_RETURN_IF_ERROR(CheckScaling(config.rope_scaling));
  if (!(config.rope_theta > 0 && std::isfinite(config.rope_theta))) {
    return InvalidArgument("rope_theta {}, expected a positive number", config.rope_theta);
  }
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(config.rope_theta,
                        -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (config.rope_scaling.type == "linear") f /= config.rope_scaling.factor;
    if (config.rope_scaling.type == "llama3") f = Llama3Frequency(config.rope_scaling, f);
    frequencies[i] = static_cast<float>(f);
  }
  return frequencies;
}

}  // namespace harrow
