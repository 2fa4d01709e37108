// Causal grouped-query attention over a contiguous KV cache, and the rotary embedding before it.
#ifndef HARROW_KERNELS_ATTENTION_H_
#define HARROW_KERNELS_ATTENTION_H_

#include <cstdint>

#include "base/thread_pool.h"

namespace harrow {

// Query token i (0 <= i < m) stands at position start + i and sees keys 0 .. start + i.
struct AttentionProblem {
  const float* q = nullptr;  // [m, heads * head_dim], rotated
  const float* k =
      nullptr;  // [kv_heads, capacity, head_dim], rotated; rows 0 .. start + m - 1 are valid
  const float* v = nullptr;  // [kv_heads, capacity, head_dim]
  float* out = nullptr;      // [m, heads * head_dim]
  int64_t m = 0;
  int64_t start = 0;
  int64_t capacity = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads; query head h reads KV head h / (heads / kv_heads)
  int32_t head_dim = 0;
  float scale = 0;  // usually 1 / sqrt(head_dim)
};
// Online softmax in float32 over key blocks at fixed positions (Dao et al., FlashAttention, arXiv
// 2205.14135, algorithm 1). All query heads of a KV head are computed together, so each key and
// value is read once for a tile of tokens. Each (token, head) is computed by one thread, and its
// result depends neither on the number of threads nor on how the tokens were cut into calls.
void Attention(const AttentionProblem& problem, ThreadPool* pool);

// cos and sin of the angles of positions start .. start + m - 1, both [m, half], times
// `attention_scaling`. `inv_freq` [half] is in radians per position; the angle is formed in double,
// so that it stays exact to float32 at any position.
void RopeAngles(int64_t m, int64_t start, const float* inv_freq, int32_t half,
                float attention_scaling, float* cosines, float* sines);

// Rotates x [m, heads * head_dim] in place; half-split convention (Hugging Face): the pair is (i, i
// + head_dim/2). `cosines` and `sines` [m, head_dim / 2] come from RopeAngles. Source: Su et al.,
// RoFormer (arXiv 2104.09864) eq. 34; pairing as transformers' apply_rotary_pos_emb.
void ApplyRope(float* x, int64_t m, int32_t heads, int32_t head_dim, const float* cosines,
               const float* sines);

}  // namespace harrow

#endif  // HARROW_KERNELS_ATTENTION_H_
