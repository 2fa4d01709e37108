#include "tiny_model.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "checkpoint/safetensors.h"

namespace harrow::testing {
namespace {

// GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the other bytes for
// U+0100 onwards, in order.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b)
      code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

void WriteTokenizer(const std::string& directory) {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[ByteSymbol(byte)] = byte;
  vocab["<s>"] = 256;
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 256},
         {"content", "<s>"},
         {"single_word", false},
         {"lstrip", false},
         {"rstrip", false},
         {"normalized", false},
         {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  std::ofstream(directory + "/tokenizer.json") << tokenizer;
}

}  // namespace

void WriteTinyModel(const std::string& directory, uint64_t seed, bool with_tokenizer) {
  std::filesystem::create_directories(directory);
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"hidden_size", 64},
                                 {"intermediate_size", 96},
                                 {"num_hidden_layers", 2},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"vocab_size", kTinyVocab},
                                 {"max_position_embeddings", kTinyContext},
                                 {"hidden_act", "silu"},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 10000.0},
                                 {"tie_word_embeddings", false},
                                 {"torch_dtype", "float32"}};
  std::ofstream(directory + "/config.json") << config;

  std::vector<SafetensorsWriter::Planned> planned;
  const auto plan = [&](const std::string& name, Shape shape) {
    planned.push_back({name, DType::kF32, std::move(shape)});
  };
  plan("model.embed_tokens.weight", {kTinyVocab, 64});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    plan(prefix + "input_layernorm.weight", {64});
    plan(prefix + "self_attn.q_proj.weight", {64, 64});
    plan(prefix + "self_attn.k_proj.weight", {32, 64});
    plan(prefix + "self_attn.v_proj.weight", {32, 64});
    plan(prefix + "self_attn.o_proj.weight", {64, 64});
    plan(prefix + "post_attention_layernorm.weight", {64});
    plan(prefix + "mlp.gate_proj.weight", {96, 64});
    plan(prefix + "mlp.up_proj.weight", {96, 64});
    plan(prefix + "mlp.down_proj.weight", {64, 96});
  }
  plan("model.norm.weight", {64});
  plan("lm_head.weight", {kTinyVocab, 64});

  auto writer = SafetensorsWriter::Create(directory + "/model.safetensors", planned, {});
  ASSERT_TRUE(writer.ok()) << writer.status().ToString();
  Rng rng(seed);
  for (const SafetensorsWriter::Planned& tensor : planned) {
    std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
    const bool norm = tensor.shape.size() == 1;
    for (float& value : values) {
      value = static_cast<float>(norm ? 1 + 0.1 * rng.Normal() : 0.12 * rng.Normal());
    }
    ASSERT_TRUE(writer->Append(std::as_bytes(std::span<const float>(values))).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
  if (with_tokenizer) WriteTokenizer(directory);
}

}  // namespace harrow::testing
