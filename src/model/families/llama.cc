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

  const int64_t q_width = int64_t{c.heads} * c.head_dim;
  const int64_t kv_width = int64_t{c.kv_heads} * c.head_dim;
  for (int32_t i = 0; i < c.layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    Block block;
    block.attention_norm_name = prefix + "input_layernorm.weight";
    block.ffn_norm_name = prefix + "post_attention_layernorm.weight";
    block.q = {prefix + "self_attn.q_proj.weight", q_width, c.hidden, {}};
    block.k = {prefix + "self_attn.k_proj.weight", kv_width, c.hidden, {}};
    block.v = {prefix + "self_attn.v_proj.weight", kv_width, c.hidden, {}};
    block.o = {prefix + "self_attn.o_proj.weight", c.hidden, q_width, {}};
    block.gate = {prefix + "mlp.gate_proj.weight", c.ffn, c.hidden, {}};
    block.up = {prefix + "mlp.up_proj.weight", c.ffn, c.hidden, {}};
    block.down = {prefix + "mlp.down_proj.weight", c.hidden, c.ffn, {}};
    layout->blocks.push_back(std::move(block));
  }
  return OkStatus();
}

}  // namespace harrow
