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
// Online softmax in float32. Each (token, head) is computed by one thread.
void Attention(const AttentionProblem& problem, ThreadPool* pool);

// Rotates x [m, heads * head_dim] in place; half-split convention (Hugging Face): the pair is (i, i
// + head_dim/2). `inv_freq` [head_dim / 2] are the angles per position, in radians;
// `attention_scaling` multiplies cos and sin. Source: Su et al., RoFormer (arXiv 2104.09864) eq.
// 34; pairing as transformers' apply_rotary_pos_emb.
void ApplyRope(float* x, int64_t m, int32_t heads, int32_t head_dim, int64_t start,
               const float* inv_freq, float attention_scaling);

}  // namespace harrow

#endif  // HARROW_KERNELS_ATTENTION_H_
