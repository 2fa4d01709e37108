// What an attention kernel is: an entry of the list in attention.cc. Internal to kernels/.
#ifndef HARROW_KERNELS_ATTENTION_KERNEL_H_
#define HARROW_KERNELS_ATTENTION_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/isa.h"

namespace harrow {

// Visited blocks whose softmax is computed on its own before it is merged with those in front.
inline constexpr int64_t kSpanBlocks = 8;
// Rows of a tile at most (unless one token has more): what a block read from memory is used for.
inline constexpr int64_t kTileRows = 64;

// The query rows that visit the same blocks together: row r is query head r % group of `kv_head`
// for token begin + r / group. All tokens stand in one block, the last one visited.
struct AttentionTile {
  const AttentionProblem* problem = nullptr;
  int32_t kv_head = 0;
  int64_t begin = 0;  // tokens
  int64_t end = 0;
  const int32_t* visit = nullptr;  // [count]; null: blocks 0 .. count - 1
  int64_t count = 0;

  int64_t group() const { return problem->heads / problem->kv_heads; }
  int64_t rows() const { return (end - begin) * group(); }
  int64_t spans() const { return (count + kSpanBlocks - 1) / kSpanBlocks; }
  int64_t block(int64_t i) const { return visit == nullptr ? i : visit[i]; }
  const float* query(int64_t row) const { return problem->q + Offset(row); }
  float* out(int64_t row) const { return problem->out + Offset(row); }
  // Keys of the last visited block that the row sees.
  int64_t last_keys(int64_t row) const {
    return (problem->start + begin + row / group()) % kKvBlockTokens + 1;
  }

 private:
  int64_t Offset(int64_t row) const {
    const int64_t head = kv_head * group() + row % group();
    return ((begin + row / group()) * problem->heads + head) * problem->kv.layout.head_dim;
  }
};

// Softmax-weighted sums over some keys: row r stands for output[r] / sums[r], and is to be weighted
// with sums[r] * 2^maxima[r] against another such state.
struct AttentionState {
  float* output;  // [rows, padded_dim]
  float* maxima;  // [rows]
  float* sums;    // [rows]

  static int64_t Floats(int64_t rows, int64_t padded_dim) {
    return rows * padded_dim + (2 * rows + 15) / 16 * 16;  // whole cache lines
  }
  AttentionState(float* memory, int64_t rows, int64_t padded_dim)
      : output(memory), maxima(memory + rows * padded_dim), sums(maxima + rows) {}
};

struct AttentionKernel {
  std::string_view name;
  Isa needs = Isa::kScalar;
  KvType type = KvType::kF32;
  // Visits spans [first, last) of the tile. Without `states` these are all and their merged result
  // is written; otherwise span i leaves its state at states + i * AttentionState::Floats(...).
  // `scratch`: AttentionScratch::Floats() floats.
  void (*attend)(const AttentionTile& tile, int64_t first, int64_t last, float* scratch,
                 float* states) noexcept = nullptr;
  // Merges the states of all spans of the tile and writes the result.
  void (*merge)(const AttentionTile& tile, float* states) noexcept = nullptr;
};

// Query rows that a register block holds at most, of any tier.
inline constexpr int64_t kMaxGroupRows = 6;

// Memory of one `attend`, carved from one allocation of Bytes() that starts on a cache line.
struct AttentionScratch {
  std::byte* queries;    // [rows] of key_cells times up to 8 bytes
  std::byte* row;        // padded_dim floats and as much again: one row being packed
  float* query_scales;   // [rows], int8
  int32_t* corrections;  // [rows], int8
  float* lane_sums;      // [rows, 16]
  float* scores;         // [kMaxGroupRows, 64]
  std::byte* weights;    // [kMaxGroupRows] of up to 256 bytes
  AttentionState all;
  AttentionState span;

  static int64_t Floats(int64_t rows, const KvLayout& layout) {
    return rows * (2 * layout.key_cells + 2 + 16) + 2 * layout.padded_dim +
           2 * kMaxGroupRows * kKvBlockTokens + 5 * 16 +
           2 * AttentionState::Floats(rows, layout.padded_dim);
  }
  AttentionScratch(float* memory, int64_t rows, const KvLayout& layout)
      : queries(reinterpret_cast<std::byte*>(Take(&memory, rows * 2 * layout.key_cells))),
        row(reinterpret_cast<std::byte*>(Take(&memory, 2 * layout.padded_dim))),
        query_scales(Take(&memory, rows)),
        corrections(reinterpret_cast<int32_t*>(Take(&memory, rows))),
        lane_sums(Take(&memory, rows * 16)),
        scores(Take(&memory, kMaxGroupRows * kKvBlockTokens)),
        weights(reinterpret_cast<std::byte*>(Take(&memory, kMaxGroupRows * kKvBlockTokens))),
        all(Take(&memory, AttentionState::Floats(rows, layout.padded_dim)), rows,
            layout.padded_dim),
        span(Take(&memory, AttentionState::Floats(rows, layout.padded_dim)), rows,
             layout.padded_dim) {}

 private:
  static float* Take(float** memory, int64_t floats) {
    float* taken = *memory;
    *memory += (floats + 15) / 16 * 16;
    return taken;
  }
};

namespace ref {
// In double, all spans at once; `states` must be null.
void Attend(const AttentionTile& tile, int64_t first, int64_t last, float* scratch,
            float* states) noexcept;
}  // namespace ref

#define HARROW_DECLARE_ATTENTION(tier)                                              \
  namespace tier {                                                                  \
  void AttendF32(const AttentionTile&, int64_t, int64_t, float*, float*) noexcept;  \
  void AttendBf16(const AttentionTile&, int64_t, int64_t, float*, float*) noexcept; \
  void AttendI8(const AttentionTile&, int64_t, int64_t, float*, float*) noexcept;   \
  void MergeSpans(const AttentionTile& tile, float* states) noexcept;               \
  }
#if defined(__x86_64__)
HARROW_DECLARE_ATTENTION(avx2)
HARROW_DECLARE_ATTENTION(avx512)
HARROW_DECLARE_ATTENTION(avx512bf16)
#endif
#undef HARROW_DECLARE_ATTENTION

}  // namespace harrow

#endif  // HARROW_KERNELS_ATTENTION_KERNEL_H_
