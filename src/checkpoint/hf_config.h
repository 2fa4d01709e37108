// config.json of a Hugging Face directory, as far as decoder-only models need it. Validated; knows
// no family.
#ifndef HARROW_CHECKPOINT_HF_CONFIG_H_
#define HARROW_CHECKPOINT_HF_CONFIG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/linear_weight.h"

namespace harrow {

inline constexpr std::string_view kConfigFile = "config.json";

// rope_scaling of config.json, or rope_parameters of transformers 5.
struct RopeScaling {
  // "" (none, also where the file says "default"), "linear", "llama3", ... ("rope_type" or the
  // older "type").
  std::string type;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 0;
};

// One compressed linear weight of the `harrow` section (docs/formats/checkpoint.md).
struct PackedWeightInfo {
  WeightSpec spec;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nonzeros = 0;
  uint64_t checksum = 0;  // XXH3-64 of the packed bytes
};

// One weight with a low-rank product of the `harrow` section (docs/formats/low_rank.md).
struct LowRankInfo {
  int64_t rank = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  bool residual = false;  // whether a weight is stored by the name itself, besides the factors
};

// Sizes of one block of a model whose blocks differ (docs/formats/checkpoint.md).
struct LayerSizes {
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t intermediate_size = 0;
  bool o_proj_bias = false;  // self_attn.o_proj.bias exists
  bool down_proj_bias = false;
  bool operator==(const LayerSizes&) const = default;
};

// How the linear weights of a directory, or of one shard, are stored where they are not plain
// tensors. Weight name ("model.layers.0.mlp.up_proj.weight") -> form.
using PackedWeights = std::map<std::string, PackedWeightInfo>;
using LowRankWeights = std::map<std::string, LowRankInfo>;

struct HfConfig {
  // architectures[0], e.g. "LlamaForCausalLM"; made from model_type where it is absent.
  std::string architecture;
  std::string model_type;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;  // hidden_size / num_attention_heads unless given
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  std::string hidden_act = "silu";
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::string torch_dtype;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  // The `harrow` section: weight name ("model.layers.0.mlp.up_proj.weight") -> its packed form.
  // Empty for an ordinary model. Unknown sections are tolerated, and so are a quantization_config
  // without quant_method and a sparsity_config of format "dense"; one that says the weights are
  // stored otherwise is Unsupported.
  PackedWeights packed;
  LowRankWeights low_rank;
  // One entry a block; empty: all blocks have the sizes above, which are upper bounds otherwise,
  // and no such biases.
  std::vector<LayerSizes> layers;
  int32_t harrow_version = 0;  // 0: no harrow section
  // The whole file, for writing it back with changes.
  std::string json;
};

// Parses and validates (positive sizes with sane caps, heads divide; rope types are the family's to
// know). A key whose value is null counts as absent. `where` names the file in errors. The parser
// that is fuzzed.
Result<HfConfig> ParseHfConfig(std::string_view json, std::string_view where);
Result<HfConfig> LoadHfConfig(const std::string& directory);

// Fraction of zeros among the packed weights; 0 when there are none.
double PackedSparsity(const HfConfig& config);

// config.json text with the `harrow` section replaced by one for config.layers and these weights
// (removed when it would say nothing) and
// torch_dtype set when not empty. `recipe_json`, a JSON object or empty, is stored as the section's
// "recipe".
Result<std::string> WithHarrowSection(const HfConfig& config, const PackedWeights& packed,
                                      std::string_view recipe_json, std::string_view torch_dtype,
                                      const LowRankWeights& low_rank = {});

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_HF_CONFIG_H_
