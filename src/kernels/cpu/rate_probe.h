// The rate probes of each x86 tier, for rate_probe.cc.
#ifndef HARROW_KERNELS_CPU_RATE_PROBE_H_
#define HARROW_KERNELS_CPU_RATE_PROBE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#if defined(__x86_64__)
// kProbeSums: sums that are kept in registers, which must hide the latency of two pipes.
namespace harrow::avx2 {
inline constexpr int kProbeSums = 5;  // pairs of 16 registers; the int8 product needs temporaries
void ProbeFma(int64_t iterations) noexcept;
void ProbeDotI8(int64_t iterations) noexcept;
void ReadLines(std::span<const std::byte> lines, int64_t passes) noexcept;
}  // namespace harrow::avx2
namespace harrow::avx512 {
inline constexpr int kProbeSums = 12;
void ProbeFma(int64_t iterations) noexcept;
void ProbeDotI8(int64_t iterations) noexcept;
void ReadLines(std::span<const std::byte> lines, int64_t passes) noexcept;
}  // namespace harrow::avx512
namespace harrow::avx512bf16 {
inline constexpr int kProbeSums = 12;
void ProbeDotBf16(int64_t iterations) noexcept;
}  // namespace harrow::avx512bf16
#endif

#endif  // HARROW_KERNELS_CPU_RATE_PROBE_H_
