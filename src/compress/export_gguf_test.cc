#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "compress/testing.h"
#include "harrow/compress.h"
#include "model/model.h"
#include "test_data.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

// Tensors, numbers and strings of a GGUF file, by its published layout (F32 and BF16 data only).
struct GgufFile {
  struct Tensor {
    std::vector<uint64_t> sizes;  // innermost first
    uint32_t type = 0;
    uint64_t offset = 0;
  };
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> texts;
  std::map<std::string, uint64_t> arrays;  // lengths
  std::map<std::string, Tensor> tensors;
  std::string bytes;
  size_t at = 0;
  size_t data = 0;

  explicit GgufFile(const std::string& path) : bytes(ReadFile(path, 64 << 20).value()) {
    EXPECT_EQ(Take<uint32_t>(), 0x46554747u);
    EXPECT_EQ(Take<uint32_t>(), 3u);
    const auto tensor_count = Take<uint64_t>();
    for (uint64_t left = Take<uint64_t>(); left > 0; --left) {
      const std::string key = TakeText();
      const auto kind = Take<uint32_t>();
      if (kind == 9) {
        const auto element = Take<uint32_t>();
        arrays[key] = Take<uint64_t>();
        for (uint64_t i = 0; i < arrays[key]; ++i)
          TakeValue(key, element);
      } else {
        TakeValue(key, kind);
      }
    }
    for (uint64_t i = 0; i < tensor_count; ++i) {
      Tensor& tensor = tensors[TakeText()];
      tensor.sizes.resize(Take<uint32_t>());
      for (uint64_t& size : tensor.sizes)
        size = Take<uint64_t>();
      tensor.type = Take<uint32_t>();
      tensor.offset = Take<uint64_t>();
    }
    data = (at + 31) / 32 * 32;
  }
  template <class T>
  T Take() {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    at += sizeof(T);
    return value;
  }
  std::string TakeText() {
    const auto size = Take<uint64_t>();
    at += size;
    return bytes.substr(at - size, size);
  }
  void TakeValue(const std::string& key, uint32_t kind) {
    switch (kind) {
      case 4: numbers[key] = Take<uint32_t>(); break;
      case 5: numbers[key] = Take<int32_t>(); break;
      case 6: numbers[key] = Take<float>(); break;
      case 7: numbers[key] = Take<uint8_t>(); break;
      case 8: texts[key] = TakeText(); break;
      default: FAIL() << key << ": kind " << kind;
    }
  }
  std::vector<float> Values(const std::string& name) const {
    const Tensor& tensor = tensors.at(name);
    uint64_t count = 1;
    for (const uint64_t size : tensor.sizes)
      count *= size;
    std::vector<float> values(count);
    const char* from = bytes.data() + data + tensor.offset;
    for (uint64_t i = 0; i < count; ++i) {
      if (tensor.type == 0) {
        std::memcpy(&values[i], from + 4 * i, 4);
      } else {
        EXPECT_EQ(tensor.type, 30u) << name;
        uint16_t bits;
        std::memcpy(&bits, from + 2 * i, 2);
        values[i] = Bf16ToF32(bits);
      }
    }
    return values;
  }
};

std::vector<float> Unpacked(const LinearWeight& weight) {
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  UnpackRows(weight, 0, weight.rows, values.data());
  return values;
}

class ExportGgufTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::WriteTinyModel(model_, {}); }
  Status Prune(const std::string& steps, const std::string& output) {
    CompressOptions options;
    options.model = model_;
    options.recipe_text = steps;
    options.output = output;
    return Compress(options, nullptr).status();
  }
  Result<ExportReport> Export(const std::string& model, const std::string& dtype = "auto") {
    return ExportGguf({.model = model, .output = file_, .dtype = dtype}, nullptr);
  }

  testing::TempDir dir_;
  const std::string model_ = dir_.File("tiny");
  const std::string file_ = dir_.File("tiny.gguf");
};

TEST_F(ExportGgufTest, WritesThePrunedWeights) {
  const std::string pruned = dir_.File("pruned");
  const Status status = Prune("steps: [{method: magnitude, sparsity: 0.6}]", pruned);
  ASSERT_TRUE(status.ok()) << status.ToString();
  const Result<ExportReport> report = Export(pruned);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->dtype, "bf16");
  EXPECT_EQ(report->disk_bytes, fs::file_size(file_));
  EXPECT_NEAR(report->sparsity, 0.6, 0.01);
  EXPECT_TRUE(report->kept_f16.empty());

  const GgufFile gguf(file_);
  EXPECT_EQ(gguf.texts.at("general.architecture"), "llama");
  EXPECT_EQ(gguf.numbers.at("llama.block_count"), 3);
  EXPECT_EQ(gguf.numbers.at("llama.attention.head_count"), 4);
  EXPECT_EQ(gguf.numbers.at("llama.attention.head_count_kv"), 2);
  EXPECT_EQ(gguf.numbers.at("llama.feed_forward_length"), 96);
  EXPECT_EQ(gguf.numbers.at("llama.context_length"), 64);
  EXPECT_EQ(gguf.texts.at("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(gguf.texts.at("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(gguf.arrays.at("tokenizer.ggml.tokens"), 256u);
  EXPECT_EQ(gguf.tensors.size(), 3u + 3 * 9);

  auto checkpoint = Checkpoint::Open(pruned);
  ASSERT_TRUE(checkpoint.ok());
  const auto model = Model::Load(*checkpoint, {});
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(gguf.Values("token_embd.weight"), Unpacked((*model)->embedding().weight));
  EXPECT_EQ(gguf.Values("output.weight"), Unpacked((*model)->head().weight));
  EXPECT_EQ(gguf.Values("output_norm.weight"), (*model)->final_norm());
  const Block& block = std::as_const(**model).blocks()[1];
  EXPECT_EQ(gguf.Values("blk.1.attn_norm.weight"), block.attention_norm);
  EXPECT_EQ(gguf.Values("blk.1.ffn_norm.weight"), block.ffn_norm);
  EXPECT_EQ(gguf.Values("blk.1.attn_v.weight"), Unpacked(block.v.weight));
  EXPECT_EQ(gguf.Values("blk.1.attn_output.weight"), Unpacked(block.o.weight));
  EXPECT_EQ(gguf.Values("blk.1.ffn_gate.weight"), Unpacked(block.gate.weight));
  EXPECT_EQ(gguf.Values("blk.1.ffn_up.weight"), Unpacked(block.up.weight));
  EXPECT_EQ(gguf.Values("blk.1.ffn_down.weight"), Unpacked(block.down.weight));
  EXPECT_EQ(gguf.tensors.at("blk.1.ffn_down.weight").sizes, (std::vector<uint64_t>{96, 64}));

  // Heads of 16: the pair that Hugging Face rotates, rows j and j + 8 of a head, becomes rows 2j
  // and 2j + 1.
  const auto expect_rotated = [&](const char* name, const LinearLayer& layer) {
    const std::vector<float> in = Unpacked(layer.weight);
    const std::vector<float> out = gguf.Values(name);
    for (int64_t head = 0; head < layer.rows / 16; ++head) {
      for (int64_t j = 0; j < 8; ++j) {
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t from = (head * 16 + half * 8 + j) * layer.cols;
          const int64_t to = (head * 16 + 2 * j + half) * layer.cols;
          EXPECT_TRUE(
              std::equal(in.begin() + from, in.begin() + from + layer.cols, out.begin() + to))
              << name << " head " << head << " row " << j;
        }
      }
    }
  };
  expect_rotated("blk.1.attn_q.weight", block.q);
  expect_rotated("blk.1.attn_k.weight", block.k);
}

TEST_F(ExportGgufTest, RowsThatAreNoWholeBlocksStayF16) {
  fs::remove_all(model_);
  testing::WriteTinyModel(model_, {.hidden = 48 * 2, .ffn = 80});
  const Result<ExportReport> report = Export(model_, "q4_0");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->kept_f16,
            (std::vector<std::string>{"blk.0.ffn_down.weight", "blk.1.ffn_down.weight",
                                      "blk.2.ffn_down.weight"}));
  const GgufFile gguf(file_);
  EXPECT_EQ(gguf.tensors.at("blk.0.ffn_down.weight").type, 1u);
  EXPECT_EQ(gguf.tensors.at("blk.0.ffn_up.weight").type, 2u);
  EXPECT_EQ(gguf.numbers.at("general.file_type"), 2);
}

TEST_F(ExportGgufTest, RandomWeightsNeedAShapeOnly) {
  fs::remove(model_ + "/model.safetensors");
  fs::remove(model_ + "/tokenizer.json");
  EXPECT_FALSE(Export(model_).ok());
  const Result<ExportReport> report =
      ExportGguf({.model = model_, .output = file_, .dtype = "q8_0", .random_weights = true}, {});
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  const GgufFile gguf(file_);
  EXPECT_EQ(gguf.texts.at("tokenizer.ggml.model"), "no_vocab");
  EXPECT_EQ(gguf.numbers.at("llama.vocab_size"), 256);
  EXPECT_EQ(gguf.tensors.at("blk.2.ffn_down.weight").type, 8u);
}

TEST_F(ExportGgufTest, SaysWhatItCannotWrite) {
  const auto refused = [&](const std::string& model, const std::string& dtype, const char* what) {
    const Result<ExportReport> report = Export(model, dtype);
    ASSERT_FALSE(report.ok()) << what;
    EXPECT_NE(report.status().message().find(what), std::string::npos)
        << report.status().ToString();
    EXPECT_FALSE(fs::exists(file_));
  };
  refused(model_, "q5_k", "--dtype");
  const std::string cut = dir_.File("cut");
  const std::string text = dir_.File("text.txt");
  testing::WriteTinyText(text);
  const Status pruned =
      Prune(fmt::format("calibration: {{file: {}, samples: 8, sequence_length: 32}}\n"
                        "structure: [{{method: flap, ratio: 0.3, round: 8}}]\n",
                        text),
            cut);
  ASSERT_TRUE(pruned.ok()) << pruned.ToString();
  refused(cut, "auto", "blocks differ");

  std::ofstream(file_) << "mine";
  const Result<ExportReport> there = Export(model_);
  ASSERT_FALSE(there.ok());
  EXPECT_NE(there.status().message().find("--overwrite"), std::string::npos);
  fs::remove(file_);

  std::string config = ReadFile(model_ + "/config.json", 1 << 20).value();
  const auto with = [&](const std::string& more) {
    std::ofstream(model_ + "/config.json") << "{" << more << "," << config.substr(1);
  };
  with("\"hidden_act\": \"relu\"");
  refused(model_, "auto", "SiLU");
}

}  // namespace
}  // namespace harrow
