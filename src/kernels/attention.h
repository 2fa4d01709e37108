// Causal grouped-query attention over a packed KV cache, and the rotary embedding before it.
#ifndef HARROW_KERNELS_ATTENTION_H_
#define HARROW_KERNELS_ATTENTION_H_

#include <cstdint>
#include <string_view>

#include "base/thread_pool.h"
#include "kernels/kv_block.h"

namespace harrow {

// Blocks of a KV head that a group of queries looks at, in ascending order.
struct BlockList {
  const int32_t* blocks = nullptr;
  int64_t count = 0;
};

// Query token i (0 <= i < m) stands at position start + i and sees keys 0 .. start + i.
struct AttentionProblem {
  const float* q = nullptr;  // [m, heads * head_dim], rotated
  KvView kv;                 // positions 0 .. start + m - 1 are packed
  float* out = nullptr;      // [m, heads * head_dim]
  int64_t m = 0;
  int64_t start = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads; query head h reads KV head h / (heads / kv_heads)
  float scale = 0;       // usually 1 / sqrt(head_dim)
  // Null: a query sees all keys up to its own. Otherwise [kv_heads, query blocks], where query
  // block j holds the tokens at positions of block start / 64 + j: such a token sees, of the keys
  // up to its own, those in the listed blocks, of which its own block must be the last.
  const BlockList* visit = nullptr;
};
// Softmax in float32, online over blocks (Dao et al., FlashAttention, arXiv 2205.14135, algorithm
// 1); all query heads of a KV head share each read of a key or value. Spans of 8 visited blocks are
// computed each for itself and merged in order, so that one long sequence keeps all threads busy
// (Flash-Decoding) while no bit of the result depends on the number of threads or on how the tokens
// were cut into calls. Of the cached element type, what the kernels round besides:
//   f32   nothing;
//   bf16  with vdpbf16ps queries and softmax weights to BF16, otherwise nothing;
//   int8  queries to 15 bits of their largest element, softmax weights times value scales to 15
//         bits of the largest in a block.
void Attention(const AttentionProblem& problem, ThreadPool* pool);

// The kernel that Attention would run: "attention.bf16.avx512bf16".
std::string_view AttentionKernelName(KvType type);

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
