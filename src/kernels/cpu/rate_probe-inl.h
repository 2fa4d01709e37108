// The loops of rate_probe.h. Included inside a tier's namespace and target region after
// simd/<tier>-inl.h.
//
// Sums are folded, as in linear-inl.h, and as many as hide the latency of two pipes.

template <int... i>
using Ints = std::integer_sequence<int, i...>;
template <int n>
using Count = std::make_integer_sequence<int, n>;

#if HARROW_NATIVE_BF16  // only what the tier has beyond avx512

template <int... i>
HARROW_INLINE void RepeatDotBf16(int64_t iterations, Ints<i...>) {
  const float tiny = 1e-3f;
  const F w = Own(BroadcastF(&tiny));
  F acc[sizeof...(i)];
  ((acc[i] = Own(w)), ...);
  for (int64_t n = 0; n < iterations; ++n)
    ((acc[i] = DotBf16(acc[i], AsUnit(w), AsUnit(w))), ...);
  ((acc[i] = Own(acc[i])), ...);
}
void ProbeDotBf16(int64_t iterations) noexcept {
  RepeatDotBf16(iterations, Count<kProbeSums>());
}

#else

template <int... i>
HARROW_INLINE void RepeatFma(int64_t iterations, Ints<i...>) {
  const float tiny = 1e-3f;
  const F w = Own(BroadcastF(&tiny));
  F acc[sizeof...(i)];
  ((acc[i] = Own(w)), ...);
  for (int64_t n = 0; n < iterations; ++n)
    ((acc[i] = Fma(w, w, acc[i])), ...);
  ((acc[i] = Own(acc[i])), ...);
}

template <int... i>
HARROW_INLINE void RepeatDotI8(int64_t iterations, Ints<i...>) {
  const int32_t ones = 0x01010101;
  const I x = BroadcastI(&ones);
  alignas(64) std::byte codes[64] = {};
  const std::byte* from = codes;
  __asm__ volatile("" : "+r"(from) : : "memory");  // or w would be known to be 0
  const UnitI8 w = LoadExpandedI8(from);
  I acc[sizeof...(i)];
  ((acc[i] = Own(x)), ...);
  // x is laundered each time, or what a tier derives from it would leave the loop.
  for (int64_t n = 0; n < iterations; ++n)
    ((acc[i] = DotI8(acc[i], w, Own(x))), ...);
  ((acc[i] = Own(acc[i])), ...);
}

void ProbeFma(int64_t iterations) noexcept {
  RepeatFma(iterations, Count<kProbeSums>());
}
void ProbeDotI8(int64_t iterations) noexcept {
  RepeatDotI8(iterations, Count<kProbeSums>());
}

constexpr int64_t kLine = 64;
template <int... i>
HARROW_INLINE void TouchLines(const std::byte* p, Ints<i...>) {
  ((void)Own(LoadF(p + i * kLine)), ...);
}
void ReadLines(std::span<const std::byte> lines, int64_t passes) noexcept {
  constexpr int kAtOnce = 8;
  const std::byte* const end = lines.data() + lines.size();
  for (int64_t pass = 0; pass < passes; ++pass) {
    const std::byte* p = lines.data();
    for (; p + kAtOnce * kLine <= end; p += kAtOnce * kLine)
      TouchLines(p, Count<kAtOnce>());
    for (; p < end; p += kLine)
      TouchLines(p, Count<1>());
  }
}

#endif
