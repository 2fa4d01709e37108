// A model as a GGUF file, for llama.cpp and what is built on it.
#include <chrono>
#include <cmath>
#include <filesystem>

#include "base/run_control.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "compress/output_path.h"
#include "harrow/compress.h"
#include "model/model.h"
#include "text/vocabulary.h"

namespace harrow {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;

// general.file_type, llama.cpp's llama_ftype.
uint32_t FileType(GgufType type) {
  switch (type) {
    case GgufType::kF32: return 0;
    case GgufType::kF16: return 1;
    case GgufType::kQ4_0: return 2;
    case GgufType::kQ8_0: return 7;
    case GgufType::kBf16: return 32;
  }
  return 0;
}

// What llama.cpp computes as Harrow does; all else is refused.
Status CheckExpressible(const Model& model) {
  const ModelConfig& c = model.config();
  const HfConfig& hf = model.hf_config();
  if (c.activation != GateActivation::kSilu) {
    return Unsupported("hidden_act {}: llama.cpp's llama graph has SiLU only", hf.hidden_act);
  }
  for (const Block& block : model.blocks()) {
    if (block.heads != c.heads || block.kv_heads != c.kv_heads || block.ffn != c.ffn) {
      return Unsupported(
          "its blocks differ in heads or FFN width (structured pruning), which llama.cpp's llama "
          "graph cannot have; write it with --to hf");
    }
  }
  if (!hf.rope_scaling.type.empty() && hf.rope_scaling.type != "linear" &&
      hf.rope_scaling.type != "llama3") {
    return Unsupported("rope_scaling of type {} is not written as GGUF", hf.rope_scaling.type);
  }
  return OkStatus();
}

// One tensor of the file and where its rows come from.
struct Item {
  GgufWriter::Planned planned;
  int32_t block = -1;                          // -1: outside the blocks
  const LinearLayer* layer = nullptr;          // rows of a matrix,
  const std::vector<float>* values = nullptr;  // or a vector
  int32_t rope_heads = 0;                      // > 0: q or k, rows reordered
};

// llama.cpp rotates neighbours (2i, 2i + 1), Hugging Face the halves (i, i + d / 2): row r of a
// head's d rows in the file is row SourceRow(r, d) of the head.
int64_t SourceRow(int64_t row, int64_t head_dim) {
  const int64_t i = row % head_dim;
  return row - i + i / 2 + i % 2 * (head_dim / 2);
}

class GgufExporter {
 public:
  GgufExporter(Model* model, GgufType type, bool lazy, const RunControl* control)
      : model_(model), type_(type), lazy_(lazy), control_(control) {}

  void ListItems() {
    const ModelConfig& c = model_->config();
    AddMatrix("token_embd.weight", -1, model_->embedding());
    AddVector("output_norm.weight", -1, model_->final_norm(), c.hidden);
    if (!c.tied_head) AddMatrix("output.weight", -1, model_->head());
    if (model_->hf_config().rope_scaling.type == "llama3") {
      // llama.cpp divides the plain frequencies by these.
      for (size_t i = 0; i < c.rope_inv_freq.size(); ++i) {
        const double plain =
            std::pow(model_->hf_config().rope_theta, -2.0 * static_cast<double>(i) / c.head_dim);
        rope_factors_.push_back(static_cast<float>(plain / c.rope_inv_freq[i]));
      }
      AddVector("rope_freqs.weight", -1, rope_factors_, c.head_dim / 2);
    }
    for (int32_t b = 0; b < c.layers; ++b) {
      const Block& block = model_->blocks()[static_cast<size_t>(b)];
      const std::string prefix = fmt::format("blk.{}.", b);
      AddVector(prefix + "attn_norm.weight", b, block.attention_norm, c.hidden);
      AddVector(prefix + "ffn_norm.weight", b, block.ffn_norm, c.hidden);
      const struct {
        const char* name;
        const LinearLayer* layer;
        int32_t rope_heads;
      } linears[] = {{"attn_q", &block.q, block.heads}, {"attn_k", &block.k, block.kv_heads},
                     {"attn_v", &block.v, 0},           {"attn_output", &block.o, 0},
                     {"ffn_gate", &block.gate, 0},      {"ffn_up", &block.up, 0},
                     {"ffn_down", &block.down, 0}};
      for (const auto& linear : linears) {
        AddMatrix(prefix + linear.name + ".weight", b, *linear.layer, linear.rope_heads);
        if (!linear.layer->bias_name.empty()) {
          AddVector(prefix + linear.name + ".bias", b, linear.layer->bias, linear.layer->rows);
        }
      }
    }
  }

  std::vector<GgufWriter::Planned> Planned() const {
    std::vector<GgufWriter::Planned> planned;
    for (const Item& item : items_)
      planned.push_back(item.planned);
    return planned;
  }
  const std::vector<std::string>& unquantized() const { return unquantized_; }

  Status WriteAll(GgufWriter* writer) {
    const auto total = static_cast<int64_t>(items_.size());
    int32_t loaded = -1;
    for (int64_t i = 0; i < total; ++i) {
      const Item& item = items_[static_cast<size_t>(i)];
      if (control_ != nullptr) control_->Progress("export " + item.planned.name, i, total);
      if (lazy_ && item.block != loaded) {
        if (loaded >= 0) model_->ReleaseBlock(loaded);
        HARROW_RETURN_IF_ERROR(model_->LoadBlock(item.block));
        loaded = item.block;
      }
      HARROW_RETURN_IF_ERROR(item.layer != nullptr ? WriteMatrix(item, writer)
                                                   : WriteVector(item, writer));
    }
    return OkStatus();
  }

 private:
  void AddVector(std::string name, int32_t block, const std::vector<float>& values, int64_t count) {
    items_.push_back(
        {.planned = {std::move(name), {count}, GgufType::kF32}, .block = block, .values = &values});
  }
  void AddMatrix(std::string name, int32_t block, const LinearLayer& layer,
                 int32_t rope_heads = 0) {
    GgufType type = type_;
    if (layer.cols % GgufBlockValues(type) != 0) {
      // As llama.cpp's own quantizer does.
      type = GgufType::kF16;
      unquantized_.push_back(name);
    }
    items_.push_back({.planned = {std::move(name), {layer.rows, layer.cols}, type},
                      .block = block,
                      .layer = &layer,
                      .rope_heads = rope_heads});
  }

  Status WriteVector(const Item& item, GgufWriter* writer) {
    return writer->Append(item.values->data(), static_cast<int64_t>(item.values->size()));
  }

  Status WriteMatrix(const Item& item, GgufWriter* writer) {
    const LinearLayer& layer = *item.layer;
    const int64_t head_dim = model_->config().head_dim;
    int64_t rows = std::max<int64_t>(1, kChunkElements / layer.cols);
    if (item.rope_heads > 0) rows = std::max(head_dim, rows / head_dim * head_dim);
    values_.resize(static_cast<size_t>(rows * layer.cols));
    for (int64_t row = 0; row < layer.rows; row += rows) {
      if (control_ != nullptr && control_->Cancelled())
        return Error(StatusCode::kCancelled, "cancelled");
      const int64_t count = std::min(rows, layer.rows - row);
      UnpackRows(layer.weight, row, row + count, values_.data());
      if (item.rope_heads == 0) {
        HARROW_RETURN_IF_ERROR(writer->Append(values_.data(), count * layer.cols));
        continue;
      }
      for (int64_t r = 0; r < count; ++r) {
        HARROW_RETURN_IF_ERROR(
            writer->Append(values_.data() + SourceRow(r, head_dim) * layer.cols, layer.cols));
      }
    }
    return OkStatus();
  }

  Model* model_;
  GgufType type_;
  bool lazy_;
  const RunControl* control_;
  std::vector<Item> items_;
  std::vector<std::string> unquantized_;
  std::vector<float> rope_factors_;
  std::vector<float> values_;
};

GgufMetadata ModelMetadata(const Model& model, const std::string& name, GgufType type) {
  const ModelConfig& c = model.config();
  const HfConfig& hf = model.hf_config();
  const auto number = [](int64_t value) { return static_cast<uint32_t>(value); };
  GgufMetadata metadata = {
      {"general.architecture", std::string("llama")},
      {"general.name", name},
      {"general.file_type", FileType(type)},
      {"general.quantization_version", uint32_t{2}},
      {"llama.vocab_size", number(c.vocab)},
      {"llama.context_length", number(c.max_context)},
      {"llama.embedding_length", number(c.hidden)},
      {"llama.block_count", number(c.layers)},
      {"llama.feed_forward_length", number(c.ffn)},
      {"llama.attention.head_count", number(c.heads)},
      {"llama.attention.head_count_kv", number(c.kv_heads)},
      {"llama.attention.key_length", number(c.head_dim)},
      {"llama.attention.value_length", number(c.head_dim)},
      {"llama.attention.layer_norm_rms_epsilon", c.rms_eps},
      {"llama.rope.dimension_count", number(c.head_dim)},
      {"llama.rope.freq_base", static_cast<float>(hf.rope_theta)},
  };
  if (hf.rope_scaling.type == "linear") {
    metadata.emplace_back("llama.rope.scaling.type", std::string("linear"));
    metadata.emplace_back("llama.rope.scaling.factor", static_cast<float>(hf.rope_scaling.factor));
  }
  return metadata;
}

void AddVocabulary(const Vocabulary& vocabulary, GgufMetadata* metadata) {
  metadata->emplace_back("tokenizer.ggml.model", vocabulary.model);
  metadata->emplace_back("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata->emplace_back("tokenizer.ggml.token_type", vocabulary.types);
  if (vocabulary.model == "gpt2") {
    metadata->emplace_back("tokenizer.ggml.pre", vocabulary.pre_tokenizer);
    metadata->emplace_back("tokenizer.ggml.merges", vocabulary.merges);
  } else {
    metadata->emplace_back("tokenizer.ggml.scores", vocabulary.scores);
    metadata->emplace_back("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix);
  }
  const Tokenizer& tokenizer = *vocabulary.tokenizer;
  if (tokenizer.bos_id() >= 0) {
    metadata->emplace_back("tokenizer.ggml.bos_token_id",
                           static_cast<uint32_t>(tokenizer.bos_id()));
  }
  if (tokenizer.eos_id() >= 0) {
    metadata->emplace_back("tokenizer.ggml.eos_token_id",
                           static_cast<uint32_t>(tokenizer.eos_id()));
  }
  metadata->emplace_back("tokenizer.ggml.add_bos_token", tokenizer.adds_bos());
}

}  // namespace

Result<ExportReport> ExportGguf(const ExportOptions& options, const RunControl* control) {
  const auto start = std::chrono::steady_clock::now();
  const std::string dtype = options.dtype == "auto" ? "bf16" : options.dtype;
  const std::optional<GgufType> type = ParseGgufType(dtype);
  if (!type) {
    return InvalidArgument(
        "--dtype: expected auto | f32 | bf16 | f16 | q8_0 | q4_0 with --to gguf, found \"{}\"",
        options.dtype);
  }
  HARROW_RETURN_IF_ERROR(CheckOutputSparesSource(options.output, options.model));
  std::error_code error;
  if (!options.overwrite && std::filesystem::exists(options.output, error)) {
    return InvalidArgument("{}: already exists; --overwrite replaces it", options.output);
  }
  std::unique_ptr<Model> model;
  if (options.random_weights) {
    HARROW_ASSIGN_OR_RETURN(const HfConfig config, LoadHfConfig(options.model));
    HARROW_ASSIGN_OR_RETURN(
        model,
        Model::Random(config, {.format = FormatId::kDense, .values = ValueType::kBf16}, 1, 0));
  } else {
    HARROW_ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint,
                            Checkpoint::Open(options.model));
    HARROW_ASSIGN_OR_RETURN(model, Model::Load(std::move(checkpoint), {.lazy_blocks = true}));
  }
  HARROW_RETURN_IF_ERROR(CheckExpressible(*model).At(options.model));
  GgufExporter exporter(model.get(), *type, !options.random_weights, control);
  exporter.ListItems();

  std::string name = std::filesystem::path(options.model).lexically_normal().filename().string();
  if (name.empty() || name == ".") name = "model";
  GgufMetadata metadata = ModelMetadata(*model, name, *type);
  if (options.random_weights) {
    metadata.emplace_back("tokenizer.ggml.model", std::string("no_vocab"));
  } else {
    HARROW_ASSIGN_OR_RETURN(const Vocabulary vocabulary,
                            LoadVocabulary(options.model, model->config().vocab));
    AddVocabulary(vocabulary, &metadata);
  }
  HARROW_ASSIGN_OR_RETURN(GgufWriter writer,
                          GgufWriter::Create(options.output, metadata, exporter.Planned()));
  HARROW_RETURN_IF_ERROR(exporter.WriteAll(&writer));
  HARROW_RETURN_IF_ERROR(writer.Finish());

  ExportReport report;
  report.model = options.model;
  report.output = options.output;
  report.dtype = dtype;
  report.tensors = static_cast<int64_t>(exporter.Planned().size());
  report.disk_bytes = writer.bytes_written();
  report.sparsity = PackedSparsity(model->hf_config());
  report.kept_f16 = exporter.unquantized();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace harrow
