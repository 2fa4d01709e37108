// Models of random weights, for measuring speed at the size of real ones.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "base/float16.h"
#include "base/rng.h"
#include "model/model.h"

namespace harrow {
namespace {

// A multiple of the 16-row panels, so that the density of each panel block is that of the whole.
constexpr int64_t kRepeatedRows = 64;
// Smallest magnitude in standard deviations: large enough that values of this type do not round to
// 0. The largest of millions of normal numbers is below 6, half a step of 4 bits below 6 / 16.
double LeastMagnitude(ValueType values) {
  return IsQuantized(values) && values != ValueType::kI8 ? 6.0 / 16 : 0.05;
}

float NonZeroNormal(double least, Rng* rng) {
  const double x = rng->Normal();
  return static_cast<float>(std::copysign(std::max(std::fabs(x), least), x));
}

// [kRepeatedRows, cols] with the spec's N:M pattern, round(density * blocks) of its blocks in each
// panel, or exactly round(density * elements) non-zeros.
std::vector<float> RandomRows(const WeightSpec& spec, int64_t cols, double density, Rng* rng) {
  const int64_t count = kRepeatedRows * cols;
  const double least = LeastMagnitude(spec.values);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cols));
  std::vector<float> w(static_cast<size_t>(count));
  // Selection sampling (Knuth, TAOCP 3.4.2, algorithm S) within each window.
  const auto fill = [&](int64_t begin, int64_t end, int64_t keep) {
    for (int64_t i = begin; i < end && keep > 0; ++i) {
      if (static_cast<int64_t>(rng->Below(static_cast<uint64_t>(end - i))) >= keep) continue;
      w[static_cast<size_t>(i)] = NonZeroNormal(least, rng) * scale;
      --keep;
    }
  };
  if (spec.keep_n > 0) {
    for (int64_t row = 0; row < kRepeatedRows; ++row) {
      for (int64_t i = 0; i < cols; i += spec.of_m) {
        const int64_t end = std::min<int64_t>(i + spec.of_m, cols);
        fill(row * cols + i, row * cols + end, std::min<int64_t>(spec.keep_n, end - i));
      }
    }
  } else if (spec.block_rows > 0) {
    // The same selection among the blocks of each panel, which then keep all their weights.
    const int64_t blocks = (cols + spec.block_cols - 1) / spec.block_cols;
    for (int64_t row = 0; row < kRepeatedRows; row += spec.block_rows) {
      int64_t keep = std::llround(density * static_cast<double>(blocks));
      for (int64_t i = 0; i < blocks && keep > 0; ++i) {
        if (static_cast<int64_t>(rng->Below(static_cast<uint64_t>(blocks - i))) >= keep) continue;
        --keep;
        const int64_t end = std::min<int64_t>((i + 1) * spec.block_cols, cols);
        for (int64_t r = row; r < std::min(row + spec.block_rows, kRepeatedRows); ++r)
          fill(r * cols + i * spec.block_cols, r * cols + end, end - i * spec.block_cols);
      }
    }
  } else {
    fill(0, count, std::llround(density * static_cast<double>(count)));
  }
  return w;
}

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
      const int64_t cols = shape.second;
      Rng shape_rng(seed + 1 + static_cast<uint64_t>(i));
      const std::vector<float> rows = RandomRows(spec, cols, density, &shape_rng);
      made.at(shape) = PackWeight(spec, shape.first, cols, [&](int64_t row, float* out) {
        std::memcpy(out, rows.data() + row % kRepeatedRows * cols,
                    static_cast<size_t>(cols) * sizeof(float));
      });
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
