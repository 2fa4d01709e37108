// What the shared blocks need to know of a decoder-only transformer. A family fills it from
// HfConfig.
#ifndef HARROW_MODEL_CONFIG_H_
#define HARROW_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/elementwise.h"

namespace harrow {

struct ModelConfig {
  std::string family;  // "llama"
  // ffn, heads and kv_heads are those of the largest block.
  int32_t hidden = 0;
  int32_t ffn = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  std::vector<int32_t> layer_kv_heads;  // [layers]
  int32_t head_dim = 0;
  int32_t vocab = 0;
  int32_t max_context = 0;  // tokens
  float rms_eps = 0;
  GateActivation activation = GateActivation::kSilu;
  bool tied_head = false;
  std::vector<float> rope_inv_freq;  // [head_dim / 2], radians per position, scaling applied
  float rope_attention_scaling = 1;
};

}  // namespace harrow

#endif  // HARROW_MODEL_CONFIG_H_
