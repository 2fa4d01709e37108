// Operations on 16 bytes that both x86 files take. Included by each, inside its namespace and
// target region.

// The cells of 8 tokens from those tokens of two inputs of 2 bytes at a and b, or of four of a
// byte.
HARROW_INLINE void InterleaveEightWords(const std::byte* a, const std::byte* b, std::byte* out) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
  const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi16(x, y));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + 1, _mm_unpackhi_epi16(x, y));
}
HARROW_INLINE void InterleaveEightBytes(const std::byte* a, const std::byte* b, const std::byte* c,
                                        const std::byte* d, std::byte* out) {
  const __m128i xy = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)),
                                       _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b)));
  const __m128i zw = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(c)),
                                       _mm_loadl_epi64(reinterpret_cast<const __m128i*>(d)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi16(xy, zw));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + 1, _mm_unpackhi_epi16(xy, zw));
}
