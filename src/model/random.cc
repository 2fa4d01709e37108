// Models of random weights, for measuring speed at the size of real ones.
#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "base/float16.h"
#include "base/rng.h"
#include "formats/random_weight.h"
#include "model/model.h"

namespace harrow {
namespace {

LinearWeight CopyOf(const LinearWeight& weight) {
  LinearWeight copy = weight;
  const std::shared_ptr<std::byte> memory = AllocateBytes(weight.data.size());
  std::memcpy(memory.get(), weight.data.data(), weight.data.size());
  copy.data = {memory.get(), weight.data.size()};
  copy.owner = memory;
  return copy;
}

Result<LinearWeight> RandomEmbedding(int64_t rows, int64_t cols, Rng* rng) {
  const uint64_t bytes = static_cast<uint64_t>(rows * cols) * sizeof(uint16_t);
  const std::shared_ptr<std::byte> memory = AllocateBytes(bytes);
  uint16_t* values = reinterpret_cast<uint16_t*>(memory.get());
  for (int64_t i = 0; i < rows * cols; ++i)
    values[i] = F32ToBf16(static_cast<float>(rng->Uniform() * 2 - 1));
  return WrapDense({DType::kBf16, {rows, cols}, memory.get(), memory});
}

}  // namespace

Result<std::unique_ptr<Model>> Model::Random(const HfConfig& config, const WeightSpec& spec,
                                             double density, uint64_t seed, ThreadPool* pool) {
  HARROW_RETURN_IF_ERROR(ValidateSpec(spec));
  if (!(density > 0 && density <= 1))
    return InvalidArgument("density {}, expected more than 0 and at most 1", density);
  HARROW_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, Bind(config));
  Rng rng(seed);
  HARROW_ASSIGN_OR_RETURN(model->embedding_.weight,
                          RandomEmbedding(model->embedding_.rows, model->embedding_.cols, &rng));

  std::vector<LinearLayer*> layers = {&model->head_};
  for (Block& block : model->blocks_) {
    const std::vector<LinearLayer*> linears = block.linears();
    layers.insert(layers.end(), linears.begin(), linears.end());
    for (LinearLayer* linear : linears) {
      if (!linear->bias_name.empty()) linear->bias.assign(static_cast<size_t>(linear->rows), 0.0f);
    }
    block.attention_norm.assign(static_cast<size_t>(model->config_.hidden), 1.0f);
    block.ffn_norm = block.attention_norm;
  }
  model->final_norm_.assign(static_cast<size_t>(model->config_.hidden), 1.0f);

  // One weight of each shape is packed, and copied for every layer that has it.
  std::map<std::pair<int64_t, int64_t>, Result<LinearWeight>> made;
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (const LinearLayer* layer : layers) {
    if (made.try_emplace({layer->rows, layer->cols}, LinearWeight()).second)
      shapes.emplace_back(layer->rows, layer->cols);
  }
  std::sort(shapes.begin(), shapes.end(),
            [](const auto& a, const auto& b) { return a.first * a.second > b.first * b.second; });
  ThreadPool caller_only(1);
  if (pool == nullptr) pool = &caller_only;
  pool->ParallelFor(static_cast<int64_t>(shapes.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& shape = shapes[static_cast<size_t>(i)];
      made.at(shape) = PackRandomWeight(spec, shape.first, shape.second, density,
                                        seed + 1 + static_cast<uint64_t>(i));
    }
  });
  for (const auto& [shape, weight] : made)
    HARROW_RETURN_IF_ERROR(weight.status());
  pool->ParallelFor(static_cast<int64_t>(layers.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      LinearLayer* layer = layers[static_cast<size_t>(i)];
      layer->weight = CopyOf(made.at({layer->rows, layer->cols}).value());
    }
  });
  return model;
}

}  // namespace harrow
