// LlamaForCausalLM: LLaMA 1 to 3.x and what shares their graph. Names as in transformers
// modeling_llama.py.
#include "model/family.h"

namespace harrow {

Status BindLlama(const HfConfig& config, ModelLayout* layout) {
  for (const bool bias : {config.attention_bias, config.mlp_bias}) {
    if (!bias) continue;
    return Unsupported("{} is true; linear layers with a bias are not supported",
                       config.attention_bias ? "attention_bias" : "mlp_bias");
  }
  HARROW_RETURN_IF_ERROR(FillCommonConfig(config, &layout->config));
  ModelConfig& c = layout->config;
  c.family = "llama";
  layout->embedding = {"model.embed_tokens.weight", c.vocab, c.hidden, {}};
  layout->head = {"lm_head.weight", c.vocab, c.hidden, {}};
  layout->final_norm_name = "model.norm.weight";

  for (int32_t i = 0; i < c.layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    LayerSizes sizes = {c.heads, c.kv_heads, c.ffn, false, false};
    if (!config.layers.empty()) sizes = config.layers[static_cast<size_t>(i)];
    Block block;
    block.heads = static_cast<int32_t>(sizes.num_attention_heads);
    block.kv_heads = static_cast<int32_t>(sizes.num_key_value_heads);
    block.ffn = static_cast<int32_t>(sizes.intermediate_size);
    const int64_t q_width = int64_t{block.heads} * c.head_dim;
    const int64_t kv_width = int64_t{block.kv_heads} * c.head_dim;
    const auto linear = [&prefix](const char* name, int64_t rows, int64_t cols, bool bias = false) {
      LinearLayer layer;
      layer.name = prefix + name + ".weight";
      layer.rows = rows;
      layer.cols = cols;
      if (bias) layer.bias_name = prefix + name + ".bias";
      return layer;
    };
    block.attention_norm_name = prefix + "input_layernorm.weight";
    block.ffn_norm_name = prefix + "post_attention_layernorm.weight";
    block.q = linear("self_attn.q_proj", q_width, c.hidden);
    block.k = linear("self_attn.k_proj", kv_width, c.hidden);
    block.v = linear("self_attn.v_proj", kv_width, c.hidden);
    block.o = linear("self_attn.o_proj", c.hidden, q_width, sizes.o_proj_bias);
    block.gate = linear("mlp.gate_proj", block.ffn, c.hidden);
    block.up = linear("mlp.up_proj", block.ffn, c.hidden);
    block.down = linear("mlp.down_proj", c.hidden, block.ffn, sizes.down_proj_bias);
    layout->blocks.push_back(std::move(block));
  }
  return OkStatus();
}

}  // namespace harrow
