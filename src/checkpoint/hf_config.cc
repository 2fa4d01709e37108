#include "checkpoint/hf_config.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/mapped_file.h"
#include "checkpoint/json_util.h"
#include "checkpoint/packed_json.h"

namespace harrow {
namespace {

using nlohmann::json;

constexpr int32_t kFirstVersion = 1;
// Where there are low-rank weights, which a reader of version 1 would run as their residuals alone,
// or layers of their own sizes.
constexpr int32_t kSecondVersion = 2;
// Where there are masked weights of 4 bits: before, the codes of a block stood one behind the other
// (docs/formats/bitmask.md).
constexpr int32_t kThirdVersion = 3;
constexpr uint64_t kMaxConfigBytes = 16 << 20;  // the harrow section takes about 200 bytes a weight

// Caps are far above any model that exists and keep every later product of two of them (times eight
// bytes) inside int64.
constexpr int64_t kMaxHidden = 1 << 20;
constexpr int64_t kMaxIntermediate = 1 << 22;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxHeadDim = 1 << 16;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxContext = 1 << 30;

// "llama" -> "LlamaForCausalLM", "qwen3_moe" -> "Qwen3MoeForCausalLM": the naming rule of
// transformers, for configs that carry only model_type.
std::string ArchitectureOf(const std::string& model_type) {
  std::string name;
  bool upper = true;
  for (const char c : model_type) {
    if (c == '_' || c == '-') {
      upper = true;
      continue;
    }
    name += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    upper = false;
  }
  return name + "ForCausalLM";
}

Status ReadArchitecture(const json& root, HfConfig* config) {
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "model_type", &config->model_type));
  const json* list = JsonGet(root, "architectures");
  if (list == nullptr) {
    if (config->model_type.empty()) {
      return Corruption(
          "neither architectures nor model_type: not the config.json of a Hugging Face model");
    }
    config->architecture = ArchitectureOf(config->model_type);
    return OkStatus();
  }
  if (!list->is_array() || list->empty() || !list->front().is_string()) {
    return Corruption("architectures: {}, expected a list of names", JsonQuote(*list));
  }
  config->architecture = list->front().get<std::string>();
  return OkStatus();
}

// rope_scaling and rope_theta, or rope_parameters that holds both (transformers 5).
Status ReadRope(const json& root, HfConfig* config) {
  constexpr double kMaxTheta = 1e12;
  HARROW_RETURN_IF_ERROR(ReadJsonPositive(root, "rope_theta", kMaxTheta, &config->rope_theta));
  const char* const key = JsonGet(root, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json* rope = JsonGet(root, key);
  if (rope == nullptr) return OkStatus();
  if (!rope->is_object()) return Corruption("{}: {}, expected an object", key, JsonQuote(*rope));
  for (const auto& item : rope->items()) {
    if (item.value().is_object()) {
      return Unsupported("{}: separate parameters for {} (a rope for each kind of layer)", key,
                         item.key());
    }
  }
  const auto read = [&]() -> Status {
    RopeScaling& scaling = config->rope_scaling;
    HARROW_RETURN_IF_ERROR(ReadJsonPositive(*rope, "rope_theta", kMaxTheta, &config->rope_theta));
    HARROW_RETURN_IF_ERROR(ReadJsonString(*rope, "type", &scaling.type));
    HARROW_RETURN_IF_ERROR(ReadJsonString(*rope, "rope_type", &scaling.type));
    if (scaling.type == "default") scaling.type.clear();
    HARROW_RETURN_IF_ERROR(ReadJsonPositive(*rope, "factor", 1e6, &scaling.factor));
    HARROW_RETURN_IF_ERROR(
        ReadJsonPositive(*rope, "low_freq_factor", 1e6, &scaling.low_freq_factor));
    HARROW_RETURN_IF_ERROR(
        ReadJsonPositive(*rope, "high_freq_factor", 1e6, &scaling.high_freq_factor));
    return ReadJsonInt(*rope, "original_max_position_embeddings", 1, kMaxContext,
                       &scaling.original_max_position_embeddings);
  };
  return read().At(key);
}

Status ReadTokenIds(const json& root, HfConfig* config) {
  // -1 is how some exporters say "none".
  constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
  int64_t bos = -1;
  HARROW_RETURN_IF_ERROR(ReadJsonInt(root, "bos_token_id", -1, kMaxId, &bos));
  if (bos >= 0) config->bos_token_id = bos;
  const json* eos = JsonGet(root, "eos_token_id");
  if (eos == nullptr) return OkStatus();
  for (const json& value : eos->is_array() ? *eos : json::array({*eos})) {
    int64_t id = -1;
    HARROW_RETURN_IF_ERROR(JsonToInt(value, "eos_token_id", -1, kMaxId, &id));
    if (id >= 0) config->eos_token_ids.push_back(id);
  }
  return OkStatus();
}

// Other tools' sections that change how weights are stored. What they leave behind on plain weights
// (an empty section, format "dense") is harmless.
Status CheckStorage(const json& root) {
  const struct {
    const char *section, *key, *harmless;
  } kSections[] = {{"quantization_config", "quant_method", ""},
                   {"sparsity_config", "format", "dense"}};
  for (const auto& [name, key, harmless] : kSections) {
    const json* section = JsonGet(root, name);
    if (section == nullptr) continue;
    if (!section->is_object()) {
      return Corruption("{}: {}, expected an object", name, JsonQuote(*section));
    }
    const json* value = JsonGet(*section, key);
    if (value != nullptr && *value != "" && *value != harmless) {
      return Unsupported(
          "{}: {} is {}: the weights are stored in another tool's form, expected plain F32, BF16 "
          "or F16 tensors",
          name, key, JsonQuote(*value));
    }
  }
  return OkStatus();
}

Status ReadLayerSizes(const json& layers, HfConfig* config) {
  if (!layers.is_array() || static_cast<int64_t>(layers.size()) != config->num_hidden_layers) {
    return Corruption("layers: {}, expected a list of num_hidden_layers = {} objects",
                      JsonQuote(layers), config->num_hidden_layers);
  }
  const int64_t heads = config->num_attention_heads;
  const int64_t kv_heads = config->num_key_value_heads;
  const auto read = [&](const json& entry, LayerSizes* sizes) -> Status {
    if (!entry.is_object()) return Corruption("{}, expected an object", JsonQuote(entry));
    HARROW_RETURN_IF_ERROR(
        RequireJsonInt(entry, "num_attention_heads", 1, heads, &sizes->num_attention_heads));
    HARROW_RETURN_IF_ERROR(
        RequireJsonInt(entry, "num_key_value_heads", 1, kv_heads, &sizes->num_key_value_heads));
    HARROW_RETURN_IF_ERROR(RequireJsonInt(entry, "intermediate_size", 1, config->intermediate_size,
                                          &sizes->intermediate_size));
    if (sizes->num_attention_heads * kv_heads != sizes->num_key_value_heads * heads) {
      return Corruption("{} heads of {} key-value heads, expected {} each as in the whole model",
                        sizes->num_attention_heads, sizes->num_key_value_heads, heads / kv_heads);
    }
    HARROW_RETURN_IF_ERROR(ReadJsonBool(entry, "o_proj_bias", &sizes->o_proj_bias));
    return ReadJsonBool(entry, "down_proj_bias", &sizes->down_proj_bias);
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerSizes sizes;
    HARROW_RETURN_IF_ERROR(read(layers[i], &sizes).At(fmt::format("layers[{}]", i)));
    config->layers.push_back(sizes);
  }
  return OkStatus();
}

json LayerSizesJson(const std::vector<LayerSizes>& layers) {
  json list = json::array();
  for (const LayerSizes& sizes : layers) {
    list.push_back({{"num_attention_heads", sizes.num_attention_heads},
                    {"num_key_value_heads", sizes.num_key_value_heads},
                    {"intermediate_size", sizes.intermediate_size},
                    {"o_proj_bias", sizes.o_proj_bias},
                    {"down_proj_bias", sizes.down_proj_bias}});
  }
  return list;
}

bool IsMaskedOf4Bits(const WeightSpec& spec) {
  const bool masked = spec.format == FormatId::kBitmask || spec.format == FormatId::kNm;
  return masked && (spec.values == ValueType::kI4 || spec.values == ValueType::kU4);
}

Status ReadHarrowSection(const json& root, HfConfig* config) {
  const json* section = JsonGet(root, "harrow");
  if (section == nullptr) return OkStatus();
  if (!section->is_object()) return Corruption("{}, expected an object", JsonQuote(*section));
  int64_t version = 0;
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(*section, "version", 1, std::numeric_limits<int32_t>::max(), &version));
  if (version > kThirdVersion) {
    return Unsupported("version {}, this build reads versions 1 to {}", version, kThirdVersion);
  }
  config->harrow_version = static_cast<int32_t>(version);
  const json* weights = JsonGet(*section, "weights");
  if (weights == nullptr) return Corruption("weights is missing");
  HARROW_RETURN_IF_ERROR(ReadPackedWeights(*weights, &config->packed));
  for (const auto& [name, info] : config->packed) {
    if (version < kThirdVersion && IsMaskedOf4Bits(info.spec)) {
      return Unsupported(
          "weight {}: {} of version {}, expected version {}: compress the model again", name,
          SpecName(info.spec), version, kThirdVersion);
    }
  }
  for (const char* const key : {"low_rank", "layers"}) {
    if (JsonGet(*section, key) != nullptr && version < kSecondVersion) {
      return Corruption("{}: found in version {}, expected version {}", key, version,
                        kSecondVersion);
    }
  }
  if (const json* low_rank = JsonGet(*section, "low_rank"); low_rank != nullptr) {
    HARROW_RETURN_IF_ERROR(ReadLowRankWeights(*low_rank, &config->low_rank));
  }
  const json* layers = JsonGet(*section, "layers");
  return layers != nullptr ? ReadLayerSizes(*layers, config) : OkStatus();
}

Status ReadConfig(const json& root, HfConfig* config) {
  HARROW_RETURN_IF_ERROR(ReadArchitecture(root, config));
  HARROW_RETURN_IF_ERROR(RequireJsonInt(root, "hidden_size", 1, kMaxHidden, &config->hidden_size));
  // ffn_dim and activation_function are OPT's names, hidden_activation is Gemma's.
  const char* const ffn = JsonGet(root, "intermediate_size") ? "intermediate_size"
                          : JsonGet(root, "ffn_dim")         ? "ffn_dim"
                                                             : "intermediate_size";
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(root, ffn, 1, kMaxIntermediate, &config->intermediate_size));
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(root, "num_hidden_layers", 1, kMaxLayers, &config->num_hidden_layers));
  HARROW_RETURN_IF_ERROR(
      RequireJsonInt(root, "num_attention_heads", 1, kMaxHeads, &config->num_attention_heads));
  config->num_key_value_heads = config->num_attention_heads;
  HARROW_RETURN_IF_ERROR(
      ReadJsonInt(root, "num_key_value_heads", 1, kMaxHeads, &config->num_key_value_heads));
  if (config->num_attention_heads % config->num_key_value_heads != 0) {
    return Corruption("num_key_value_heads: {} does not divide num_attention_heads, which is {}",
                      config->num_key_value_heads, config->num_attention_heads);
  }
  if (JsonGet(root, "head_dim") != nullptr) {
    HARROW_RETURN_IF_ERROR(RequireJsonInt(root, "head_dim", 1, kMaxHeadDim, &config->head_dim));
  } else if (config->hidden_size % config->num_attention_heads != 0) {
    return Corruption("num_attention_heads: {} does not divide hidden_size, which is {}",
                      config->num_attention_heads, config->hidden_size);
  } else {
    config->head_dim = config->hidden_size / config->num_attention_heads;
  }
  HARROW_RETURN_IF_ERROR(RequireJsonInt(root, "vocab_size", 1, kMaxVocab, &config->vocab_size));
  HARROW_RETURN_IF_ERROR(RequireJsonInt(root, "max_position_embeddings", 1, kMaxContext,
                                        &config->max_position_embeddings));
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "activation_function", &config->hidden_act));
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "hidden_activation", &config->hidden_act));
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "hidden_act", &config->hidden_act));
  HARROW_RETURN_IF_ERROR(ReadJsonPositive(root, "rms_norm_eps", 1, &config->rms_norm_eps));
  HARROW_RETURN_IF_ERROR(ReadRope(root, config));
  HARROW_RETURN_IF_ERROR(ReadJsonBool(root, "tie_word_embeddings", &config->tie_word_embeddings));
  HARROW_RETURN_IF_ERROR(ReadJsonBool(root, "attention_bias", &config->attention_bias));
  HARROW_RETURN_IF_ERROR(ReadJsonBool(root, "mlp_bias", &config->mlp_bias));
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "dtype", &config->torch_dtype));  // transformers 5
  HARROW_RETURN_IF_ERROR(ReadJsonString(root, "torch_dtype", &config->torch_dtype));
  HARROW_RETURN_IF_ERROR(ReadTokenIds(root, config));
  HARROW_RETURN_IF_ERROR(CheckStorage(root));
  return ReadHarrowSection(root, config).At("harrow");
}

}  // namespace

Result<HfConfig> ParseHfConfig(std::string_view text, std::string_view where) {
  HARROW_ASSIGN_OR_RETURN(const json root, ParseJsonObject(text, where));
  HfConfig config;
  HARROW_RETURN_IF_ERROR(ReadConfig(root, &config).At(where));
  config.json = text;
  return config;
}

Result<HfConfig> LoadHfConfig(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / kConfigFile).string();
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  return ParseHfConfig(text, path);
}

double PackedSparsity(const HfConfig& config) {
  int64_t weights = 0;
  int64_t nonzeros = 0;
  for (const auto& [name, info] : config.packed) {
    weights += info.rows * info.cols;
    nonzeros += info.nonzeros;
  }
  return weights == 0 ? 0 : 1.0 - static_cast<double>(nonzeros) / static_cast<double>(weights);
}

Result<std::string> WithHarrowSection(const HfConfig& config, const PackedWeights& packed,
                                      std::string_view recipe_json, std::string_view torch_dtype,
                                      const LowRankWeights& low_rank) {
  HARROW_ASSIGN_OR_RETURN(json root, ParseJsonObject(config.json, kConfigFile));
  root.erase("harrow");
  const bool second = !low_rank.empty() || !config.layers.empty();
  const bool third = std::any_of(packed.begin(), packed.end(), [](const auto& named) {
    return IsMaskedOf4Bits(named.second.spec);
  });
  if (!packed.empty() || second) {
    json section = {{"version", third    ? kThirdVersion
                                : second ? kSecondVersion
                                         : kFirstVersion},
                    {"weights", PackedWeightsJson(packed)}};
    if (!low_rank.empty()) section["low_rank"] = LowRankWeightsJson(low_rank);
    if (!config.layers.empty()) section["layers"] = LayerSizesJson(config.layers);
    if (!recipe_json.empty()) {
      HARROW_ASSIGN_OR_RETURN(section["recipe"], ParseJsonObject(recipe_json, "recipe"));
    }
    root["harrow"] = std::move(section);
  }
  if (!torch_dtype.empty()) {
    root["torch_dtype"] = torch_dtype;
    if (root.contains("dtype")) root["dtype"] = torch_dtype;
  }
  return DumpJson(root);
}

}  // namespace harrow
