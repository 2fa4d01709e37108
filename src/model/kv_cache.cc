#include <algorithm>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "model/model.h"

namespace harrow {
namespace {

class KvCache : public KvStore {
 public:
  KvCache(const ModelConfig& config, int32_t layers, int64_t max_tokens, KvType type)
      : kv_heads_(layers == config.layers
                      ? config.layer_kv_heads
                      : std::vector<int32_t>(static_cast<size_t>(layers), config.kv_heads)),
        layout_(type, config.head_dim),
        max_tokens_(max_tokens),
        blocks_(static_cast<size_t>(layers)) {}

  bool Reserve(int64_t tokens) override {
    if (tokens > max_tokens_) return false;
    if (tokens <= count_ * kKvBlockTokens) return true;
    // Doubles small caches and then grows by a megabyte or so a head at most, of which a kernel
    // reads a long stretch.
    constexpr int64_t kMostAtOnce = 32;
    const int64_t most = (max_tokens_ + kKvBlockTokens - 1) / kKvBlockTokens;
    const int64_t needed = (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
    Grow(std::min(std::max(needed, count_ + std::min(count_, kMostAtOnce)), most));
    return true;
  }

  KvView layer(int32_t index) const override {
    return {layout_, blocks_[static_cast<size_t>(index)].data(), count_};
  }

 private:
  // To `count` blocks a KV head. Those that are there stay where they are.
  void Grow(int64_t count) {
    int64_t heads = 0;
    for (const int32_t of_layer : kv_heads_)
      heads += of_layer;
    const int64_t added = count - count_;
    slabs_.emplace_back(static_cast<uint64_t>(heads * added * layout_.block_bytes));
    std::byte* next = slabs_.back().data();
    for (size_t layer = 0; layer < blocks_.size(); ++layer) {
      std::vector<std::byte*> table;
      table.reserve(static_cast<size_t>(kv_heads_[layer] * count));
      for (int64_t head = 0; head < kv_heads_[layer]; ++head) {
        const auto old = blocks_[layer].begin() + head * count_;
        table.insert(table.end(), old, old + count_);
        for (int64_t i = 0; i < added; ++i, next += layout_.block_bytes)
          table.push_back(next);
      }
      blocks_[layer] = std::move(table);
    }
    count_ = count;
  }

  std::vector<int32_t> kv_heads_;  // by layer
  KvLayout layout_;
  int64_t max_tokens_;
  int64_t count_ = 0;                            // blocks of each KV head
  std::vector<std::vector<std::byte*>> blocks_;  // by layer: [kv_heads, count_]
  std::vector<AlignedArray<std::byte>> slabs_;
};

}  // namespace

Status CheckKvType(const ModelConfig& config, KvType type) {
  if (type != KvType::kI8 || config.head_dim <= kMaxI8HeadDim) return OkStatus();
  return Unsupported("a KV cache of {} takes heads of at most {} dimensions, these have {}",
                     KvTypeName(type), kMaxI8HeadDim, config.head_dim);
}

std::unique_ptr<KvStore> NewKvCache(const ModelConfig& config, int32_t layers, int64_t max_tokens,
                                    KvType type) {
  return std::make_unique<KvCache>(config, layers, max_tokens, type);
}

}  // namespace harrow
