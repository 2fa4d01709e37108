// Instruction-set tiers, chosen at run time. A tier needs everything of the tiers below it.
#ifndef HARROW_KERNELS_ISA_H_
#define HARROW_KERNELS_ISA_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/status.h"

namespace harrow {

enum class Isa : uint8_t {
  kScalar,      // any machine
  kAvx2,        // AVX2, FMA, F16C, BMI2 (Haswell 2013, Zen 1)
  kAvx512,      // AVX-512 F BW DQ VL VBMI VBMI2 VNNI (Ice Lake, Zen 4)
  kAvx512Bf16,  // and BF16 (Sapphire Rapids, Zen 4; Cooper Lake lacks VBMI: avx2)
};
std::string_view IsaName(Isa isa);  // "scalar" "avx2" "avx512" "avx512bf16"
std::optional<Isa> ParseIsa(std::string_view name);

// The best tier of this CPU and operating system.
Isa DetectedIsa();
// DetectedIsa() capped by the environment variable HARROW_ISA (read once) or by SetIsaLimit.
Isa ActiveIsa();
// Caps the tier (tests, `--isa`). Fails above DetectedIsa(), so that a forced run never silently
// tests another tier. Not thread safe against running kernels.
Status SetIsaLimit(Isa isa);

// Whether this CPU's own prefetcher keeps a core busy with one stream from memory, so that software
// should not ask for it as well (measured on Zen 4, and taken for Zen 3; not so on Zen 5).
// HARROW_PREFETCH=hardware or =software overrides it (read once), for measurements.
bool HardwarePrefetchSuffices();

}  // namespace harrow

#endif  // HARROW_KERNELS_ISA_H_
