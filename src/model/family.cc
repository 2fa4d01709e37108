#include "model/family.h"

#include <cmath>

#include "model/rope.h"

namespace harrow {

#define HARROW_FAMILY(architecture, binder) Status binder(const HfConfig&, ModelLayout*);
#include "model/families/families.def"
#undef HARROW_FAMILY

namespace {

constexpr struct {
  std::string_view architecture;
  FamilyBinder bind;
} kFamilies[] = {
#define HARROW_FAMILY(architecture, binder) {architecture, binder},
#include "model/families/families.def"
#undef HARROW_FAMILY
};

// Far above any published model, and small enough that the product of any two fits int64 many times
// over and each fits int32.
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 1 << 16;
constexpr int64_t kMaxContext = int64_t{1} << 30;

Status CheckSize(std::string_view field, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return OkStatus();
  return InvalidArgument("{} is {}, expected 1 to {}", field, value, limit);
}

Result<GateActivation> ParseActivation(std::string_view name) {
  if (name == "silu" || name == "swish") return GateActivation::kSilu;
  if (name == "relu") return GateActivation::kRelu;
  if (name == "gelu_pytorch_tanh") return GateActivation::kGeluTanh;
  return Unsupported("hidden_act \"{}\" (supported: silu, relu, gelu_pytorch_tanh)", name);
}

}  // namespace

FamilyBinder FindFamily(std::string_view architecture) {
  for (const auto& family : kFamilies) {
    if (family.architecture == architecture) return family.bind;
  }
  return nullptr;
}

std::string SupportedArchitectures() {
  std::string list;
  for (const auto& family : kFamilies) {
    if (!list.empty()) list += ", ";
    list += family.architecture;
  }
  return list;
}

Status FillCommonConfig(const HfConfig& config, ModelConfig* out) {
  const int64_t heads = config.num_attention_heads, kv_heads = config.num_key_value_heads;
  HARROW_RETURN_IF_ERROR(CheckSize("hidden_size", config.hidden_size, kMaxWidth));
  HARROW_RETURN_IF_ERROR(CheckSize("intermediate_size", config.intermediate_size, kMaxWidth));
  HARROW_RETURN_IF_ERROR(CheckSize("num_hidden_layers", config.num_hidden_layers, kMaxLayers));
  HARROW_RETURN_IF_ERROR(CheckSize("num_attention_heads", heads, kMaxWidth));
  HARROW_RETURN_IF_ERROR(CheckSize("num_key_value_heads", kv_heads, heads));
  HARROW_RETURN_IF_ERROR(CheckSize("head_dim", config.head_dim, kMaxWidth));
  HARROW_RETURN_IF_ERROR(
      CheckSize("num_attention_heads * head_dim", heads * config.head_dim, kMaxWidth));
  HARROW_RETURN_IF_ERROR(CheckSize("vocab_size", config.vocab_size, kMaxWidth));
  HARROW_RETURN_IF_ERROR(
      CheckSize("max_position_embeddings", config.max_position_embeddings, kMaxContext));
  if (heads % kv_heads != 0) {
    return InvalidArgument("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                           heads, kv_heads);
  }
  if (config.head_dim % 2 != 0) {
    return InvalidArgument("head_dim {} is odd; rotary embeddings need pairs", config.head_dim);
  }
  if (!(config.rms_norm_eps >= 0 && config.rms_norm_eps < 1)) {
    return InvalidArgument("rms_norm_eps is {}, expected 0 to 1", config.rms_norm_eps);
  }
  HARROW_ASSIGN_OR_RETURN(out->activation, ParseActivation(config.hidden_act));
  HARROW_ASSIGN_OR_RETURN(out->rope_inv_freq, RopeInverseFrequencies(config));
  out->hidden = static_cast<int32_t>(config.hidden_size);
  out->ffn = static_cast<int32_t>(config.intermediate_size);
  out->layers = static_cast<int32_t>(config.num_hidden_layers);
  out->heads = static_cast<int32_t>(heads);
  out->kv_heads = static_cast<int32_t>(kv_heads);
  out->layer_kv_heads.assign(static_cast<size_t>(config.num_hidden_layers), out->kv_heads);
  for (size_t i = 0; i < config.layers.size(); ++i)
    out->layer_kv_heads[i] = static_cast<int32_t>(config.layers[i].num_key_value_heads);
  out->head_dim = static_cast<int32_t>(config.head_dim);
  out->vocab = static_cast<int32_t>(config.vocab_size);
  out->max_context = static_cast<int32_t>(config.max_position_embeddings);
  out->rms_eps = static_cast<float>(config.rms_norm_eps);
  out->tied_head = config.tie_word_embeddings;
  return OkStatus();
}

}  // namespace harrow
