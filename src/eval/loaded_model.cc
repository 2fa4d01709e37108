#include "eval/loaded_model.h"

#include <set>

#include <xxhash.h>

#include "base/mapped_file.h"
#include "compress/row_slices.h"

namespace harrow {

uint64_t LoadedModel::DiskBytes() const {
  return checkpoint != nullptr ? checkpoint->tensors().file_bytes() : 0;
}

std::vector<std::string> LoadedModel::Formats() const {
  std::set<std::string> names;
  for (const Block& block : model->blocks()) {
    for (const LinearLayer* layer : block.linears())
      names.insert(FormatText(layer->weight));
  }
  return {names.begin(), names.end()};
}

std::string LoadedModel::TokenizerKind() const {
  return tokenizer != nullptr ? std::string(tokenizer->kind()) : "none";
}

Result<LoadedModel> LoadModel(const std::string& path, std::shared_ptr<ThreadPool> pool) {
  LoadedModel loaded;
  loaded.path = path;
  loaded.pool = std::move(pool);
  HARROW_ASSIGN_OR_RETURN(loaded.checkpoint, Checkpoint::Open(path));
  HARROW_ASSIGN_OR_RETURN(loaded.model,
                          Model::Load(loaded.checkpoint, {.pool = loaded.pool.get()}));
  Result<std::shared_ptr<const Tokenizer>> tokenizer = LoadTokenizer(path);
  if (tokenizer.ok()) {
    loaded.tokenizer = std::move(tokenizer).value();
  } else if (tokenizer.status().code() != StatusCode::kNotFound) {
    return tokenizer.status();
  }
  return loaded;
}

Status BlameWeights(const LoadedModel& model, const Status& error) {
  if (error.code() != StatusCode::kNumerical) return error;
  std::vector<const LinearLayer*> linears = {&model.model->embedding(), &model.model->head()};
  for (const Block& block : std::as_const(*model.model).blocks()) {
    for (const LinearLayer* linear : block.linears())
      linears.push_back(linear);
  }
  Status found;
  for (const LinearLayer* linear : linears) {
    if (found.ok() && linear->weight.has_residual()) {
      found = CheckFinite(linear->name, linear->weight);
    }
  }
  // Norms, biases and factors.
  if (model.checkpoint != nullptr) {
    const TensorSource& tensors = model.checkpoint->tensors();
    for (const std::string& name : tensors.names()) {
      if (!found.ok()) break;
      const Result<TensorView> view = tensors.Find(name);
      if (view.ok()) found = CheckFinite(name, *view);
    }
  }
  if (found.ok()) {
    return Error(StatusCode::kNumerical, "{}: {}; its weights are all finite, so it overflows",
                 model.path, error.message());
  }
  return Error(StatusCode::kNumerical, "{}: {}; {}", model.path, found.message(), error.message());
}

Status AtText(const Status& error, const std::string& path) {
  return error.code() == StatusCode::kNumerical ? error : error.At(path);
}

Result<std::vector<int32_t>> Tokenize(const LoadedModel& model, std::string_view text,
                                      SpecialTokens special) {
  if (model.tokenizer == nullptr) {
    return NotFound("{}: has no tokenizer.json or tokenizer.model, so it takes token ids, not text",
                    model.path);
  }
  return model.tokenizer->Encode(text, special);
}

Result<std::string> ReadText(const std::string& path) {
  return ReadFile(path, uint64_t{1} << 30);
}

std::string TextHash(std::string_view text) {
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

}  // namespace harrow
