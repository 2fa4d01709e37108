#include "eval/inspect.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace harrow {
namespace {

// Elements that are not zero; -0 counts as zero.
int64_t CountNonzeros(const TensorView& view) {
  const int64_t total = view.elements();
  int64_t nonzeros = 0;
  if (!IsFloat(view.dtype)) {
    const int64_t width = DTypeBytes(view.dtype);
    for (int64_t i = 0; i < total; ++i) {
      const std::byte* element = view.data + i * width;
      nonzeros +=
          std::any_of(element, element + width, [](std::byte b) { return b != std::byte{0}; });
    }
    return nonzeros;
  }
  constexpr int64_t kChunk = 1 << 16;
  std::vector<float> values(static_cast<size_t>(std::min(total, kChunk)));
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t count = std::min(kChunk, total - begin);
    ToFloat32(view, begin, count, values.data());
    nonzeros +=
        std::count_if(values.begin(), values.begin() + count, [](float v) { return v != 0; });
  }
  return nonzeros;
}

// The papers' denominator: linear weights inside decoder blocks, no embedding, no head, no norms.
bool IsBlockLinear(const std::string& name, const std::vector<int64_t>& shape) {
  return shape.size() == 2 && name.find(".layers.") != std::string::npos;
}

}  // namespace

Result<InspectReport> InspectModel(const std::string& path, const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                          Checkpoint::Open(path));
  const HfConfig& config = checkpoint->config();
  const TensorSource& source = checkpoint->tensors();
  InspectReport report;
  report.path = path;
  report.architecture = config.architecture;
  report.layers = config.num_hidden_layers;
  report.hidden = config.hidden_size;
  report.ffn = config.intermediate_size;
  report.heads = config.num_attention_heads;
  report.kv_heads = config.num_key_value_heads;
  report.vocab = config.vocab_size;
  report.context = config.max_position_embeddings;
  report.tied_head = config.tie_word_embeddings;
  const Result<std::shared_ptr<const Tokenizer>> tokenizer = LoadTokenizer(path);
  if (!tokenizer.ok() && tokenizer.status().code() != StatusCode::kNotFound) {
    return tokenizer.status();
  }
  report.tokenizer = tokenizer.ok() ? std::string((*tokenizer)->kind()) : "none";
  report.packed_weights = static_cast<int64_t>(config.packed.size());
  report.disk_bytes = source.file_bytes();

  int64_t linear_nonzeros = 0;
  int64_t done = 0;
  for (const std::string& name : source.names()) {
    if (control != nullptr) {
      if (control->Cancelled()) return Status(StatusCode::kCancelled, "inspection interrupted");
      control->Progress("inspect: tensors", done++, static_cast<int64_t>(source.names().size()));
    }
    HARROW_ASSIGN_OR_RETURN(const TensorView view, source.Find(name));
    TensorEntry entry;
    entry.name = name;
    entry.bytes = view.bytes();
    int64_t nonzeros = 0;
    const bool packed_name = std::string_view(name).ends_with(kPackedSuffix);
    const auto info = packed_name
                          ? config.packed.find(name.substr(0, name.size() - kPackedSuffix.size()))
                          : config.packed.end();
    if (info != config.packed.end()) {
      entry.name = info->first;
      entry.shape = {info->second.rows, info->second.cols};
      HARROW_ASSIGN_OR_RETURN(
          const LinearWeight weight,
          checkpoint->Linear(info->first, info->second.rows, info->second.cols));
      entry.format = SpecName(weight.spec);
      nonzeros = info->second.nonzeros;  // Linear() has verified it
    } else {
      entry.shape = view.shape;
      entry.format = std::string(DTypeName(view.dtype));
      nonzeros = CountNonzeros(view);
    }
    source.DropResident(view);
    const int64_t elements = NumElements(entry.shape);
    entry.density =
        elements > 0 ? static_cast<double>(nonzeros) / static_cast<double>(elements) : 0;
    // Factors count as the weight that they stand for, or as nothing beside its residual.
    int64_t params = elements;
    const auto low_rank = config.low_rank.find(std::string(WeightOfTensor(name)));
    if (low_rank != config.low_rank.end() && entry.name != low_rank->first) {
      const LowRankInfo& product = low_rank->second;
      const bool stands_for_it = !product.residual && entry.name.ends_with(kLowRankASuffix);
      params = stands_for_it ? product.rows * product.cols : 0;
    }
    report.params += params;
    if (IsBlockLinear(entry.name, entry.shape)) {
      report.linear_params += params;
      linear_nonzeros += nonzeros;
    }
    report.tensors.push_back(std::move(entry));
  }
  // A packed weight that config.json lists but no file holds.
  for (const auto& [name, info] : config.packed) {
    const std::string stored = name + std::string(kPackedSuffix);
    if (!source.Contains(stored)) return source.Find(stored).status();
  }
  if (report.linear_params > 0) {
    report.linear_density =
        static_cast<double>(linear_nonzeros) / static_cast<double>(report.linear_params);
  }
  // All that loading looks at, without the weights of the blocks, which were looked at above. Where
  // it fails, the whole of it tells what `harrow run` would say.
  Status runs = Model::Load(checkpoint, {.lazy_blocks = true}).status();
  if (!runs.ok()) runs = Model::Load(checkpoint, {}).status();
  report.runs = runs.ok();
  if (!runs.ok()) report.notes.push_back("harrow cannot run this: " + runs.message());
  if (control != nullptr) control->Progress("inspect: tensors", done, done);
  return report;
}

}  // namespace harrow
