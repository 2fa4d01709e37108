#include "checkpoint/llama2c.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <numeric>

#include <gtest/gtest.h>
#include <xxhash.h>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"

namespace harrow {
namespace {

using testing::Bytes;
using testing::ExpectError;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;

// A file of either version whose floats count up from 0 in file order.
std::string TinyFile(int version, bool shared,
                     std::vector<int32_t> fields = {8, 12, 2, 2, 1, 5, 6}) {
  const int64_t dim = fields[0], hidden = fields[1], layers = fields[2], heads = fields[3],
                kv = fields[4], vocab = fields[5], context = fields[6];
  int64_t floats =
      vocab * dim + dim + (shared ? 0 : vocab * dim) +
      layers * (2 * dim + 2 * dim * dim + 2 * dim * (dim / heads * kv) + 3 * dim * hidden);
  std::string file;
  const auto put = [&file](int32_t value) {
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  if (version > 0) {
    put(0x616b3432);
    put(version);
  } else {
    floats += context * (dim / heads);
    if (!shared) fields[5] = -fields[5];
  }
  for (const int32_t value : fields)
    put(value);
  if (version > 0) {
    file += shared ? '\1' : '\0';
    file.resize(256);
  }
  for (int64_t i = 0; i < floats; ++i) {
    const float value = static_cast<float>(i);
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return file;
}

float First(const Llama2cFile& file, const std::string& name) {
  for (const Llama2cTensor& tensor : file.tensors) {
    if (tensor.name != name) continue;
    float value;
    std::memcpy(&value, tensor.bytes.data(), sizeof(value));
    return value;
  }
  ADD_FAILURE() << "no " << name;
  return -1;
}

TEST(Llama2c, LaysOutBothVersions) {
  const std::string v0 = TinyFile(0, false), v1 = TinyFile(1, false);
  const auto a = ParseLlama2c(Bytes(v0), "a"), b = ParseLlama2c(Bytes(v1), "b");
  ASSERT_TRUE(a.ok()) << a.status().ToString();
  ASSERT_TRUE(b.ok()) << b.status().ToString();
  EXPECT_EQ(a->tensors.size(), 2u * 9 + 3);
  EXPECT_FALSE(a->shared_head);
  EXPECT_FALSE(b->shared_head);
  // By hand: v0 is tok 40, att 2x8, wq 2x64, wk 2x32, ...; v1 is att 2x8, ffn 2x8, norm 8, tok 40.
  EXPECT_EQ(First(*a, "model.embed_tokens.weight"), 0);
  EXPECT_EQ(First(*a, "model.layers.1.input_layernorm.weight"), 48);
  EXPECT_EQ(First(*a, "model.layers.0.self_attn.q_proj.weight"), 56);
  EXPECT_EQ(First(*a, "model.layers.1.self_attn.k_proj.weight"), 56 + 128 + 32);
  EXPECT_EQ(First(*b, "model.layers.0.input_layernorm.weight"), 0);
  EXPECT_EQ(First(*b, "model.layers.1.post_attention_layernorm.weight"), 24);
  EXPECT_EQ(First(*b, "model.norm.weight"), 32);
  EXPECT_EQ(First(*b, "model.embed_tokens.weight"), 40);
  EXPECT_EQ(First(*b, "model.layers.0.self_attn.q_proj.weight"), 80);
  const float last_head = static_cast<float>((v1.size() - 256) / 4 - 40);
  EXPECT_EQ(First(*b, "lm_head.weight"), last_head);
  for (const int version : {0, 1}) {
    const std::string file = TinyFile(version, true);
    const auto shared = ParseLlama2c(Bytes(file), "s");
    ASSERT_TRUE(shared.ok());
    EXPECT_TRUE(shared->shared_head);
    EXPECT_EQ(shared->tensors.size(), 2u * 9 + 2);
  }
}

TEST(Llama2c, PermutesPairsIntoHalves) {
  std::vector<float> values(12 * 2);
  std::iota(values.begin(), values.end(), 0.0f);
  const Llama2cTensor tensor{"wq", {12, 2}, std::as_bytes(std::span(values)), 2};
  const auto out = InterleavedToHalves(tensor);
  const float* got = reinterpret_cast<const float*>(out.get());
  const int source[] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};  // two heads of 6 rows
  for (size_t row = 0; row < 12; ++row) {
    EXPECT_EQ(got[2 * row], static_cast<float>(2 * source[row])) << row;
    EXPECT_EQ(got[2 * row + 1], static_cast<float>(2 * source[row] + 1)) << row;
  }
}

TEST(Llama2c, CorruptFilesAreNamed) {
  const auto kCorrupt = StatusCode::kCorruption;
  const auto kUnsupported = StatusCode::kUnsupported;
  const auto parse = [](const std::string& file) {
    return ParseLlama2c(Bytes(file), "m.bin").status();
  };
  ExpectError(parse(""), kCorrupt, {"m.bin", "too short"});
  ExpectError(parse(TinyFile(1, true).substr(0, 255)), kCorrupt, {"m.bin", "256"});
  ExpectError(parse(TinyFile(2, true)), kUnsupported, {"m.bin", "version 2"});
  ExpectError(parse(TinyFile(3, true)), kUnsupported, {"m.bin", "version 3"});
  ExpectError(parse(TinyFile(0, true).append("x")), kCorrupt, {"m.bin", "expected"});
  ExpectError(parse(std::string("GGUF").append(100, '\0')), kCorrupt, {"m.bin", "dim", "llama2.c"});
  const struct {
    size_t field;
    int32_t value;
    const char* fragment;
  } kFields[] = {
      {0, 0, "dim = 0"},
      {0, -8, "dim = -8"},
      {0, INT32_MAX, "dim = 2147483647"},
      {0, 10, "n_heads = 2, expected to divide dim = 10 into heads of even size"},
      {1, 0, "hidden_dim = 0"},
      {1, 1 << 22, "bytes, expected"},  // a size that the file does not have
      {2, 4097, "n_layers = 4097"},
      {2, 4096, "bytes, expected"},
      {3, 3, "n_heads = 3"},
      {4, 3, "n_kv_heads = 3"},
      {4, 0, "n_kv_heads = 0"},
      {5, 0, "vocab_size = 0"},
      {5, INT32_MIN, "vocab_size = "},
      {6, -1, "max_seq_len = -1"},
      {6, 1 << 30, "bytes, expected"},
  };
  for (const auto& c : kFields) {
    for (const int version : {0, 1}) {
      if (version == 1 && c.field == 6 && c.value > 0) continue;  // it has no tables
      SCOPED_TRACE(fmt::format("version {} field {} = {}", version, c.field, c.value));
      std::string file = TinyFile(version, true);
      std::memcpy(file.data() + (version == 0 ? 0 : 8) + 4 * c.field, &c.value, 4);
      ExpectError(parse(file), kCorrupt, {"m.bin", c.fragment});
    }
  }
  std::string flag = TinyFile(1, true);
  flag[36] = 2;
  ExpectError(parse(flag), kCorrupt, {"m.bin", "shared_classifier = 2"});
}

TEST(Llama2c, SurvivesTruncationsAndHeaderFlips) {
  for (const int version : {0, 1}) {
    const std::string file = TinyFile(version, true);
    for (size_t size = 0; size < file.size(); size += size < 300 ? 1 : 37) {
      EXPECT_FALSE(ParseLlama2c(Bytes(file.substr(0, size)), "m").ok()) << size;
    }
    // Not noticed may be only what the file's size does not depend on: how heads are cut, and for
    // version 1 the context length and the padding.
    const size_t header = version == 0 ? 28 : 256;
    for (size_t bit = 0; bit < 8 * header; ++bit) {
      std::string flipped = file;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
      const auto parsed = ParseLlama2c(Bytes(flipped), "m");
      if (!parsed.ok()) continue;
      EXPECT_EQ(parsed->dim, 8) << bit;
      EXPECT_EQ(parsed->layers, 2) << bit;
      EXPECT_EQ(parsed->vocab, 5) << bit;
      EXPECT_EQ(parsed->hidden_dim, 12) << bit;
    }
  }
}

TEST(Llama2c, RealQuantizedFilesAreUnsupported) {
  TempDir dir;
  for (const char* name : {"stories260K/stories260K-q8.bin", "relu-llama-260K/model_qint80.bin",
                           "relu-llama-260K/model_mcu.bin"}) {
    const std::string path = testing::SharedPath(std::string("models/") + name);
    HARROW_SKIP_WITHOUT(path);
    ExpectError(ConvertLlama2c(path, "", dir.File("out"), false), StatusCode::kUnsupported,
                {path, "version"});
  }
  for (const char* name : {"micro-lm-ternary-pro/Micro-LM-Pro.bin", "stories260K/stories260K.gguf",
                           "TinyStories-656K/model.safetensors"}) {
    const std::string path = testing::SharedPath(std::string("models/") + name);
    HARROW_SKIP_WITHOUT(path);
    ExpectError(ConvertLlama2c(path, "", dir.File("out"), false), StatusCode::kCorruption, {path});
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

class Llama2cReal : public ::testing::TestWithParam<std::array<const char*, 3>> {};

// Every tensor as the independent converter of scripts/golden/checkpoint.py has it.
TEST_P(Llama2cReal, ConvertsAsTheReferenceDoes) {
  const auto& [model, file, tokenizer] = GetParam();
  const std::string folder = testing::SharedPath(std::string("models/") + model + "/");
  HARROW_SKIP_WITHOUT(folder + file);
  TempDir dir;
  const std::string out = dir.File("out");
  const Status status = ConvertLlama2c(folder + file, folder + tokenizer, out, false);
  ASSERT_TRUE(status.ok()) << status.ToString();
  std::ifstream in(testing::SourcePath("tests/golden/checkpoint.json"));
  const nlohmann::json golden = nlohmann::json::parse(in)[model];
  const auto checkpoint = Checkpoint::Open(out);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  const TensorSource& tensors = (*checkpoint)->tensors();
  EXPECT_EQ(tensors.names().size(), golden.size());
  for (const auto& [name, expected] : golden.items()) {
    const auto view = tensors.Find(name);
    ASSERT_TRUE(view.ok()) << view.status().ToString();
    EXPECT_EQ(view->dtype, DType::kF32);
    EXPECT_EQ(view->shape, expected["shape"].get<Shape>()) << name;
    EXPECT_EQ(fmt::format("{:016x}", XXH3_64bits(view->data, view->bytes())), expected["xxh3"])
        << name;
  }
  const HfConfig& config = (*checkpoint)->config();
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{2});
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.num_attention_heads, 8);
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(ReadBytes(out + "/tokenizer.model"), ReadBytes(folder + tokenizer));
  EXPECT_EQ(nlohmann::json::parse(ReadBytes(out + "/tokenizer_config.json"))["add_bos_token"],
            true);
  // A second time only when told so.
  ExpectError(ConvertLlama2c(folder + file, "", out, false), StatusCode::kInvalidArgument, {out});
  EXPECT_TRUE(ConvertLlama2c(folder + file, "", out, true).ok());
  EXPECT_FALSE(std::filesystem::exists(out + "/tokenizer.model"));
  EXPECT_FALSE(std::filesystem::exists(out + ".partial"));
}

INSTANTIATE_TEST_SUITE_P(
    Models, Llama2cReal,
    ::testing::Values(std::array{"stories260K", "stories260K.bin", "tok512.model"},
                      std::array{"stories260K", "checkpoint_v1.bin", "tok512.model"},
                      std::array{"babyllama-105", "model5000.bin", "tok105.model"}));

}  // namespace
}  // namespace harrow
