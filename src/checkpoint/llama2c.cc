#include "checkpoint/llama2c.h"

#include <cstring>
#include <utility>

#include "base/buffer.h"
#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/json_util.h"

namespace harrow {
namespace {

constexpr uint32_t kMagic = 0x616b3432;  // "ak42"; version 0 has none
constexpr size_t kV0HeaderBytes = 7 * sizeof(int32_t);
constexpr size_t kV1HeaderBytes = 256;
constexpr uint64_t kMaxTokenizerBytes = 64 << 20;
// A shard holds permuted copies of wq and wk in memory until it is written.
constexpr uint64_t kShardBytes = uint64_t{2} << 30;

template <class T>
T Load(std::span<const std::byte> file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(value));
  return value;
}

// Reads the header; sets `offset` to its end.
Status ReadHeader(std::span<const std::byte> file, Llama2cFile* out, uint64_t* offset) {
  if (file.size() < kV0HeaderBytes) {
    return Corruption("{} bytes, too short for a llama2.c header", file.size());
  }
  size_t at = 0;
  if (Load<uint32_t>(file, 0) == kMagic) {
    out->version = Load<int32_t>(file, 4);
    if (out->version != 1) {
      return Unsupported("llama2.c version {}{}; export it as version 0 or 1 (float32)",
                         out->version, out->version == 2 ? " (int8 groups)" : "");
    }
    if (file.size() < kV1HeaderBytes) {
      return Corruption("{} bytes, too short for a llama2.c version 1 header ({} bytes)",
                        file.size(), kV1HeaderBytes);
    }
    at = 8;
  }
  const struct {
    const char* name;
    int64_t* value;
    int64_t max;
  } kFields[] = {
      {"dim", &out->dim, 1 << 20},
      {"hidden_dim", &out->hidden_dim, 1 << 22},
      {"n_layers", &out->layers, 4096},
      {"n_heads", &out->heads, 1 << 16},
      {"n_kv_heads", &out->kv_heads, 1 << 16},
      {"vocab_size", &out->vocab, 1 << 24},
      {"max_seq_len", &out->max_context, 1 << 30},
  };
  for (const auto& field : kFields) {
    *field.value = Load<int32_t>(file, at);
    at += sizeof(int32_t);
    if (out->version == 0 && field.value == &out->vocab) {  // the sign says whether it is shared
      out->shared_head = out->vocab > 0;
      if (out->vocab < 0) out->vocab = -out->vocab;
    }
    if (*field.value < 1 || *field.value > field.max) {
      return Corruption("{} = {}, expected [1, {}]; is it a llama2.c checkpoint?", field.name,
                        *field.value, field.max);
    }
  }
  if (out->dim % out->heads != 0 || out->dim / out->heads % 2 != 0) {
    return Corruption("n_heads = {}, expected to divide dim = {} into heads of even size",
                      out->heads, out->dim);
  }
  if (out->heads % out->kv_heads != 0) {
    return Corruption("n_kv_heads = {}, expected to divide n_heads = {}", out->kv_heads,
                      out->heads);
  }
  if (out->version == 1) {
    const uint8_t shared = Load<uint8_t>(file, at);
    if (shared > 1) return Corruption("shared_classifier = {}, expected 0 or 1", shared);
    out->shared_head = shared == 1;
  }
  *offset = out->version == 1 ? kV1HeaderBytes : kV0HeaderBytes;
  return OkStatus();
}

// A run of float32 in the file: one tensor, or that tensor of every layer. Without a name: skipped.
struct Run {
  const char* name;
  Shape shape;
  bool per_layer = false;
  int64_t rope_heads = 0;
};

std::vector<Run> RunsOf(const Llama2cFile& f) {
  const int64_t head_dim = f.dim / f.heads;
  const int64_t kv_dim = head_dim * f.kv_heads;
  const Run embedding{"model.embed_tokens.weight", {f.vocab, f.dim}};
  const Run attention_norm{"input_layernorm.weight", {f.dim}, true};
  const Run ffn_norm{"post_attention_layernorm.weight", {f.dim}, true};
  const Run final_norm{"model.norm.weight", {f.dim}};
  const Run wq{"self_attn.q_proj.weight", {f.dim, f.dim}, true, f.heads};
  const Run wk{"self_attn.k_proj.weight", {kv_dim, f.dim}, true, f.kv_heads};
  const Run wv{"self_attn.v_proj.weight", {kv_dim, f.dim}, true};
  const Run wo{"self_attn.o_proj.weight", {f.dim, f.dim}, true};
  const Run w1{"mlp.gate_proj.weight", {f.hidden_dim, f.dim}, true};
  const Run w2{"mlp.down_proj.weight", {f.dim, f.hidden_dim}, true};
  const Run w3{"mlp.up_proj.weight", {f.hidden_dim, f.dim}, true};
  // Cosines and sines of the RoPE angles; llama2.c's own reader skips them too.
  const Run rope_tables{nullptr, {2, f.max_context, head_dim / 2}};
  std::vector<Run> runs;
  if (f.version == 0) {
    runs = {embedding, attention_norm, wq,         wk, wv, wo, ffn_norm, w1, w2,
            w3,        final_norm,     rope_tables};
  } else {
    runs = {attention_norm, ffn_norm, final_norm, embedding, wq, wk, wv, wo, w1, w2, w3};
  }
  if (!f.shared_head) runs.push_back({"lm_head.weight", {f.vocab, f.dim}});
  return runs;
}

Result<Llama2cFile> Parse(std::span<const std::byte> file) {
  Llama2cFile f;
  uint64_t offset = 0;
  HARROW_RETURN_IF_ERROR(ReadHeader(file, &f, &offset));
  const std::vector<Run> runs = RunsOf(f);
  const auto bytes_of = [](const Run& run) {  // the caps of the header keep this below 2^58
    return static_cast<uint64_t>(NumElements(run.shape)) * sizeof(float);
  };
  std::vector<uint64_t> begins;
  for (const Run& run : runs) {
    begins.push_back(offset);
    offset += bytes_of(run) * static_cast<uint64_t>(run.per_layer ? f.layers : 1);
  }
  if (offset != file.size()) {
    return Corruption(
        "{} bytes, expected {} for version {}, dim {}, hidden_dim {}, {} layers, vocabulary {}",
        file.size(), offset, f.version, f.dim, f.hidden_dim, f.layers, f.vocab);
  }
  const auto add = [&](size_t i, const std::string& prefix, int64_t layer) {
    const Run& run = runs[i];
    f.tensors.push_back(
        {prefix + run.name, run.shape,
         file.subspan(begins[i] + bytes_of(run) * static_cast<uint64_t>(layer), bytes_of(run)),
         run.rope_heads});
  };
  for (int64_t layer = 0; layer < f.layers; ++layer) {
    for (size_t i = 0; i < runs.size(); ++i) {
      if (runs[i].per_layer) add(i, fmt::format("model.layers.{}.", layer), layer);
    }
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].per_layer && runs[i].name != nullptr) add(i, "", 0);
  }
  return f;
}

Result<HfConfig> ConfigOf(const Llama2cFile& f, std::string_view where) {
  const nlohmann::json config = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"hidden_size", f.dim},
      {"intermediate_size", f.hidden_dim},
      {"num_hidden_layers", f.layers},
      {"num_attention_heads", f.heads},
      {"num_key_value_heads", f.kv_heads},
      {"vocab_size", f.vocab},
      {"max_position_embeddings", f.max_context},
      {"hidden_act", "silu"},
      {"rms_norm_eps", 1e-5},  // llama2.c, run.c: rmsnorm()
      {"rope_theta", 10000.0},
      {"tie_word_embeddings", f.shared_head},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"torch_dtype", "float32"},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
  };
  HARROW_ASSIGN_OR_RETURN(const std::string text, DumpJson(config));
  return ParseHfConfig(text, where);
}

// run.c begins every prompt with BOS and a dummy space; the space is the sentencepiece model's.
Status WriteTokenizer(const std::string& tokenizer_model, CheckpointWriter* writer) {
  HARROW_ASSIGN_OR_RETURN(const std::string model, ReadFile(tokenizer_model, kMaxTokenizerBytes));
  HARROW_RETURN_IF_ERROR(writer->WriteSideFile("tokenizer.model", model));
  HARROW_ASSIGN_OR_RETURN(const std::string config, DumpJson({{"tokenizer_class", "LlamaTokenizer"},
                                                              {"add_bos_token", true},
                                                              {"add_eos_token", false},
                                                              {"bos_token", "<s>"},
                                                              {"eos_token", "</s>"},
                                                              {"unk_token", "<unk>"}}));
  return writer->WriteSideFile("tokenizer_config.json", config);
}

}  // namespace

Result<Llama2cFile> ParseLlama2c(std::span<const std::byte> file, std::string_view where) {
  auto parsed = Parse(file);
  if (!parsed.ok()) return parsed.status().At(where);
  return parsed;
}

std::shared_ptr<const std::byte> InterleavedToHalves(const Llama2cTensor& tensor) {
  const int64_t head_dim = tensor.shape[0] / tensor.rope_heads;
  const size_t row_bytes = static_cast<size_t>(tensor.shape[1]) * sizeof(float);
  const std::shared_ptr<std::byte> out = AllocateBytes(tensor.bytes.size());
  for (int64_t row = 0; row < tensor.shape[0]; ++row) {
    const int64_t head = row / head_dim, i = row % head_dim;
    const int64_t half = i / (head_dim / 2), pair = i % (head_dim / 2);
    const int64_t source = head * head_dim + 2 * pair + half;
    std::memcpy(out.get() + static_cast<size_t>(row) * row_bytes,
                tensor.bytes.data() + static_cast<size_t>(source) * row_bytes, row_bytes);
  }
  return out;
}

Status ConvertLlama2c(const std::string& bin_path, const std::string& tokenizer_model,
                      const std::string& output_directory, bool overwrite) {
  HARROW_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(bin_path));
  HARROW_ASSIGN_OR_RETURN(const Llama2cFile parsed, ParseLlama2c(file->bytes(), bin_path));
  HARROW_ASSIGN_OR_RETURN(const HfConfig config, ConfigOf(parsed, bin_path));
  CheckpointWriter::Options options;
  options.overwrite = overwrite;
  HARROW_ASSIGN_OR_RETURN(const auto writer, CheckpointWriter::Create(output_directory, options));
  uint64_t shard_bytes = 0;
  int shards = 0;
  for (const Llama2cTensor& tensor : parsed.tensors) {
    if (shards > 0 && shard_bytes + tensor.bytes.size() > kShardBytes) {
      HARROW_RETURN_IF_ERROR(writer->EndShard());
      shard_bytes = 0;
    }
    if (shard_bytes == 0) {
      HARROW_RETURN_IF_ERROR(writer->BeginShard(fmt::format("part-{:05d}", shards++)));
    }
    shard_bytes += tensor.bytes.size();
    TensorView view{DType::kF32, tensor.shape, tensor.bytes.data(), file};
    if (tensor.rope_heads > 0) {
      view.owner = InterleavedToHalves(tensor);
      view.data = static_cast<const std::byte*>(view.owner.get());
    }
    HARROW_RETURN_IF_ERROR(writer->AddTensor(tensor.name, view));
  }
  HARROW_RETURN_IF_ERROR(writer->EndShard());
  if (!tokenizer_model.empty()) {
    HARROW_RETURN_IF_ERROR(WriteTokenizer(tokenizer_model, writer.get()));
  }
  return writer->Finish(config, "", "");
}

}  // namespace harrow
