#include "kernels/rate_probe.h"

#include "kernels/cpu/rate_probe.h"
#include "kernels/read_stream.h"

namespace harrow {
namespace {

// The same value in a register, of which the compiler knows nothing more.
inline float Kept(float value) {
#if defined(__x86_64__)
  __asm__ volatile("" : "+x"(value));
#elif defined(__aarch64__)
  __asm__ volatile("" : "+w"(value));
#endif
  return value;
}

// Multiply and add of one lane, as code without a tier (linear.ref) is compiled.
constexpr int kScalarSums = 8;
void ProbeScalar(int64_t iterations) noexcept {
  const float w = Kept(1e-3f);
  float acc[kScalarSums] = {w, w, w, w, w, w, w, w};
  for (int64_t n = 0; n < iterations; ++n) {
    for (float& sum : acc)
      sum = Kept(sum + Kept(w * w));
  }
}

// Of 32 bits, which the units of every tier have: the AVX2 twins work on pairs of registers.
constexpr int kLanes = 16;

}  // namespace

std::span<const RateProbe> RateProbes() {
  static const RateProbe kProbes[] = {
    {"scalar", "f32", Isa::kScalar, 2.0 * kScalarSums, ProbeScalar},
#if defined(__x86_64__)
    {"vector", "f32", Isa::kAvx2, 2.0 * kLanes * avx2::kProbeSums, avx2::ProbeFma},
    {"dot", "i8", Isa::kAvx2, 8.0 * kLanes * avx2::kProbeSums, avx2::ProbeDotI8},
    {"vector", "f32", Isa::kAvx512, 2.0 * kLanes * avx512::kProbeSums, avx512::ProbeFma},
    {"dot", "i8", Isa::kAvx512, 8.0 * kLanes * avx512::kProbeSums, avx512::ProbeDotI8},
    {"dot", "bf16", Isa::kAvx512Bf16, 4.0 * kLanes * avx512bf16::kProbeSums,
     avx512bf16::ProbeDotBf16},
#endif
  };
  return kProbes;
}

void ReadLines(std::span<const std::byte> lines, int64_t passes) noexcept {
#if defined(__x86_64__)
  if (ActiveIsa() >= Isa::kAvx512) return avx512::ReadLines(lines, passes);
  if (ActiveIsa() >= Isa::kAvx2) return avx2::ReadLines(lines, passes);
#endif
  for (int64_t pass = 0; pass < passes; ++pass) {
    // Another translation unit, so that no pass can be left out.
    ReadStream({reinterpret_cast<const uint64_t*>(lines.data()), lines.size() / sizeof(uint64_t)});
  }
}

}  // namespace harrow
