#include "checkpoint/hf_config.h"

#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/testing.h"

namespace harrow {
namespace {

using testing::ConfigText;
using testing::ExpectError;

Result<HfConfig> ParseExtra(std::string_view extra) {
  return ParseHfConfig(ConfigText(extra), "dir/config.json");
}

TEST(HfConfig, DefaultsAreTransformersDefaults) {
  const auto config = ParseExtra("");
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->num_key_value_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->hidden_act, "silu");
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->rope_scaling.type, "");
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->bos_token_id.has_value());
  EXPECT_TRUE(config->eos_token_ids.empty());
  EXPECT_EQ(config->harrow_version, 0);
  EXPECT_EQ(config->json, ConfigText());
}

TEST(HfConfig, ReadsEveryRealLlamaConfig) {
  const std::string folder = testing::SharedPath("golden/hf-configs");
  HARROW_SKIP_WITHOUT(folder);
  int llamas = 0, others = 0, not_configs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string text = testing::ReadBytes(entry.path().string());
    const nlohmann::json root = nlohmann::json::parse(text);
    const auto config = ParseHfConfig(text, entry.path().string());
    if (!root.contains("model_type")) {  // simulator settings, DeepSeek's own form
      ++not_configs;
      ExpectError(config.status(), StatusCode::kCorruption,
                  {entry.path().string(), "not the config.json of a Hugging Face model"});
      continue;
    }
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    EXPECT_EQ(config->num_hidden_layers, root["num_hidden_layers"]);
    EXPECT_EQ(config->rope_theta, root.value("rope_theta", 10000.0));
    EXPECT_EQ(config->tie_word_embeddings, root.value("tie_word_embeddings", false));
    ++(config->architecture == "LlamaForCausalLM" ? llamas : others);
  }
  EXPECT_EQ(llamas, 8);
  EXPECT_GE(others, 14);
  EXPECT_EQ(not_configs, 6);
}

TEST(HfConfig, ReadsTheValuesOfRealModels) {
  const std::string folder = testing::SharedPath("golden/hf-configs/");
  HARROW_SKIP_WITHOUT(folder);
  const auto read = [&folder](const std::string& name) {
    const auto config = ParseHfConfig(testing::ReadBytes(folder + name), name);
    EXPECT_TRUE(config.ok()) << config.status().ToString();
    return config.ok() ? *config : HfConfig();
  };
  const HfConfig llama31 = read("Llama-3.1-70B.config.json");
  EXPECT_EQ(llama31.rope_scaling.type, "llama3");
  EXPECT_EQ(llama31.rope_scaling.factor, 8);
  EXPECT_EQ(llama31.rope_scaling.low_freq_factor, 1);
  EXPECT_EQ(llama31.rope_scaling.high_freq_factor, 4);
  EXPECT_EQ(llama31.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(llama31.rope_theta, 500000);
  EXPECT_EQ(llama31.num_attention_heads, 64);
  EXPECT_EQ(llama31.num_key_value_heads, 8);
  EXPECT_EQ(llama31.head_dim, 128);
  EXPECT_EQ(llama31.torch_dtype, "bfloat16");
  EXPECT_EQ(llama31.max_position_embeddings, 131072);

  const HfConfig llama32 = read("Llama-3.2-3B-Instruct.config.json");
  EXPECT_TRUE(llama32.tie_word_embeddings);
  EXPECT_EQ(llama32.head_dim, 128);
  EXPECT_EQ(llama32.bos_token_id, 128000);
  EXPECT_EQ(llama32.eos_token_ids, std::vector<int64_t>{128001});

  EXPECT_EQ(read("gemma3_1b_it.config.json").eos_token_ids, (std::vector<int64_t>{1, 106}));
  EXPECT_EQ(read("gemma3_1b_it.config.json").head_dim, 256);  // not hidden / heads = 288
  EXPECT_EQ(read("gemma3_1b_it.config.json").hidden_act, "gelu_pytorch_tanh");
  EXPECT_EQ(read("opt-125m.config.json").intermediate_size, 3072);
  EXPECT_EQ(read("opt-125m.config.json").hidden_act, "relu");
  EXPECT_EQ(read("llama3-8B-instruct.config.json").architecture, "LlamaForCausalLM");
}

TEST(HfConfig, AcceptsTheNewerRopeParameters) {
  const auto config = ParseExtra(
      R"(, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->rope_scaling.type, "llama3");
  EXPECT_EQ(config->rope_scaling.factor, 32);
  EXPECT_EQ(config->rope_theta, 500000);
  const auto plain =
      ParseExtra(R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6})");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->rope_scaling.type, "");
  EXPECT_EQ(plain->rope_theta, 1e6);
  ExpectError(
      ParseExtra(R"(, "rope_parameters": {"full_attention": {"rope_theta": 1e6}})").status(),
      StatusCode::kUnsupported, {"dir/config.json", "full_attention"});
}

// Every "[]" would take 30 times its text's size in memory.
TEST(HfConfig, LimitsTheNumberOfValues) {
  std::string many = ", \"x\": [[]";
  for (int i = 0; i < 1 << 20; ++i)
    many += ",[]";
  ExpectError(ParseExtra(many + "]").status(), StatusCode::kResourceLimit,
              {"dir/config.json", "1048576"});
}

TEST(HfConfig, ToleratesLeftoversOfOtherTools) {
  const auto config = ParseExtra(R"(, "sparsity_config": {"format": "dense", "targets": []},
      "quantization_config": {}, "unknown": [1, {"x": null}], "rope_scaling": null,
      "bos_token_id": -1, "eos_token_id": null, "dtype": "bfloat16")");
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->torch_dtype, "bfloat16");
  EXPECT_FALSE(config->bos_token_id.has_value());
}

TEST(HfConfig, CorruptConfigsAreNamed) {
  const auto kCorrupt = StatusCode::kCorruption;
  const auto kUnsupported = StatusCode::kUnsupported;
  const struct {
    const char* extra;
    StatusCode code;
    const char* fragment;
  } kCases[] = {
      {R"(, "hidden_size": -64)", kCorrupt, "hidden_size: -64"},
      {R"(, "hidden_size": 0)", kCorrupt, "hidden_size: 0"},
      {R"(, "hidden_size": 64.5)", kCorrupt, "hidden_size: 64.5"},
      {R"(, "hidden_size": "64")", kCorrupt, "hidden_size: \"64\""},
      {R"(, "hidden_size": null)", kCorrupt, "hidden_size is missing"},
      {R"(, "hidden_size": [64])", kCorrupt, "hidden_size: a JSON array"},
      {R"(, "hidden_size": 1048640)", kCorrupt, "hidden_size: 1048640"},
      {R"(, "hidden_size": 18446744073709551615)", kCorrupt, "hidden_size: 18446744073709551615"},
      {R"(, "hidden_size": 1e400)", kCorrupt, "not valid JSON"},
      {R"(, "hidden_size": NaN)", kCorrupt, "not valid JSON"},
      {R"(, "intermediate_size": 99999999999)", kCorrupt, "intermediate_size"},
      {R"(, "num_hidden_layers": 4097)", kCorrupt, "num_hidden_layers: 4097"},
      {R"(, "num_attention_heads": 5)", kCorrupt, "num_attention_heads: 5 does not divide"},
      {R"(, "num_key_value_heads": 3)", kCorrupt, "num_key_value_heads: 3 does not divide"},
      {R"(, "num_key_value_heads": 8)", kCorrupt, "num_key_value_heads: 8 does not divide"},
      {R"(, "num_key_value_heads": 0)", kCorrupt, "num_key_value_heads: 0"},
      {R"(, "head_dim": 0)", kCorrupt, "head_dim: 0"},
      {R"(, "vocab_size": 16777217)", kCorrupt, "vocab_size"},
      {R"(, "max_position_embeddings": 1.5)", kCorrupt, "max_position_embeddings"},
      {R"(, "rms_norm_eps": -1e-5)", kCorrupt, "rms_norm_eps"},
      {R"(, "rms_norm_eps": 0)", kCorrupt, "rms_norm_eps: 0"},
      {R"(, "rope_theta": -1)", kCorrupt, "rope_theta: -1"},
      {R"(, "rope_theta": 1e300)", kCorrupt, "rope_theta"},
      {R"(, "rope_scaling": 8)", kCorrupt, "rope_scaling: 8"},
      {R"(, "rope_scaling": {"type": 3})", kCorrupt, "rope_scaling: type: 3"},
      {R"(, "rope_scaling": {"type": "linear", "factor": 0})", kCorrupt, "factor: 0"},
      {R"(, "tie_word_embeddings": "yes")", kCorrupt, "tie_word_embeddings"},
      {R"(, "hidden_act": 7)", kCorrupt, "hidden_act: 7"},
      {R"(, "architectures": [])", kCorrupt, "architectures"},
      {R"(, "architectures": "Llama")", kCorrupt, "architectures"},
      {R"(, "bos_token_id": "a")", kCorrupt, "bos_token_id"},
      {R"(, "eos_token_id": [2, "x"])", kCorrupt, "eos_token_id: \"x\""},
      {R"(, "quantization_config": {"quant_method": "gptq"})", kUnsupported, "gptq"},
      {R"(, "quantization_config": 4)", kCorrupt, "quantization_config: 4"},
      {R"(, "sparsity_config": {"format": "sparse-bitmask"})", kUnsupported, "sparse-bitmask"},
      {R"(, "harrow": [])", kCorrupt, "harrow: a JSON array"},
      {R"(, "harrow": {})", kCorrupt, "harrow: version is missing"},
      {R"(, "harrow": {"version": 4})", kUnsupported, "harrow: version 4"},
      {R"(, "harrow": {"version": 1})", kCorrupt, "harrow: weights is missing"},
      {R"(, "harrow": {"version": 1, "weights": []})", kCorrupt, "harrow: weights"},
      {R"(, "harrow": {"version": 1, "weights": {"w": 1}})", kCorrupt, "weight w: 1"},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.extra);
    ExpectError(ParseExtra(c.extra).status(), c.code, {"dir/config.json: ", c.fragment});
  }
  const struct {
    const char* entry;
    StatusCode code;
    const char* fragment;
  } kEntries[] = {
      {R"("rows":4,"cols":4,"nonzeros":1,"xxh3":"0123456789abcdef")", kUnsupported, "format"},
      {R"("format":"magic-i8","rows":4,"cols":4,"nonzeros":1,"xxh3":"0123456789abcdef")",
       kUnsupported, "magic-i8"},
      {R"("format":"dense-bf16","rows":4,"cols":4,"nonzeros":1,"xxh3":"0123456789abcdef")",
       kCorrupt, "plain tensor"},
      {R"("format":"bitmask-bf16","rows":-4,"cols":4,"nonzeros":1,"xxh3":"0123456789abcdef")",
       kCorrupt, "rows: -4"},
      {R"("format":"bitmask-bf16","rows":4,"nonzeros":1,"xxh3":"0123456789abcdef")", kCorrupt,
       "cols is missing"},
      {R"("format":"bitmask-bf16","rows":4,"cols":999999999,"nonzeros":1,"xxh3":"0123456789abcdef")",
       kCorrupt, "cols: 999999999"},
      {R"("format":"bitmask-bf16","rows":4,"cols":4,"nonzeros":17,"xxh3":"0123456789abcdef")",
       kCorrupt, "nonzeros: 17"},
      {R"("format":"bitmask-bf16","rows":4,"cols":4,"xxh3":"0123456789abcdef")", kCorrupt,
       "nonzeros is missing"},
      {R"("format":"bitmask-bf16","rows":4,"cols":4,"nonzeros":1)", kCorrupt, "xxh3"},
      {R"("format":"bitmask-bf16","rows":4,"cols":4,"nonzeros":1,"xxh3":"123")", kCorrupt, "xxh3"},
      {R"("format":"bitmask-bf16","rows":4,"cols":4,"nonzeros":1,"xxh3":"0123456789abcdeg")",
       kCorrupt, "xxh3"},
  };
  for (const auto& c : kEntries) {
    SCOPED_TRACE(c.entry);
    ExpectError(
        ParseExtra(
            fmt::format(R"(, "harrow": {{"version": 1, "weights": {{"m.w": {{{}}}}}}})", c.entry))
            .status(),
        c.code, {"dir/config.json: harrow: weight m.w: ", c.fragment});
  }
}

TEST(HfConfig, HostileTextIsAnError) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("null"), std::string("\"text\""),
        std::string("\xff\xfe{}"), std::string(1 << 20, '['), std::string(1 << 20, '"'),
        ConfigText() + std::string(1, '\0'),
        ConfigText(", \"x\": " + std::string(100000, '[') + std::string(100000, ']'))}) {
    ExpectError(ParseHfConfig(text, "c.json").status(), StatusCode::kCorruption, {"c.json"});
  }
}

// Truncated anywhere, a config is an error; a flipped bit never crashes.
TEST(HfConfig, SurvivesTruncationsAndBitFlips) {
  const std::string text = ConfigText(
      R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "eos_token_id": [1, 2],
      "harrow": {"version": 1, "weights": {"w": {"format": "bitmask-i8/128", "rows": 64,
      "cols": 96, "nonzeros": 9, "xxh3": "00000000000000ff"}}})");
  ASSERT_TRUE(ParseHfConfig(text, "c").ok()) << ParseHfConfig(text, "c").status().ToString();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ParseHfConfig(std::string_view(text).substr(0, size), "c").ok()) << size;
  }
  int errors = 0;
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto config = ParseHfConfig(flipped, "c");
    if (!config.ok()) {
      ++errors;
      EXPECT_EQ(config.status().message().substr(0, 3), "c: ");
    }
  }
  EXPECT_GT(errors, static_cast<int>(text.size()));
}

TEST(HfConfig, HarrowSectionRoundTrips) {
  const auto config =
      ParseExtra(R"(, "custom": {"kept": [1, 2.5, "x"]}, "torch_dtype": "float32")");
  ASSERT_TRUE(config.ok());
  std::map<std::string, PackedWeightInfo> packed;
  packed["a.weight"] = {*ParseSpec("bitmask-i8/128"), 64, 96, 3000, 0x00ff00ff00ff00ffu};
  packed["b.weight"] = {*ParseSpec("nm-bf16 2:4"), 32, 64, 1024, 5};
  const auto text = WithHarrowSection(*config, packed, R"({"steps": ["wanda"]})", "bfloat16");
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  const auto again = ParseHfConfig(*text, "c");
  ASSERT_TRUE(again.ok()) << again.status().ToString();
  EXPECT_EQ(again->harrow_version, 1);
  EXPECT_EQ(again->torch_dtype, "bfloat16");
  ASSERT_EQ(again->packed.size(), 2u);
  for (const auto& [name, info] : packed) {
    const PackedWeightInfo& got = again->packed.at(name);
    EXPECT_EQ(got.spec, info.spec);
    EXPECT_EQ(got.rows, info.rows);
    EXPECT_EQ(got.cols, info.cols);
    EXPECT_EQ(got.nonzeros, info.nonzeros);
    EXPECT_EQ(got.checksum, info.checksum);
  }
  const nlohmann::json root = nlohmann::json::parse(*text);
  EXPECT_EQ(root["custom"]["kept"][1], 2.5);
  EXPECT_EQ(root["harrow"]["recipe"]["steps"][0], "wanda");
  // And away again: what is left is the original.
  const auto plain = WithHarrowSection(*again, {}, "", "float32");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(nlohmann::json::parse(*plain), nlohmann::json::parse(config->json));
  ExpectError(WithHarrowSection(*config, packed, "{broken", "").status(), StatusCode::kCorruption,
              {"recipe"});
}

TEST(HfConfig, LowRankWeightsRoundTripInVersion2) {
  const auto config = ParseExtra("");
  ASSERT_TRUE(config.ok());
  const LowRankWeights low_rank = {{"a.weight", {3, 64, 96, true}}, {"b", {64, 64, 64, false}}};
  const auto text = WithHarrowSection(*config, {}, "", "", low_rank);
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  const auto again = ParseHfConfig(*text, "c");
  ASSERT_TRUE(again.ok()) << again.status().ToString();
  EXPECT_EQ(again->harrow_version, 2);
  ASSERT_EQ(again->low_rank.size(), 2u);
  EXPECT_EQ(again->low_rank.at("a.weight").rank, 3);
  EXPECT_EQ(again->low_rank.at("a.weight").cols, 96);
  EXPECT_TRUE(again->low_rank.at("a.weight").residual);
  EXPECT_FALSE(again->low_rank.at("b").residual);
}

TEST(HfConfig, MaskedWeightsOf4BitsNeedVersion3) {
  const auto config = ParseExtra("");
  ASSERT_TRUE(config.ok());
  for (const char* const spec : {"bitmask-i4/64", "nm-u4/32 2:4"}) {
    SCOPED_TRACE(spec);
    PackedWeights packed;
    packed["a.weight"] = {*ParseSpec(spec), 64, 96, 3000, 5};
    const auto text = WithHarrowSection(*config, packed, "", "");
    ASSERT_TRUE(text.ok()) << text.status().ToString();
    const auto again = ParseHfConfig(*text, "c");
    ASSERT_TRUE(again.ok()) << again.status().ToString();
    EXPECT_EQ(again->harrow_version, 3);
    nlohmann::json root = nlohmann::json::parse(*text);
    root["harrow"]["version"] = 2;
    ExpectError(ParseHfConfig(root.dump(), "c").status(), StatusCode::kUnsupported,
                {"a.weight", spec, "version 2", "version 3"});
  }
}

TEST(HfConfig, BadLowRankWeightsAreRefused) {
  const struct {
    const char* section;
    std::initializer_list<std::string_view> fragments;
  } kCases[] = {
      {R"({"version": 1, "weights": {}, "low_rank": {}})", {"low_rank", "version 1", "version 2"}},
      {R"({"version": 2, "weights": {}, "low_rank": []})", {"low_rank", "object"}},
      {R"({"version": 2, "weights": {}, "low_rank": {"w": 1}})", {"weight w", "object"}},
      {R"({"version": 2, "weights": {}, "low_rank": {"w": {"rank": 5, "rows": 4, "cols": 8,
          "residual": true}}})",
       {"weight w", "rank", "5", "4"}},
      {R"({"version": 2, "weights": {}, "low_rank": {"w": {"rank": 0, "rows": 4, "cols": 8,
          "residual": true}}})",
       {"weight w", "rank", "0"}},
      {R"({"version": 2, "weights": {}, "low_rank": {"w": {"rank": 1, "rows": 4, "cols": 8}}})",
       {"weight w", "residual"}},
      {R"({"version": 2, "weights": {}, "low_rank": {"w": {"rank": 1, "rows": 99999999999,
          "cols": 8, "residual": true}}})",
       {"weight w", "rows"}},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.section);
    const auto config = ParseExtra(std::string(", \"harrow\": ") + c.section);
    EXPECT_FALSE(config.ok());
    ExpectError(config.status(), StatusCode::kCorruption, c.fragments);
  }
}

TEST(HfConfig, LayerSizesRoundTrip) {
  auto config = ParseExtra(R"(, "num_key_value_heads": 2)");
  ASSERT_TRUE(config.ok());
  config->layers = {{2, 1, 33, true, false}};
  const auto text = WithHarrowSection(*config, {}, "", "");
  ASSERT_TRUE(text.ok()) << text.status().ToString();
  const auto again = ParseHfConfig(*text, "c");
  ASSERT_TRUE(again.ok()) << again.status().ToString();
  EXPECT_EQ(again->harrow_version, 2);
  EXPECT_EQ(again->layers, config->layers);
}

TEST(HfConfig, BadLayerSizesAreRefused) {
  const struct {
    const char* layers;
    std::initializer_list<std::string_view> fragments;
  } kCases[] = {
      {"{}", {"layers", "num_hidden_layers = 1"}},
      {"[]", {"layers", "num_hidden_layers = 1"}},
      {"[3]", {"layers[0]", "object"}},
      {R"([{"num_attention_heads": 2, "num_key_value_heads": 1}])",
       {"layers[0]", "intermediate_size"}},
      {R"([{"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 97}])",
       {"layers[0]", "intermediate_size", "97", "96"}},
      {R"([{"num_attention_heads": 0, "num_key_value_heads": 1, "intermediate_size": 9}])",
       {"layers[0]", "num_attention_heads"}},
      {R"([{"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 9}])",
       {"layers[0]", "2 heads of 2 key-value heads, expected 2 each"}},
      {R"([{"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 9,
            "o_proj_bias": 1}])",
       {"layers[0]", "o_proj_bias"}},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.layers);
    const auto config = ParseExtra(
        R"(, "num_key_value_heads": 2, "harrow": {"version": 2, "weights": {}, "layers": )" +
        std::string(c.layers) + "}");
    ExpectError(config.status(), StatusCode::kCorruption, c.fragments);
  }
}

}  // namespace
}  // namespace harrow
