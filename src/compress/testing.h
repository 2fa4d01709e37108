// A tiny LLaMA with random weights and a byte-level tokenizer, for tests of whole runs.
#ifndef HARROW_COMPRESS_TESTING_H_
#define HARROW_COMPRESS_TESTING_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/rng.h"
#include "checkpoint/safetensors.h"

namespace harrow::testing {

struct TinyModel {
  int64_t hidden = 64;
  int64_t ffn = 96;
  int64_t layers = 3;
  bool tied = false;
  DType dtype = DType::kBf16;
  uint64_t seed = 1;
};

// GPT-2's printable stand-in for a byte, UTF-8.
inline std::string ByteLevelChar(int byte) {
  int code = byte;
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b)
      code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

inline std::string ByteTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int b = 0; b < 256; ++b)
    vocab[ByteLevelChar(b)] = b;
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  return nlohmann::json{{"version", "1.0"},
                        {"added_tokens", nlohmann::json::array()},
                        {"normalizer", nullptr},
                        {"pre_tokenizer", byte_level},
                        {"post_processor", nullptr},
                        {"decoder", byte_level},
                        {"model",
                         {{"type", "BPE"},
                          {"unk_token", nullptr},
                          {"fuse_unk", false},
                          {"byte_fallback", false},
                          {"vocab", vocab},
                          {"merges", nlohmann::json::array()}}}}
      .dump();
}

// Changes weights before they are written: name, values.
using WeightEdit = std::function<void(const std::string&, std::vector<float>*)>;

inline void WriteTinyModel(const std::string& directory, const TinyModel& tiny,
                           const WeightEdit& edit = nullptr) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/config.json") << nlohmann::json{
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"hidden_size", tiny.hidden},
      {"intermediate_size", tiny.ffn},
      {"num_hidden_layers", tiny.layers},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"vocab_size", 256},
      {"max_position_embeddings", 64},
      {"rms_norm_eps", 1e-5},
      {"tie_word_embeddings", tiny.tied},
      {"torch_dtype", tiny.dtype == DType::kF32
                          ? "float32"
                          : "bfloat16"}}.dump();
  std::ofstream(directory + "/tokenizer.json") << ByteTokenizerJson();
  std::vector<SafetensorsWriter::Planned> planned;
  const auto plan = [&](const std::string& name, Shape shape) {
    planned.push_back({name, tiny.dtype, std::move(shape)});
  };
  plan("model.embed_tokens.weight", {256, tiny.hidden});
  plan("model.norm.weight", {tiny.hidden});
  if (!tiny.tied) plan("lm_head.weight", {256, tiny.hidden});
  for (int64_t l = 0; l < tiny.layers; ++l) {
    const std::string p = fmt::format("model.layers.{}.", l);
    plan(p + "input_layernorm.weight", {tiny.hidden});
    plan(p + "post_attention_layernorm.weight", {tiny.hidden});
    plan(p + "self_attn.q_proj.weight", {tiny.hidden, tiny.hidden});
    plan(p + "self_attn.k_proj.weight", {tiny.hidden / 2, tiny.hidden});
    plan(p + "self_attn.v_proj.weight", {tiny.hidden / 2, tiny.hidden});
    plan(p + "self_attn.o_proj.weight", {tiny.hidden, tiny.hidden});
    plan(p + "mlp.gate_proj.weight", {tiny.ffn, tiny.hidden});
    plan(p + "mlp.up_proj.weight", {tiny.ffn, tiny.hidden});
    plan(p + "mlp.down_proj.weight", {tiny.hidden, tiny.ffn});
  }
  Rng rng(tiny.seed);
  auto writer = SafetensorsWriter::Create(directory + "/model.safetensors", planned, {});
  ASSERT_TRUE(writer.ok()) << writer.status().ToString();
  for (const SafetensorsWriter::Planned& tensor : planned) {
    std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
    for (float& value : values) {
      value =
          tensor.shape.size() == 1
              ? 1.0f + 0.1f * static_cast<float>(rng.Normal())
              : static_cast<float>(rng.Normal() / std::sqrt(static_cast<double>(tensor.shape[1])));
    }
    if (edit) edit(tensor.name, &values);
    if (tiny.dtype == DType::kF32) {
      ASSERT_TRUE(writer->Append(std::as_bytes(std::span(values))).ok());
      continue;
    }
    std::vector<uint16_t> halves;
    for (const float value : values)
      halves.push_back(F32ToBf16(value));
    ASSERT_TRUE(writer->Append(std::as_bytes(std::span(halves))).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
}

// Lines of lower-case letters; documents of about 40 to 240 characters.
inline void WriteTinyText(const std::string& path) {
  Rng rng(99);
  std::ofstream out(path, std::ios::binary);
  for (int document = 0; document < 40; ++document) {
    const uint64_t length = 40 + rng.Below(200);
    for (uint64_t i = 0; i < length; ++i) {
      out << (rng.Below(6) == 0 ? ' ' : static_cast<char>('a' + rng.Below(26)));
    }
    out << "\n<|endoftext|>\n";
  }
}

}  // namespace harrow::testing

#endif  // HARROW_COMPRESS_TESTING_H_
