// The two halves of a block in float32, attention and FFN, with the gradients of their weights.
#ifndef HARROW_COMPRESS_BLOCK_HALVES_H_
#define HARROW_COMPRESS_BLOCK_HALVES_H_

#include <array>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "model/config.h"

namespace harrow {

// A sequence at a time. Weights are dense float32 [rows, cols]; hidden states [length, hidden].
// A half's gradients are those of its last forward call. Not thread safe.
class BlockHalves {
 public:
  using Attention4 = std::array<const float*, 4>;  // q k v o
  using Ffn3 = std::array<const float*, 3>;        // gate up down

  // Keeps references.
  BlockHalves(const ModelConfig& config, const std::vector<float>& attention_norm,
              const std::vector<float>& ffn_norm, int64_t length, ThreadPool* pool);

  // out = x + attention(norm(x)); not in place.
  void Attention(const Attention4& weights, const float* x, float* out);
  // Adds dL/dw to `gradients`, given output_gradient = dL/d(out) [length, hidden].
  void AttentionGradients(const Attention4& weights, const float* output_gradient,
                          const std::array<float*, 4>& gradients);
  // out = x + ffn(norm(x)); not in place.
  void Ffn(const Ffn3& weights, const float* x, float* out);
  void FfnGradients(const Ffn3& weights, const float* output_gradient,
                    const std::array<float*, 3>& gradients);

 private:
  // probabilities_ [length, length] of a head of q_ and k_.
  void HeadProbabilities(int32_t head);

  const ModelConfig& config_;
  const std::vector<float>& attention_norm_;
  const std::vector<float>& ffn_norm_;
  int64_t length_;
  int64_t q_width_;
  int64_t kv_width_;
  ThreadPool* pool_;
  std::vector<float> cosines_, sines_, negative_sines_;  // [length, head_dim / 2]
  std::vector<float> normed_;                            // [length, hidden]
  std::vector<float> q_, attended_, dq_, dattended_;     // [length, q_width]
  std::vector<float> k_, v_, dk_, dv_;                   // [length, kv_width]
  std::vector<float> probabilities_, dprobabilities_;    // [length, length]
  std::vector<float> ffn_normed_;                        // [length, hidden]
  std::vector<float> gate_, up_, product_, dproduct_;    // [length, ffn]
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_BLOCK_HALVES_H_
