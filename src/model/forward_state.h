// Scratch of the forward pass. Internal to model/.
#ifndef HARROW_MODEL_FORWARD_STATE_H_
#define HARROW_MODEL_FORWARD_STATE_H_

#include <cstdint>
#include <memory>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "model/model.h"

namespace harrow {

class ForwardState {
 public:
  ForwardState(ThreadPool* pool, int64_t batch)
      : pool_(pool), batch_(batch > 0 ? batch : 1), scratch_(NewLinearScratch()) {}

  ThreadPool* pool() const { return pool_; }
  int64_t batch() const { return batch_; }
  LinearContext linear() const { return {pool_, scratch_.get()}; }

  // Makes room for steps of `tokens` tokens.
  void Reserve(const ModelConfig& config, int64_t tokens);
  // Angles of positions start .. start + tokens - 1; kept while all blocks of a step ask for them.
  void PrepareRope(const Model& model, int64_t start, int64_t tokens);

  float* normed() { return normed_.data(); }                // [tokens, hidden]
  float* projected() { return projected_.data(); }          // [tokens, hidden]
  float* q() { return q_.data(); }                          // [tokens, heads * head_dim]
  float* k() { return k_.data(); }                          // [tokens, kv_heads * head_dim]
  float* v() { return v_.data(); }                          // [tokens, kv_heads * head_dim]
  float* attended() { return attended_.data(); }            // [tokens, heads * head_dim]
  float* gate() { return gate_.data(); }                    // [tokens, ffn]
  float* up() { return up_.data(); }                        // [tokens, ffn]
  const float* cosines() const { return cosines_.data(); }  // [tokens, head_dim / 2]
  const float* sines() const { return sines_.data(); }      // [tokens, head_dim / 2]

 private:
  ThreadPool* pool_;
  int64_t batch_;
  std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch_;
  AlignedArray<float> normed_, projected_, q_, k_, v_, attended_, gate_, up_, cosines_, sines_;
  const Model* rope_model_ = nullptr;
  int64_t rope_start_ = 0;
  int64_t rope_tokens_ = 0;
};

}  // namespace harrow

#endif  // HARROW_MODEL_FORWARD_STATE_H_
