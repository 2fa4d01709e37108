// What the arithmetic units and the caches of this machine can do: loops of nothing but one
// instruction, for `harrow doctor`. The ceilings that a kernel's time is held against.
#ifndef HARROW_KERNELS_RATE_PROBE_H_
#define HARROW_KERNELS_RATE_PROBE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/isa.h"

namespace harrow {

// A loop of independent multiply-adds from registers to registers.
struct RateProbe {
  std::string_view unit;  // "scalar": one lane; "vector": all lanes; "dot": sums pairs or quads
  std::string_view precision;  // of the factors: "f32", "bf16", "i8"
  Isa isa = Isa::kScalar;      // the tier whose instructions it uses
  double flops = 0;            // of one iteration; a multiply-add is 2
  void (*run)(int64_t iterations) noexcept = nullptr;
};
// Of all tiers that this build has, lowest first; those above ActiveIsa() must not be run.
std::span<const RateProbe> RateProbes();

// Reads `lines` (a multiple of 64 bytes, 64-byte aligned) `passes` times, front to back, with the
// widest loads of ActiveIsa() and without asking ahead: the speed of whatever cache holds them.
void ReadLines(std::span<const std::byte> lines, int64_t passes) noexcept;

}  // namespace harrow

#endif  // HARROW_KERNELS_RATE_PROBE_H_
