// The AVX2 twin of avx512-inl.h: the same operations on pairs of 32-byte registers. Included inside
// the tier's namespace and target region, after simd/expand_tables.h.

#include "kernels/cpu/simd/sse-inl.h"

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct Unit {
  __m256i a, b;
};
// Signed codes q: vpmaddubsw wants one unsigned factor, and |q| serves better than q + 128, whose
// products could overflow 16 bits.
struct UnitI8 {
  __m256i a, b;
};

// 16 registers: 1 panel x 4 tokens = 8 sums, and the int8 product needs several temporaries.
constexpr int kMicroPanels = 1;
constexpr int kMicroTokens = 4;
constexpr int64_t kExpandUnits = 128;
constexpr int kPanelTokens = 4;
constexpr int kPairTokens = 0;
constexpr int kRowTokens = 4;
constexpr int kBlockTokens = 4;
constexpr int kBlockTokensI8 = 4;
constexpr int kRowBlockTokens = 4;
constexpr int kMaxRowTokens = 4;
constexpr int kSkipSets = 1;
constexpr int kAttentionSums = 4;
constexpr int Partials(int tokens) {
  return tokens == 1 ? 4 : tokens == 2 ? 2 : 1;
}
constexpr bool kOffsetWeights = false;

HARROW_INLINE __m256i Load32(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
HARROW_INLINE const uint8_t* After(const void* p, int64_t bytes) {
  return static_cast<const uint8_t*>(p) + bytes;
}

HARROW_INLINE F ZeroF() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
HARROW_INLINE F LoadF(const void* p) {
  const float* from = static_cast<const float*>(p);
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
HARROW_INLINE void StoreF(float* p, F v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
HARROW_INLINE F BroadcastF(const void* p) {
  const __m256 v = _mm256_broadcast_ss(static_cast<const float*>(p));
  return {v, v};
}
HARROW_INLINE F Add(F x, F y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
HARROW_INLINE F Mul(F x, F y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
HARROW_INLINE F Fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
HARROW_INLINE float Sum(F v) {
  const __m256 eight = _mm256_add_ps(v.a, v.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
HARROW_INLINE F LoadF16(const void* p) {
  const __m256i v = Load32(p);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
}
HARROW_INLINE F LoadBf16(const void* p) {
  const __m256i v = Load32(p);
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
  const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}

HARROW_INLINE I ZeroI() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
HARROW_INLINE I BroadcastI(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof(value));
  const __m256i v = _mm256_set1_epi32(value);
  return {v, v};
}
HARROW_INLINE I AddI(I x, I y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
HARROW_INLINE I SubI(I x, I y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
HARROW_INLINE I MulI(I x, I y) {
  return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
// 16 unsigned bytes.
HARROW_INLINE I LoadBytes(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
HARROW_INLINE F ToF(I v) {
  return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}

HARROW_INLINE UnitI8 LoadExpandedI8(const void* p) {
  return {Load32(p), Load32(After(p, 32))};
}
HARROW_INLINE void StoreExpandedI8(void* p, UnitI8 v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, v.b);
}
HARROW_INLINE Unit LoadUnit(const void* p) {
  return {Load32(p), Load32(After(p, 32))};
}
HARROW_INLINE UnitI8 LoadI8(const void* p) {
  const __m256i offset = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(Load32(p), offset), _mm256_xor_si256(Load32(After(p, 32)), offset)};
}
// The low or the high halves of 64 bytes as 16 * code - 128.
HARROW_INLINE __m256i HighHalves(__m256i v) {
  return _mm256_xor_si256(_mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(0xf0))),
                          _mm256_set1_epi8(-128));
}
HARROW_INLINE UnitI8 LoadLowI4(const void* p) {
  return {HighHalves(_mm256_slli_epi16(Load32(p), 4)),
          HighHalves(_mm256_slli_epi16(Load32(After(p, 32)), 4))};
}
HARROW_INLINE UnitI8 LoadHighI4(const void* p) {
  return {HighHalves(Load32(p)), HighHalves(Load32(After(p, 32)))};
}
// w . x of 32 signed bytes: |w| times x with w's sign. |w| is at most 128 and |x| at most 127, so
// the pair sums stay below 2^15.
HARROW_INLINE __m256i DotHalf(__m256i acc, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
HARROW_INLINE I DotI8(I acc, UnitI8 w, I x) {
  return {DotHalf(acc.a, w.a, x.a), DotHalf(acc.b, w.b, x.b)};
}
using SignedI8 = UnitI8;
HARROW_INLINE SignedI8 LoadSignedI8(const void* p) {
  return LoadI8(p);
}
HARROW_INLINE I DotSignedI8(I acc, SignedI8 w, I x) {
  return DotI8(acc, w, x);
}
HARROW_INLINE I AddSignedOffset(I acc, SignedI8) {
  return acc;
}
HARROW_INLINE I DotCell(I acc, UnitI8 w, const std::byte* x) {
  return DotI8(acc, w, BroadcastI(x));
}
// Byte i of each cell, as DotI8 sees it.
HARROW_INLINE F LaneByte(UnitI8 w, int i) {
  const __m256i left = _mm256_set1_epi32(24 - 8 * i);
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sllv_epi32(w.a, left), 24)),
          _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sllv_epi32(w.b, left), 24))};
}
HARROW_INLINE F EvenBf16(Unit w) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
}
HARROW_INLINE F OddBf16(Unit w) {
  const __m256i high = _mm256_set1_epi32(-65536);
  return {_mm256_castsi256_ps(_mm256_and_si256(w.a, high)),
          _mm256_castsi256_ps(_mm256_and_si256(w.b, high))};
}

// The same value in registers of its own.
HARROW_INLINE F Own(F v) {
  __asm__ volatile("" : "+x"(v.a), "+x"(v.b));
  return v;
}
HARROW_INLINE I Own(I v) {
  __asm__ volatile("" : "+x"(v.a), "+x"(v.b));
  return v;
}

// ---- rounding of activations

HARROW_INLINE I MaxMagnitude(I acc, F v) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_max_epi32(acc.a, _mm256_and_si256(_mm256_castps_si256(v.a), magnitude)),
          _mm256_max_epi32(acc.b, _mm256_and_si256(_mm256_castps_si256(v.b), magnitude))};
}
HARROW_INLINE int32_t MaxLane(I v) {
  const __m256i eight = _mm256_max_epi32(v.a, v.b);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
HARROW_INLINE int32_t SumLanes(I v) {
  const __m256i eight = _mm256_add_epi32(v.a, v.b);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
HARROW_INLINE I RoundToInt(F v) {
  return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)};
}
HARROW_INLINE void StoreLow8(int8_t* p, I v) {
  const __m128i low =
      _mm_packs_epi32(_mm256_castsi256_si128(v.a), _mm256_extracti128_si256(v.a, 1));
  const __m128i high =
      _mm_packs_epi32(_mm256_castsi256_si128(v.b), _mm256_extracti128_si256(v.b, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
}
HARROW_INLINE __m256i RoundHalfToBf16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_blendv_epi8(up, quiet, nan), _mm256_set1_epi32(-65536));
}
HARROW_INLINE I RoundToBf16(F v) {
  return {RoundHalfToBf16(v.a), RoundHalfToBf16(v.b)};
}
HARROW_INLINE void StoreHigh16(uint16_t* p, I v) {
  const __m256i packed =
      _mm256_packus_epi32(_mm256_srli_epi32(v.a, 16), _mm256_srli_epi32(v.b, 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
HARROW_INLINE void StoreI(void* p, I v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, v.b);
}

// The shuffles leave zeros by themselves.
struct Background {};
HARROW_INLINE Background MakeBackground(int) {
  return {};
}

// Expands by 8 words: the codes of each mask byte start where those of the last ended.
HARROW_INLINE __m128i ExpandWords(const uint8_t** p, uint32_t mask) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(*p));
  const __m128i shuffle =
      _mm_load_si128(reinterpret_cast<const __m128i*>(kExpandTables.words[mask]));
  *p += 2 * __builtin_popcount(mask);
  return _mm_shuffle_epi8(codes, shuffle);
}
HARROW_INLINE Unit ExpandBf16(Background, const void* p, uint32_t mask) {
  const uint8_t* from = static_cast<const uint8_t*>(p);
  const __m128i w0 = ExpandWords(&from, mask & 0xff);
  const __m128i w1 = ExpandWords(&from, mask >> 8 & 0xff);
  const __m128i w2 = ExpandWords(&from, mask >> 16 & 0xff);
  const __m128i w3 = ExpandWords(&from, mask >> 24);
  return {_mm256_set_m128i(w1, w0), _mm256_set_m128i(w3, w2)};
}

// The shuffles of two mask bytes, for 8 codes in the low half and 8 in the high half of a register.
HARROW_INLINE __m128i PairOfShuffles(uint32_t low, uint32_t high) {
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTables.bytes[low]));
  // The high half takes its codes from lanes 8 .. 15; adding 8 keeps the bit that means zero.
  const __m128i second =
      _mm_add_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTables.bytes[high])),
                   _mm_set1_epi8(8));
  return _mm_unpacklo_epi64(first, second);
}
// Expands by 8 + 8 bytes; q + 128 becomes q before the shuffle puts zeros in.
HARROW_INLINE __m128i ExpandBytes(const uint8_t** p, uint32_t mask) {
  const uint32_t low = mask & 0xff;
  const uint32_t high = mask >> 8;
  const uint8_t* middle = *p + __builtin_popcount(low);
  const __m128i codes =
      _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(*p)),
                         _mm_loadl_epi64(reinterpret_cast<const __m128i*>(middle)));
  *p = middle + __builtin_popcount(high);
  return _mm_shuffle_epi8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), PairOfShuffles(low, high));
}
HARROW_INLINE UnitI8 ExpandI8(Background, const void* p, uint64_t mask) {
  const uint8_t* from = static_cast<const uint8_t*>(p);
  const __m128i w0 = ExpandBytes(&from, mask & 0xffff);
  const __m128i w1 = ExpandBytes(&from, mask >> 16 & 0xffff);
  const __m128i w2 = ExpandBytes(&from, mask >> 32 & 0xffff);
  const __m128i w3 = ExpandBytes(&from, static_cast<uint32_t>(mask >> 48));
  return {_mm256_set_m128i(w1, w0), _mm256_set_m128i(w3, w2)};
}

// Consecutive lanes of 4 bytes, less `offset`, where `mask` has bits, else 0.
HARROW_INLINE __m256i ExpandEight(const void* p, uint32_t mask, __m256i offset) {
  const __m256i lanes = _mm256_cvtepi8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTables.bytes[mask])));
  const __m256i values = _mm256_permutevar8x32_epi32(_mm256_xor_si256(Load32(p), offset), lanes);
  return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31), values);
}
HARROW_INLINE Unit ExpandLanes(Background, const void* p, uint32_t mask) {
  const uint32_t low = mask & 0xff;
  const __m256i zero = _mm256_setzero_si256();
  return {ExpandEight(p, low, zero),
          ExpandEight(After(p, 4 * __builtin_popcount(low)), mask >> 8, zero)};
}
HARROW_INLINE UnitI8 ExpandLanesI8(Background, const void* p, uint32_t mask) {
  const uint32_t low = mask & 0xff;
  const __m256i offset = _mm256_set1_epi8(-128);
  return {ExpandEight(p, low, offset),
          ExpandEight(After(p, 4 * __builtin_popcount(low)), mask >> 8, offset)};
}

// Inputs of one token that steps of kIndex look up; in memory, 16 registers being too few.
struct XTile {
  const uint8_t* inputs;
};
constexpr int kIndexTokens = 1;
HARROW_INLINE XTile LoadXTile(const void* p) {
  return {static_cast<const uint8_t*>(p)};
}
// The inputs that 32 indices below 128 name, 16 inputs at a time. An index of others has a bit
// above the lowest four after the xor, which the addition carries into the one that makes pshufb
// give zero.
HARROW_INLINE __m256i LookUp(const XTile& x, __m256i indices) {
  __m256i found = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(x.inputs + 16 * i)));
    const __m256i relative = _mm256_xor_si256(indices, _mm256_set1_epi8(static_cast<char>(16 * i)));
    found = _mm256_or_si256(
        found, _mm256_shuffle_epi8(table, _mm256_add_epi8(relative, _mm256_set1_epi8(0x70))));
  }
  return found;
}
HARROW_INLINE I DotIndexed(I acc, const XTile& x, const std::byte* step) {
  const UnitI8 codes = LoadI8(step + 64);
  return {DotHalf(acc.a, codes.a, LookUp(x, Load32(step))),
          DotHalf(acc.b, codes.b, LookUp(x, Load32(After(step, 32))))};
}
HARROW_INLINE I AddIndexedOffset(I acc, const std::byte*) {
  return acc;
}

HARROW_INLINE uint32_t* AppendSetBits(uint32_t* out, uint32_t first, uint32_t bits) {
  for (; bits != 0; bits &= bits - 1)
    *out++ = first + static_cast<uint32_t>(__builtin_ctz(bits));
  return out;
}
template <int kInputBytes>
HARROW_INLINE void CompressInputs(const std::byte* x, uint32_t bits, std::byte* out) {
  for (; bits != 0; bits &= bits - 1) {
    __builtin_memcpy(out, x + kInputBytes * __builtin_ctz(bits), kInputBytes);
    out += kInputBytes;
  }
}

template <int kTokens>
HARROW_INLINE void InterleaveWords(const std::byte* a, const std::byte* b, std::byte* out) {
#pragma GCC unroll 4
  for (int i = 0; i < kTokens / 8; ++i)
    InterleaveEightWords(a + 16 * i, b + 16 * i, out + 32 * i);
}
template <int kTokens>
HARROW_INLINE void InterleaveBytes(const std::byte* a, const std::byte* b, const std::byte* c,
                                   const std::byte* d, std::byte* out) {
  if constexpr (kTokens == 8) return InterleaveEightBytes(a, b, c, d, out);
#pragma GCC unroll 2
  for (int i = 0; i < kTokens / 16; ++i) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a) + i);
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b) + i);
    const __m128i z = _mm_loadu_si128(reinterpret_cast<const __m128i*>(c) + i);
    const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(d) + i);
    const __m128i low_xy = _mm_unpacklo_epi8(x, y);
    const __m128i high_xy = _mm_unpackhi_epi8(x, y);
    const __m128i low_zw = _mm_unpacklo_epi8(z, w);
    const __m128i high_zw = _mm_unpackhi_epi8(z, w);
    __m128i* const to = reinterpret_cast<__m128i*>(out) + 4 * i;
    _mm_storeu_si128(to, _mm_unpacklo_epi16(low_xy, low_zw));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low_xy, low_zw));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high_xy, high_zw));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high_xy, high_zw));
  }
}

// 4-bit codes: without zero points the shuffles leave the right zeros; with them 16 * zero - 128 of
// each lane is blended in.
template <bool kHasZeros>
struct Background4 {};
template <>
struct Background4<true> {
  __m128i lanes[4];  // of 4 rows each
};
template <bool kHasZeros>
HARROW_INLINE Background4<kHasZeros> MakeBackground4() {
  return {};
}
HARROW_INLINE Background4<true> BackgroundOfLanes(I zeros) {
  const __m256i spread = _mm256_set1_epi32(0x10101010);
  const __m256i offset = _mm256_set1_epi8(-128);
  const __m256i low = _mm256_xor_si256(_mm256_mullo_epi32(zeros.a, spread), offset);
  const __m256i high = _mm256_xor_si256(_mm256_mullo_epi32(zeros.b, spread), offset);
  return {{_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1),
           _mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)}};
}
// 8 + 8 codes in the high halves of bytes at p and behind the first `low` of them.
template <bool kHasZeros, bool kHigh>
HARROW_INLINE __m128i ExpandSixteenI4(const Background4<kHasZeros>& b, int part, const uint8_t** p,
                                      uint32_t mask) {
  const uint32_t low = mask & 0xff;
  const uint32_t high = mask >> 8;
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(*p));
  *p += __builtin_popcount(low);
  __m128i both = _mm_unpacklo_epi64(first, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(*p)));
  *p += __builtin_popcount(high);
  if constexpr (!kHigh) both = _mm_slli_epi16(both, 4);
  const __m128i codes = _mm_xor_si128(_mm_and_si128(both, _mm_set1_epi8(static_cast<char>(0xf0))),
                                      _mm_set1_epi8(-128));
  const __m128i shuffle = PairOfShuffles(low, high);
  const __m128i expanded = _mm_shuffle_epi8(codes, shuffle);
  if constexpr (kHasZeros) {
    return _mm_blendv_epi8(expanded, b.lanes[part], shuffle);
  } else {
    return expanded;
  }
}
// 4-bit codes of consecutive bytes at p, from their low or high halves.
template <bool kHigh, bool kHasZeros>
HARROW_INLINE UnitI8 ExpandHalvesI4(const Background4<kHasZeros>& b, const void* p, uint64_t mask) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  const __m128i w0 = ExpandSixteenI4<kHasZeros, kHigh>(b, 0, &at, mask & 0xffff);
  const __m128i w1 = ExpandSixteenI4<kHasZeros, kHigh>(b, 1, &at, mask >> 16 & 0xffff);
  const __m128i w2 = ExpandSixteenI4<kHasZeros, kHigh>(b, 2, &at, mask >> 32 & 0xffff);
  const __m128i w3 =
      ExpandSixteenI4<kHasZeros, kHigh>(b, 3, &at, static_cast<uint32_t>(mask >> 48));
  return {_mm256_set_m128i(w1, w0), _mm256_set_m128i(w3, w2)};
}
template <bool kHasZeros>
HARROW_INLINE UnitI8 ExpandLowI4(const Background4<kHasZeros>& b, const void* p, uint64_t mask) {
  return ExpandHalvesI4<false>(b, p, mask);
}
template <bool kHasZeros>
HARROW_INLINE UnitI8 ExpandHighI4(const Background4<kHasZeros>& b, const void* p, uint64_t mask) {
  return ExpandHalvesI4<true>(b, p, mask);
}

// ---- passing over empty cells

HARROW_INLINE uint32_t ZeroLanes(const void* p) {
  const __m256i equal = _mm256_cmpeq_epi32(Load32(p), _mm256_setzero_si256());
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
}
HARROW_INLINE uint16_t NonzeroLanes(const void* p) {
  return static_cast<uint16_t>(~(ZeroLanes(p) | ZeroLanes(After(p, 32)) << 8));
}
// Bit `bit` of each of 32 words.
HARROW_INLINE uint32_t BitOfWords(const uint16_t* words, int bit) {
  const __m128i shift = _mm_cvtsi32_si128(15 - bit);
  const __m256i signs = _mm256_packs_epi16(_mm256_sll_epi16(Load32(words), shift),
                                           _mm256_sll_epi16(Load32(words + 16), shift));
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(signs, 0xd8)));
}
// Puts 64 * (first + i) at `out` for each bit i, one behind the other.
HARROW_INLINE void AppendPlaces(uint16_t* out, uint32_t first, uint32_t bits) {
  for (; bits != 0; bits &= bits - 1)
    *out++ = static_cast<uint16_t>(64 * (first + static_cast<uint32_t>(__builtin_ctz(bits))));
}
template <int k>
HARROW_INLINE I ValueOf(const uint32_t* values) {
  return BroadcastI(values + k);
}
HARROW_INLINE F AsF(I v) {
  return {_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)};
}
HARROW_INLINE void StoreSignedI8(void* p, UnitI8 v) {
  StoreExpandedI8(p, v);
}
// Activations have no offset in this tier (kOffsetWeights).
HARROW_INLINE I SubCellOffsets(I acc, const void*) {
  return acc;
}
// acc + w . x along each cell, for the cells of 16 tokens at x and one row's cell w.
HARROW_INLINE I DotTokens(I acc, const void* x, I w) {
  return {DotHalf(acc.a, w.a, Load32(x)), DotHalf(acc.b, w.b, Load32(After(x, 32)))};
}

// 8 rows x 8 columns of `rows` to 8 pieces of 32 bytes, 64 bytes apart at `out`.
HARROW_INLINE void Transpose8x8(const __m256* rows, std::byte* out) {
  __m256 a[8];
  __m256 b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_ps(reinterpret_cast<float*>(out + 64 * j),
                     _mm256_permute2f128_ps(b[j], b[4 + j], 0x20));
    _mm256_storeu_ps(reinterpret_cast<float*>(out + 64 * (4 + j)),
                     _mm256_permute2f128_ps(b[j], b[4 + j], 0x31));
  }
}

// Transposes 16 rows of 16 four-byte elements to 16 units of 64 bytes at `out`. Row i is
// load(rows[i]).
template <class Loader>
HARROW_INLINE void TransposeToUnits(const std::byte* const* rows, std::byte* out) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m256 left[8];
    __m256 right[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const F row = Loader::Load(rows[8 * half + i]);
      left[i] = row.a;
      right[i] = row.b;
    }
    Transpose8x8(left, out + 32 * half);
    Transpose8x8(right, out + 32 * half + 64 * 8);
  }
}

// ---- softmax

HARROW_INLINE F Sub(F x, F y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
// y where either is NaN.
HARROW_INLINE F Max(F x, F y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
HARROW_INLINE float MaxOfLanes(F v) {
  const __m256 eight = _mm256_max_ps(v.a, v.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
HARROW_INLINE bool AnyAbove(F v, F bound) {
  const __m256 above = _mm256_or_ps(_mm256_cmp_ps(v.a, bound.a, _CMP_GT_OQ),
                                    _mm256_cmp_ps(v.b, bound.b, _CMP_GT_OQ));
  return _mm256_movemask_ps(above) != 0;
}
// The first n (any number) lanes of v, the others of rest.
HARROW_INLINE F KeepLanes(F v, int64_t n, F rest) {
  const int count = static_cast<int>(n < 0 ? 0 : n > 16 ? 16 : n);
  const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
  const __m256i high = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lanes);
  return {_mm256_blendv_ps(rest.a, v.a, _mm256_castsi256_ps(low)),
          _mm256_blendv_ps(rest.b, v.b, _mm256_castsi256_ps(high))};
}
// v - floor(v).
HARROW_INLINE F Fraction(F v) {
  return {_mm256_sub_ps(v.a, _mm256_floor_ps(v.a)), _mm256_sub_ps(v.b, _mm256_floor_ps(v.b))};
}
// x * 2^floor(n) for n <= 127 or NaN; 0 for n < -126, even if x is NaN.
HARROW_INLINE __m256 TimesPow2FloorHalf(__m256 x, __m256 n) {
  const __m256i exponent =
      _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(n)), _mm256_set1_epi32(127));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  const __m256 normal = _mm256_cmp_ps(n, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_mul_ps(x, power), normal);
}
HARROW_INLINE F TimesPow2Floor(F x, F n) {
  return {TimesPow2FloorHalf(x.a, n.a), TimesPow2FloorHalf(x.b, n.b)};
}
template <int kBits>
HARROW_INLINE I ShiftLeft(I v) {
  return {_mm256_slli_epi32(v.a, kBits), _mm256_slli_epi32(v.b, kBits)};
}
template <int kBits>
HARROW_INLINE I ShiftRight(I v) {
  return {_mm256_srai_epi32(v.a, kBits), _mm256_srai_epi32(v.b, kBits)};
}
