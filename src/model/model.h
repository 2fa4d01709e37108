// A decoder-only transformer bound to a checkpoint, and its one forward pass.
//
// A family (families.def, family.h) is data: names, shapes and switches that bind a checkpoint to
// these shared blocks.
#ifndef HARROW_MODEL_MODEL_H_
#define HARROW_MODEL_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "formats/linear_weight.h"
#include "kernels/linear.h"
#include "model/config.h"
#include "model/hooks.h"

namespace harrow {

// A linear layer: its name in the checkpoint and its weight [rows, cols].
struct LinearLayer {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  int64_t rows = 0;
  int64_t cols = 0;
  LinearWeight weight;      // empty when not loaded
  std::string bias_name;    // empty: it has none
  std::vector<float> bias;  // [rows]; empty when there is none or it is not loaded
};

struct Block {
  std::string attention_norm_name;
  std::string ffn_norm_name;
  std::vector<float> attention_norm;  // [hidden]
  std::vector<float> ffn_norm;        // [hidden]
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t ffn = 0;
  LinearLayer q, k, v, o, gate, up, down;
  // The seven linears in the order of execution: q k v o gate up down.
  std::vector<LinearLayer*> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  std::vector<const LinearLayer*> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
  // Linears that read the same input, in the order of execution: what calibration gathers one set
  // of statistics for. Each of a block's experts has groups of its own.
  std::vector<std::vector<const LinearLayer*>> input_groups() const {
    return {{&q, &k, &v}, {&o}, {&gate, &up}, {&down}};
  }
};

// Scratch of one forward pass at a time; grows with the number of tokens in a call and is reused.
// Not thread safe.
class ForwardState;

// Weights are immutable while forward passes run. Forward passes of different ForwardStates share
// the pool, so they must not run at the same time.
class Model {
 public:
  struct LoadOptions {
    // Blocks are bound (names, shapes, existence) but not loaded; LoadBlock / ReleaseBlock bring
    // weights in and out. For compression, whose memory is bounded by one block.
    bool lazy_blocks = false;
    // Verifies packed weights in parallel; null: the calling thread does. Used during Load only.
    ThreadPool* pool = nullptr;
  };
  static Result<std::unique_ptr<Model>> Load(std::shared_ptr<const Checkpoint> checkpoint,
                                             const LoadOptions& options);
  // Random weights in the shape of a config, every linear weight (head included, even where it is
  // tied; embedding excluded) in `spec` with `density` (0 < density <= 1) of its weights kept, at
  // random places; N:M keeps exactly N of every M, whatever `density` says. Blocks of 64 rows
  // repeat, but every layer has memory of its own. Threads (`pool` may be null) do not change the
  // weights. For measuring speed only.
  static Result<std::unique_ptr<Model>> Random(const HfConfig& config, const WeightSpec& spec,
                                               double density, uint64_t seed,
                                               ThreadPool* pool = nullptr);

  const ModelConfig& config() const { return config_; }
  const HfConfig& hf_config() const { return hf_config_; }
  std::vector<Block>& blocks() { return blocks_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  LinearLayer& head() { return head_; }  // tied: shares the embedding's name and bytes
  const LinearLayer& head() const { return head_; }
  const LinearLayer& embedding() const { return embedding_; }  // [vocab, hidden]
  const std::vector<float>& final_norm() const { return final_norm_; }
  const std::string& final_norm_name() const { return final_norm_name_; }

  Status LoadBlock(int32_t index);
  void ReleaseBlock(int32_t index);  // also lets mapped pages go

  // Bytes of weights that decoding one token reads: all linears and the head, one embedding row,
  // norms.
  uint64_t WeightBytesPerToken() const;
  // Bytes of all weights that stay resident.
  uint64_t ResidentBytes() const;
  // Distinct kernel names that M tokens a call would use.
  std::vector<std::string> KernelNames(int64_t m) const;

  // ---- the forward pass, in the pieces that calibration and generation share ----
  // Fails on ids outside the vocabulary (names the index and the id).
  Status CheckIds(const int32_t* ids, int64_t m) const;
  // hidden [m, hidden] = embedding rows. Fails as CheckIds.
  Status Embed(const int32_t* ids, int64_t m, float* hidden) const;
  // One block in place on hidden [m, hidden] at positions start .. start + m - 1, in steps of at
  // most the state's batch; keys and values into kv's layer `kv_layer` (calibration passes 0 with a
  // one-layer store). `observer` may be null; it sees each step. Fails when kv has no room.
  // Precondition: the block is loaded.
  Status ForwardBlock(int32_t index, float* hidden, int64_t m, int64_t start, KvStore* kv,
                      int32_t kv_layer, ForwardState* state, Observer* observer) const;
  // Final norm and head on rows of hidden [m, hidden]: logits [m, vocab].
  void Logits(const float* hidden, int64_t m, ForwardState* state, float* logits) const;
  // Embed + all blocks (in steps of at most the state's batch tokens); hidden [m, hidden] of the
  // last block, before the final norm. On failure positions from `start` on are undefined in kv.
  Status Forward(const int32_t* ids, int64_t m, int64_t start, KvStore* kv, ForwardState* state,
                 float* hidden) const;

 private:
  Model() = default;
  static Result<std::unique_ptr<Model>> Bind(const HfConfig& config);
  Status LoadLinear(LinearLayer* layer) const;  // and its bias
  Status LoadNorm(const std::string& name, std::vector<float>* norm) const;
  Status CheckStored(const std::string& name, const Shape& shape) const;
  ModelConfig config_;
  HfConfig hf_config_;
  std::shared_ptr<const Checkpoint> checkpoint_;  // null for Random
  LinearLayer embedding_;
  LinearLayer head_;
  std::string final_norm_name_;
  std::vector<float> final_norm_;
  std::vector<Block> blocks_;
};

// `pool` must outlive it. `batch` is the most tokens that one internal step processes.
std::unique_ptr<ForwardState, void (*)(ForwardState*)> NewForwardState(ThreadPool* pool,
                                                                       int64_t batch = 512);

// A KV cache that grows by blocks (kv_block.h) up to `max_tokens`. With config.layers layers each
// has room for its own KV heads, otherwise each for the most that a block has. float32 adds no
// error of its own: what measures accuracy uses it. Precondition: CheckKvType.
std::unique_ptr<KvStore> NewKvCache(const ModelConfig& config, int32_t layers, int64_t max_tokens,
                                    KvType type = KvType::kF32);
// Fails when keys of the model cannot be stored as `type`.
Status CheckKvType(const ModelConfig& config, KvType type);

}  // namespace harrow

#endif  // HARROW_MODEL_MODEL_H_
