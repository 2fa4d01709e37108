// Binding, loading and releasing weights.
#include "model/model.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "model/family.h"

namespace harrow {
namespace {

// Runs load(i) for i in [0, count), in parallel with a pool; the error of the lowest index wins.
template <class LoadOne>
Status LoadAll(int64_t count, ThreadPool* pool, const LoadOne& load) {
  std::vector<Status> statuses(static_cast<size_t>(count));
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      statuses[static_cast<size_t>(i)] = load(i);
  };
  if (pool != nullptr) {
    pool->ParallelFor(count, 1, body);
  } else {
    body(0, count);
  }
  for (Status& status : statuses) {
    if (!status.ok()) return std::move(status);
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Model>> Model::Bind(const HfConfig& config) {
  const FamilyBinder bind = FindFamily(config.architecture);
  if (bind == nullptr) {
    return Unsupported("architecture \"{}\" (supported: {})", config.architecture,
                       SupportedArchitectures());
  }
  ModelLayout layout;
  HARROW_RETURN_IF_ERROR(bind(config, &layout).At("config.json"));
  std::unique_ptr<Model> model(new Model());
  model->config_ = std::move(layout.config);
  model->hf_config_ = config;
  model->embedding_ = std::move(layout.embedding);
  model->head_ = std::move(layout.head);
  model->final_norm_name_ = std::move(layout.final_norm_name);
  model->blocks_ = std::move(layout.blocks);
  return model;
}

Result<std::unique_ptr<Model>> Model::Load(std::shared_ptr<const Checkpoint> checkpoint,
                                           const LoadOptions& options) {
  auto bound = Bind(checkpoint->config());
  if (!bound.ok()) return bound.status().At(checkpoint->directory());
  std::unique_ptr<Model> model = std::move(bound).value();
  model->checkpoint_ = std::move(checkpoint);

  if (model->config_.tied_head) {
    LinearLayer& embedding = model->embedding_;
    const Checkpoint& stored = *model->checkpoint_;
    if (!stored.HasLinear(embedding.name) && stored.HasLinear(model->head_.name))
      embedding.name = model->head_.name;
    model->head_.name = embedding.name;
  }
  std::vector<LinearLayer*> layers = {&model->embedding_};
  if (!model->config_.tied_head) layers.push_back(&model->head_);
  for (Block& block : model->blocks_) {
    for (LinearLayer* linear : block.linears()) {
      if (options.lazy_blocks) {
        HARROW_RETURN_IF_ERROR(model->CheckStored(linear->name, {linear->rows, linear->cols}));
        if (linear->bias_name.empty()) continue;
        HARROW_RETURN_IF_ERROR(model->CheckStored(linear->bias_name, {linear->rows}));
      } else {
        layers.push_back(linear);
      }
    }
    for (const std::string& norm : {block.attention_norm_name, block.ffn_norm_name})
      HARROW_RETURN_IF_ERROR(model->CheckStored(norm, {model->config_.hidden}));
  }
  // Only packed weights cost anything: their checksums and structure are verified.
  ThreadPool* pool = model->hf_config_.packed.empty() ? nullptr : options.pool;
  HARROW_RETURN_IF_ERROR(LoadAll(static_cast<int64_t>(layers.size()), pool, [&](int64_t i) {
    return model->LoadLinear(layers[static_cast<size_t>(i)]);
  }));
  // Rows of an embedding are read one at a time, which factors make dear.
  if (model->embedding_.weight.low_rank != nullptr) {
    return Unsupported("{}: {} is stored low-rank; an embedding cannot be",
                       model->checkpoint_->directory(), model->embedding_.name);
  }
  if (model->config_.tied_head) model->head_.weight = model->embedding_.weight;
  HARROW_RETURN_IF_ERROR(model->LoadNorm(model->final_norm_name_, &model->final_norm_));
  if (!options.lazy_blocks) {
    for (Block& block : model->blocks_) {
      HARROW_RETURN_IF_ERROR(model->LoadNorm(block.attention_norm_name, &block.attention_norm));
      HARROW_RETURN_IF_ERROR(model->LoadNorm(block.ffn_norm_name, &block.ffn_norm));
    }
  }
  return model;
}

Status Model::LoadLinear(LinearLayer* layer) const {
  HARROW_ASSIGN_OR_RETURN(layer->weight,
                          checkpoint_->Linear(layer->name, layer->rows, layer->cols));
  if (layer->bias_name.empty()) return OkStatus();
  HARROW_ASSIGN_OR_RETURN(layer->bias, checkpoint_->Float32(layer->bias_name, {layer->rows}));
  return OkStatus();
}

Status Model::LoadNorm(const std::string& name, std::vector<float>* norm) const {
  HARROW_ASSIGN_OR_RETURN(*norm, checkpoint_->Float32(name, {config_.hidden}));
  return OkStatus();
}

Status Model::CheckStored(const std::string& name, const Shape& shape) const {
  HARROW_ASSIGN_OR_RETURN(const Shape found, checkpoint_->LinearShape(name));
  if (found == shape) return OkStatus();
  return Corruption("{}: tensor {}: shape {}, expected {}", checkpoint_->directory(), name,
                    ShapeToString(found), ShapeToString(shape));
}

Status Model::LoadBlock(int32_t index) {
  HARROW_CHECK(checkpoint_ != nullptr && index >= 0 && index < config_.layers);
  Block& block = blocks_[static_cast<size_t>(index)];
  for (LinearLayer* linear : block.linears())
    HARROW_RETURN_IF_ERROR(LoadLinear(linear));
  HARROW_RETURN_IF_ERROR(LoadNorm(block.attention_norm_name, &block.attention_norm));
  return LoadNorm(block.ffn_norm_name, &block.ffn_norm);
}

void Model::ReleaseBlock(int32_t index) {
  HARROW_CHECK(index >= 0 && index < config_.layers);
  Block& block = blocks_[static_cast<size_t>(index)];
  for (LinearLayer* linear : block.linears()) {
    linear->weight = LinearWeight();
    linear->bias = {};
    if (checkpoint_ == nullptr) continue;
    for (const std::string& tensor : checkpoint_->LinearTensors(linear->name)) {
      const auto view = checkpoint_->tensors().Find(tensor);
      if (view.ok()) checkpoint_->tensors().DropResident(*view);
    }
  }
}

uint64_t Model::WeightBytesPerToken() const {
  uint64_t bytes = WeightBytes(head_.weight) + final_norm_.size() * sizeof(float);
  bytes += embedding_.weight.data.size() / static_cast<uint64_t>(config_.vocab);
  for (const Block& block : blocks_) {
    for (const LinearLayer* linear : block.linears())
      bytes += WeightBytes(linear->weight) + linear->bias.size() * sizeof(float);
    bytes += (block.attention_norm.size() + block.ffn_norm.size()) * sizeof(float);
  }
  return bytes;
}

uint64_t Model::ResidentBytes() const {
  const uint64_t embedding = embedding_.weight.data.size();
  const uint64_t row = embedding / static_cast<uint64_t>(config_.vocab);
  const bool shared = head_.weight.data.data() == embedding_.weight.data.data();
  return WeightBytesPerToken() - row + (shared ? 0 : embedding);
}

std::vector<std::string> Model::KernelNames(int64_t m) const {
  std::set<std::string> names;
  const auto add = [&](const LinearLayer& layer) {
    if (layer.weight.has_residual()) names.emplace(LinearKernelName(layer.weight, m));
    if (const auto& factors = layer.weight.low_rank; factors != nullptr) {
      names.emplace(LinearKernelName(factors->a, m));
      names.emplace(LinearKernelName(factors->b, m));
    }
  };
  add(head_);
  for (const Block& block : blocks_) {
    for (const LinearLayer* linear : block.linears())
      add(*linear);
  }
  return {names.begin(), names.end()};
}

}  // namespace harrow
