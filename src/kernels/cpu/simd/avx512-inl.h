// The AVX-512 operations that kernels are written in. Included inside a tier's namespace and target
// region; HARROW_NATIVE_BF16 says whether the tier has vdpbf16ps.
//
// F and I are 16 lanes of float32 and int32; Unit is 64 bytes of weight codes (formats/panel.h).

#include "kernels/cpu/simd/sse-inl.h"

using F = __m512;
using I = __m512i;
using Unit = __m512i;
using UnitI8 = __m512i;  // 64 codes q + 128: what vpdpbusd takes

// Shapes of register blocks. Micro-kernel: 4 panels x 6 tokens = 24 of 32 registers, fed by 10
// loads; what it expands at a time, in cells.
constexpr int kMicroPanels = 4;
constexpr int kMicroTokens = 6;
constexpr int64_t kExpandUnits = 128;
// Units go straight into the products of up to 16 tokens: 16 sums stay in registers. int8's float
// results do not all fit beside them; the compiler moves them to memory and back once a group.
constexpr int kPanelTokens = 16;
// Masked formats: 2 panels x 8 tokens are as many sums.
constexpr int kPairTokens = 8;
constexpr int kRowTokens = 4;
// Block weights: 1 panel x 24 tokens; int8 12 twice.
constexpr int kBlockTokens = 24;
constexpr int kBlockTokensI8 = 12;
// Row-major weights: 3 rows x 8 tokens = 24 sums; up to two such blocks of tokens.
constexpr int kRowBlockTokens = 8;
constexpr int kMaxRowTokens = 16;
// Sums of 64 tokens that skip_cells-inl.h keeps side by side.
constexpr int kSkipSets = 4;
// Vectors of sums of an attention kernel's register block: 4 keys' for 6 queries.
constexpr int kAttentionSums = 24;
// Independent partial sums per output: enough in total to hide the latency of the dot product.
constexpr int Partials(int tokens) {
  return tokens == 1 ? 4 : tokens <= 4 ? 2 : 1;
}
// vpdpbusd sees q + 128, so sums start at -128 * sum(x); and its scratch form is the stored form.
constexpr bool kOffsetWeights = true;

HARROW_INLINE F ZeroF() {
  return _mm512_setzero_ps();
}
HARROW_INLINE F LoadF(const void* p) {
  return _mm512_loadu_ps(p);
}
HARROW_INLINE void StoreF(float* p, F v) {
  _mm512_storeu_ps(p, v);
}
HARROW_INLINE F BroadcastF(const void* p) {
  float value;
  __builtin_memcpy(&value, p, sizeof(value));
  return _mm512_set1_ps(value);
}
HARROW_INLINE F Add(F a, F b) {
  return _mm512_add_ps(a, b);
}
HARROW_INLINE F Mul(F a, F b) {
  return _mm512_mul_ps(a, b);
}
// a * b + c
HARROW_INLINE F Fma(F a, F b, F c) {
  return _mm512_fmadd_ps(a, b, c);
}
HARROW_INLINE float Sum(F v) {
  const __m256 low = _mm512_castps512_ps256(v);
  const __m256 high = _mm512_extractf32x8_ps(v, 1);
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
HARROW_INLINE F LoadF16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
HARROW_INLINE F LoadBf16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

HARROW_INLINE I ZeroI() {
  return _mm512_setzero_si512();
}
HARROW_INLINE I BroadcastI(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof(value));
  return _mm512_set1_epi32(value);
}
HARROW_INLINE I AddI(I a, I b) {
  return _mm512_add_epi32(a, b);
}
HARROW_INLINE I SubI(I a, I b) {
  return _mm512_sub_epi32(a, b);
}
HARROW_INLINE I MulI(I a, I b) {
  return _mm512_mullo_epi32(a, b);
}
// 16 unsigned bytes.
HARROW_INLINE I LoadBytes(const void* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
HARROW_INLINE F ToF(I v) {
  return _mm512_cvtepi32_ps(v);
}

HARROW_INLINE F AsF(Unit v) {
  return _mm512_castsi512_ps(v);
}
HARROW_INLINE Unit AsUnit(F v) {
  return _mm512_castps_si512(v);
}
HARROW_INLINE void StoreUnit(void* p, Unit v) {
  _mm512_storeu_si512(p, v);
}
HARROW_INLINE Unit LoadUnit(const void* p) {
  return _mm512_loadu_si512(p);
}
HARROW_INLINE UnitI8 LoadI8(const void* p) {
  return _mm512_loadu_si512(p);
}
HARROW_INLINE UnitI8 LoadExpandedI8(const void* p) {
  return _mm512_loadu_si512(p);
}
HARROW_INLINE void StoreExpandedI8(void* p, UnitI8 v) {
  _mm512_storeu_si512(p, v);
}
// The low or the high halves of 64 bytes as 16 * code.
HARROW_INLINE UnitI8 LoadLowI4(const void* p) {
  const __m512i shifted = _mm512_slli_epi16(_mm512_loadu_si512(p), 4);
  return _mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>(0xf0)));
}
HARROW_INLINE UnitI8 LoadHighI4(const void* p) {
  return _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(0xf0)));
}
// Byte i of each cell, as DotI8 sees it.
HARROW_INLINE F LaneByte(UnitI8 w, int i) {
  const __m512i moved = _mm512_srlv_epi32(w, _mm512_set1_epi32(8 * i));
  return _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(0xff)));
}
// acc + w . x along each cell; x is one token's cell, the same for all rows.
HARROW_INLINE I DotI8(I acc, UnitI8 w, I x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
  return acc;
}
// The same; x is in memory, and comes with the instruction.
HARROW_INLINE I DotCell(I acc, UnitI8 w, const std::byte* x) {
  using Cell __attribute__((may_alias, aligned(1))) = int32_t;
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(acc)
          : "v"(w), "m"(*reinterpret_cast<const Cell*>(x)));
  return acc;
}
// The two inputs of each bf16 cell as float32.
HARROW_INLINE F EvenBf16(Unit w) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
HARROW_INLINE F OddBf16(Unit w) {
  return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(-65536)));
}
#if HARROW_NATIVE_BF16
HARROW_INLINE F DotBf16(F acc, Unit w, Unit x) {
  return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}
// The same; x is in memory. GCC would broadcast it by an instruction of its own.
HARROW_INLINE F DotBf16Cell(F acc, Unit w, const std::byte* x) {
  using Cell __attribute__((may_alias, aligned(1))) = int32_t;
  __asm__("vdpbf16ps %2%{1to16%}, %1, %0"
          : "+v"(acc)
          : "v"(w), "m"(*reinterpret_cast<const Cell*>(x)));
  return acc;
}
#endif

// The same value, of which the compiler knows nothing more.
HARROW_INLINE __m512i Pinned(__m512i v) {
  __asm__("" : "+v"(v));
  return v;
}
// The same value in a register of its own.
HARROW_INLINE __m512 Own(__m512 v) {
  __asm__ volatile("" : "+v"(v));
  return v;
}
HARROW_INLINE __m512i Own(__m512i v) {
  __asm__ volatile("" : "+v"(v));
  return v;
}

// ---- rounding of activations

// Lane by lane max(acc, bits of |v|): magnitudes order like their bits, NaN above all.
HARROW_INLINE I MaxMagnitude(I acc, F v) {
  return _mm512_max_epi32(acc, _mm512_and_si512(AsUnit(v), _mm512_set1_epi32(0x7fffffff)));
}
HARROW_INLINE int32_t MaxLane(I v) {
  return _mm512_reduce_max_epi32(v);
}
HARROW_INLINE int32_t SumLanes(I v) {
  return _mm512_reduce_add_epi32(v);
}
// To nearest even.
HARROW_INLINE I RoundToInt(F v) {
  return _mm512_cvtps_epi32(v);
}
HARROW_INLINE void StoreLow8(int8_t* p, I v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
// The bits of v rounded to bf16, in the high half of each lane; the low half is 0.
HARROW_INLINE I RoundToBf16(F v) {
  const __m512i bits = AsUnit(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_and_si512(_mm512_mask_blend_epi32(nan, up, quiet), _mm512_set1_epi32(-65536));
}
HARROW_INLINE void StoreHigh16(uint16_t* p, I v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
}
HARROW_INLINE void StoreI(void* p, I v) {
  _mm512_storeu_si512(p, v);
}

// Where an expansion puts no code, this register shows through. It is laundered so that the
// compiler cannot see a constant: with zero masking vpexpand waits for the old value of its
// destination (Zen 4), which made loops twice as slow; a copy of a background register does not.
struct Background {
  Unit value;
};
HARROW_INLINE Background MakeBackground(int code) {
  return {Pinned(_mm512_set1_epi8(static_cast<char>(code)))};
}
// Puts consecutive codes at `p` where `mask` has bits. Reads 64 bytes: a plain load and a register
// expansion, because the memory form of vpexpand is 1.6 times slower where it crosses a line
// (Zen 5); Pinned keeps the compiler from folding them.
HARROW_INLINE Unit ExpandBf16(Background b, const void* p, uint32_t mask) {
  return _mm512_mask_expand_epi16(b.value, mask, Pinned(_mm512_loadu_si512(p)));
}
HARROW_INLINE UnitI8 ExpandI8(Background b, const void* p, uint64_t mask) {
  return _mm512_mask_expand_epi8(b.value, mask, Pinned(_mm512_loadu_si512(p)));
}
// The same for lanes of 4 bytes.
HARROW_INLINE Unit ExpandLanes(Background b, const void* p, uint32_t mask) {
  return _mm512_mask_expand_epi32(b.value, static_cast<__mmask16>(mask),
                                  Pinned(_mm512_loadu_si512(p)));
}
HARROW_INLINE UnitI8 ExpandLanesI8(Background b, const void* p, uint32_t mask) {
  return ExpandLanes(b, p, mask);
}

// Inputs of one token that steps of kIndex look up, as x + 128: what is looked up must be the
// unsigned factor, so that the correction, 128 times the codes, is the same for all tokens.
struct XTile {
  __m512i low, high;
};
// 2 registers a token, beside a sum and a result.
constexpr int kIndexTokens = 4;
HARROW_INLINE XTile LoadXTile(const void* p) {
  const __m512i offset = _mm512_set1_epi8(-128);
  const std::byte* from = static_cast<const std::byte*>(p);
  return {_mm512_xor_si512(_mm512_loadu_si512(from), offset),
          _mm512_xor_si512(_mm512_loadu_si512(from + 64), offset)};
}
// 64 codes q + 128 as q.
HARROW_INLINE __m512i SignedCodes(const void* p) {
  return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
}
// Signed codes as the signed factor: x is kU8 then, and sums are too large by 128 times the codes
// of a cell, the same for all tokens.
using SignedI8 = __m512i;
HARROW_INLINE SignedI8 LoadSignedI8(const void* p) {
  return SignedCodes(p);
}
HARROW_INLINE I DotSignedI8(I acc, SignedI8 w, I x) {
  return DotI8(acc, x, w);
}
// acc + what DotSignedI8 adds too much.
HARROW_INLINE I AddSignedOffset(I acc, SignedI8 w) {
  return DotI8(acc, _mm512_set1_epi8(-128), w);
}
// acc + x . w of a step: 64 indices below 128, then 64 codes, four to a row.
HARROW_INLINE I DotIndexed(I acc, const XTile& x, const std::byte* step) {
  const __m512i found = _mm512_permutex2var_epi8(x.low, _mm512_loadu_si512(step), x.high);
  return DotI8(acc, found, SignedCodes(step + 64));
}
// acc + what DotIndexed adds too much.
HARROW_INLINE I AddIndexedOffset(I acc, const std::byte* step) {
  return AddSignedOffset(acc, SignedCodes(step + 64));
}

// Appends first + i for each bit i; returns the end. Writes up to 64 bytes more.
HARROW_INLINE uint32_t* AppendSetBits(uint32_t* out, uint32_t first, uint32_t bits) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 32; half += 16) {
    const __mmask16 mask = static_cast<__mmask16>(bits >> half);
    const __m512i numbers =
        _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first + half)));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, numbers));
    out += __builtin_popcount(mask);
  }
  return out;
}
// Of 32 inputs at x those that `bits` names, one behind the other. Writes up to 64 bytes more.
template <int kInputBytes>
HARROW_INLINE void CompressInputs(const std::byte* x, uint32_t bits, std::byte* out) {
  if constexpr (kInputBytes == 1) {
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_maskz_compress_epi8(bits, all));
  } else if constexpr (kInputBytes == 2) {
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi16(bits, _mm512_loadu_si512(x)));
  } else {
    const __mmask16 low = static_cast<__mmask16>(bits);
    const __mmask16 high = static_cast<__mmask16>(bits >> 16);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(low, _mm512_loadu_si512(x)));
    out += 4 * __builtin_popcount(low);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(high, _mm512_loadu_si512(x + 64)));
  }
}
// The cells of kTokens (8, 16 or 32) tokens from those tokens of two inputs of 2 bytes at a and b.
template <int kTokens>
HARROW_INLINE void InterleaveWords(const std::byte* a, const std::byte* b, std::byte* out) {
  if constexpr (kTokens == 8) return InterleaveEightWords(a, b, out);
  const __m512i even_odd =
      _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                       37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  if constexpr (kTokens == 16) {
    const __m512i low =
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
    const __m512i high =
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, even_odd, high));
  } else {
    const __m512i low = _mm512_loadu_si512(a);
    const __m512i high = _mm512_loadu_si512(b);
    const __m512i later = _mm512_add_epi16(even_odd, _mm512_set1_epi16(16));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, even_odd, high));
    _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi16(low, later, high));
  }
}
// Of four inputs of a byte.
template <int kTokens>
HARROW_INLINE void InterleaveBytes(const std::byte* a, const std::byte* b, const std::byte* c,
                                   const std::byte* d, std::byte* out) {
  if constexpr (kTokens == 8) return InterleaveEightBytes(a, b, c, d, out);
  // Byte t of each of four 16-byte lanes.
  const __m512i of_lanes =
      _mm512_set_epi32(0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a,
                       0x39291909, 0x38281808, 0x37271707, 0x36261606, 0x35251505, 0x34241404,
                       0x33231303, 0x32221202, 0x31211101, 0x30201000);
  if constexpr (kTokens == 16) {
    __m512i all = _mm512_zextsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a)));
    all = _mm512_inserti32x4(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
    all = _mm512_inserti32x4(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(c)), 2);
    all = _mm512_inserti32x4(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(d)), 3);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi8(of_lanes, all));
  } else {
    // a and b in one register, c and d in another: byte 32 * i + t of 128.
    const __m512i first = _mm512_inserti64x4(
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), 1);
    const __m512i second = _mm512_inserti64x4(
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(c))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(d)), 1);
    const __m512i of_halves = _mm512_add_epi8(of_lanes, _mm512_set1_epi32(0x30201000));
    const __m512i later = _mm512_add_epi8(of_halves, _mm512_set1_epi8(16));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi8(first, of_halves, second));
    _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi8(first, later, second));
  }
}
// 4-bit codes: 16 * code of each lane shows through; 16 * 8 without zero points.
template <bool>
using Background4 = Background;
template <bool>
HARROW_INLINE Background MakeBackground4() {
  return MakeBackground(128);
}
HARROW_INLINE Background BackgroundOfLanes(I zeros) {
  return {Pinned(_mm512_mullo_epi32(zeros, _mm512_set1_epi32(0x10101010)))};
}
// 4-bit codes of consecutive bytes at p, from their low or high halves.
HARROW_INLINE UnitI8 ExpandLowI4(Background b, const void* p, uint64_t mask) {
  return _mm512_mask_expand_epi8(b.value, mask, LoadLowI4(p));
}
HARROW_INLINE UnitI8 ExpandHighI4(Background b, const void* p, uint64_t mask) {
  return _mm512_mask_expand_epi8(b.value, mask, LoadHighI4(p));
}

// ---- passing over empty cells

// The lanes of the 64 bytes at p that are not 0.
HARROW_INLINE uint16_t NonzeroLanes(const void* p) {
  const __m512i v = _mm512_loadu_si512(p);
  return _mm512_test_epi32_mask(v, v);
}
// Bit `bit` of each of 32 words.
HARROW_INLINE uint32_t BitOfWords(const uint16_t* words, int bit) {
  return _mm512_test_epi16_mask(_mm512_loadu_si512(words),
                                _mm512_set1_epi16(static_cast<short>(1 << bit)));
}
// Puts 64 * (first + i) at `out` for each bit i, one behind the other. Writes 64 bytes.
HARROW_INLINE void AppendPlaces(uint16_t* out, uint32_t first, uint32_t bits) {
  const __m512i steps = _mm512_set_epi16(
      31 * 64, 30 * 64, 29 * 64, 28 * 64, 27 * 64, 26 * 64, 25 * 64, 24 * 64, 23 * 64, 22 * 64,
      21 * 64, 20 * 64, 19 * 64, 18 * 64, 17 * 64, 16 * 64, 15 * 64, 14 * 64, 13 * 64, 12 * 64,
      11 * 64, 10 * 64, 9 * 64, 8 * 64, 7 * 64, 6 * 64, 5 * 64, 4 * 64, 3 * 64, 2 * 64, 64, 0);
  const __m512i places = _mm512_add_epi16(steps, _mm512_set1_epi16(static_cast<short>(64 * first)));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi16(bits, places));
}
#if HARROW_NATIVE_BF16
// Appends the non-zeros among the 32 bf16 at p, and AppendPlaces() of where they are; returns how
// many. Writes 64 bytes of each.
HARROW_INLINE int64_t AppendNonzeros(const void* p, uint32_t first, uint16_t* places,
                                     uint16_t* values) {
  const __m512i v = _mm512_loadu_si512(p);
  const __mmask32 mask = _mm512_test_epi16_mask(v, v);
  AppendPlaces(places, first, mask);
  _mm512_storeu_si512(values, _mm512_maskz_compress_epi16(mask, v));
  return __builtin_popcount(mask);
}
// sums[0] and sums[1] += w . (input at `even`, input at `odd`) of 32 tokens, in the order that
// interleaving eight bytes of each 16 gives: sums[0] has tokens 0 .. 3, 8 .. 11 and so on.
HARROW_INLINE void DotPairs(F* sums, I w, const void* even, const void* odd) {
  // Pinned: the compiler would load both twice, and loads are what this is short of.
  const __m512i a = Pinned(_mm512_loadu_si512(even));
  const __m512i b = Pinned(_mm512_loadu_si512(odd));
  sums[0] = DotBf16(sums[0], _mm512_unpacklo_epi16(a, b), w);
  sums[1] = DotBf16(sums[1], _mm512_unpackhi_epi16(a, b), w);
}
#endif
// values[k] in all lanes; of up to four the compiler makes one load.
template <int k>
HARROW_INLINE I ValueOf(const uint32_t* values) {
  const __m512i four =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  return _mm512_shuffle_epi32(four, static_cast<_MM_PERM_ENUM>(k * 0x55));
}
HARROW_INLINE void StoreSignedI8(void* p, UnitI8 v) {
  _mm512_storeu_si512(p, _mm512_xor_si512(v, _mm512_set1_epi8(-128)));
}
// Lane by lane acc - 128 * the sum of a cell of the 64 signed codes at p.
HARROW_INLINE I SubCellOffsets(I acc, const void* p) {
  return SubI(acc, DotI8(ZeroI(), _mm512_set1_epi8(-128), _mm512_loadu_si512(p)));
}
// acc + w . x along each cell, for the cells of 16 tokens at x (kU8) and one row's cell w.
HARROW_INLINE I DotTokens(I acc, const void* x, I w) {
  return DotI8(acc, _mm512_loadu_si512(x), w);
}

// Transposes 16 rows of 16 four-byte elements to 16 units of 64 bytes at `out`. Row i is
// load(rows[i]).
template <class Loader>
HARROW_INLINE void TransposeToUnits(const std::byte* const* rows, std::byte* out) {
  __m512i a[16];
  __m512i b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    a[i] = _mm512_castps_si512(Loader::Load(rows[i]));
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
  // a[4 * i + j] holds column j of each 128-bit lane for rows 4i .. 4i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i high = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_si512(out + (0 + j) * 64, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(out + (4 + j) * 64, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(out + (8 + j) * 64, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(out + (12 + j) * 64, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

// ---- softmax

HARROW_INLINE F Sub(F a, F b) {
  return _mm512_sub_ps(a, b);
}
// b where either is NaN.
HARROW_INLINE F Max(F a, F b) {
  return _mm512_max_ps(a, b);
}
HARROW_INLINE float MaxOfLanes(F v) {
  return _mm512_reduce_max_ps(v);
}
HARROW_INLINE bool AnyAbove(F v, F bound) {
  return _mm512_cmp_ps_mask(v, bound, _CMP_GT_OQ) != 0;
}
// The first n (any number) lanes of v, the others of rest.
HARROW_INLINE F KeepLanes(F v, int64_t n, F rest) {
  const int count = static_cast<int>(n < 0 ? 0 : n > 16 ? 16 : n);
  return _mm512_mask_mov_ps(rest, static_cast<__mmask16>((1u << count) - 1), v);
}
// v - floor(v); a number for -inf.
HARROW_INLINE F Fraction(F v) {
  return _mm512_reduce_ps(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
// x * 2^floor(n) for n <= 127 or NaN; below -126 it may be 0, for -inf it is.
HARROW_INLINE F TimesPow2Floor(F x, F n) {
  return _mm512_scalef_ps(x, n);
}
template <int kBits>
HARROW_INLINE I ShiftLeft(I v) {
  return _mm512_slli_epi32(v, kBits);
}
template <int kBits>
HARROW_INLINE I ShiftRight(I v) {
  return _mm512_srai_epi32(v, kBits);
}
#if HARROW_NATIVE_BF16
// 16 values of `low`, then 16 of `high`, rounded to bf16.
HARROW_INLINE Unit PackBf16(F low, F high) {
  return (Unit)_mm512_cvtne2ps_pbh(high, low);
}
#endif
