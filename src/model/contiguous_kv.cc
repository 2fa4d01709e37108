#include <algorithm>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "model/model.h"

namespace harrow {
namespace {

class ContiguousKv : public KvStore {
 public:
  ContiguousKv(const ModelConfig& config, int32_t layers, int64_t max_tokens)
      : kv_heads_(layers == config.layers
                      ? config.layer_kv_heads
                      : std::vector<int32_t>(static_cast<size_t>(layers), config.kv_heads)),
        head_dim_(config.head_dim),
        max_tokens_(max_tokens),
        keys_(static_cast<size_t>(layers)),
        values_(static_cast<size_t>(layers)) {}

  bool Reserve(int64_t tokens) override {
    if (tokens <= capacity_) return true;
    if (tokens > max_tokens_) return false;
    constexpr int64_t kFirst = 64;
    const int64_t grown = std::min(std::max({tokens, 2 * capacity_, kFirst}), max_tokens_);
    // Layer by layer, so that only one layer exists twice.
    for (std::vector<AlignedArray<float>>* arrays : {&keys_, &values_}) {
      for (size_t layer = 0; layer < arrays->size(); ++layer)
        Grow(&(*arrays)[layer], kv_heads_[layer], grown);
    }
    capacity_ = grown;
    return true;
  }
  int64_t capacity() const override { return capacity_; }
  float* keys(int32_t layer) override { return keys_[static_cast<size_t>(layer)].data(); }
  float* values(int32_t layer) override { return values_[static_cast<size_t>(layer)].data(); }

 private:
  void Grow(AlignedArray<float>* array, int64_t kv_heads, int64_t grown) const {
    AlignedArray<float> larger(static_cast<uint64_t>(kv_heads * grown * head_dim_));
    for (int64_t head = 0; capacity_ > 0 && head < kv_heads; ++head) {
      std::memcpy(larger.data() + head * grown * head_dim_,
                  array->data() + head * capacity_ * head_dim_,
                  static_cast<size_t>(capacity_ * head_dim_) * sizeof(float));
    }
    *array = std::move(larger);
  }

  std::vector<int32_t> kv_heads_;  // by layer
  int64_t head_dim_;
  int64_t max_tokens_;
  int64_t capacity_ = 0;
  std::vector<AlignedArray<float>> keys_;
  std::vector<AlignedArray<float>> values_;
};

}  // namespace

std::unique_ptr<KvStore> NewContiguousKv(const ModelConfig& config, int32_t layers,
                                         int64_t max_tokens) {
  return std::make_unique<ContiguousKv>(config, layers, max_tokens);
}

}  // namespace harrow
