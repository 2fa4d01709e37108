#include "kernels/isa.h"

#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace harrow {
namespace {

constexpr std::string_view kNames[] = {"scalar", "avx2", "avx512", "avx512bf16"};

#if defined(__x86_64__)
struct CpuidLeaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

CpuidLeaf ReadCpuid(unsigned leaf, unsigned subleaf) {
  CpuidLeaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

// Register state that the operating system saves (XCR0).
unsigned ReadXcr0() {
  unsigned low;
  unsigned high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool HasAll(unsigned bits, unsigned wanted) {
  return (bits & wanted) == wanted;
}

// Bit numbers: Intel SDM volume 2A, CPUID.
Isa Detect() {
  const CpuidLeaf one = ReadCpuid(1, 0);
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kPopcnt = 1u << 23;
  if (!HasAll(one.c, kFma | kOsxsave | kAvx | kF16c | kPopcnt)) return Isa::kScalar;
  const unsigned xcr0 = ReadXcr0();
  constexpr unsigned kYmmState = 0x6, kZmmState = 0xe6;
  if (!HasAll(xcr0, kYmmState)) return Isa::kScalar;
  const CpuidLeaf seven = ReadCpuid(7, 0);
  constexpr unsigned kBmi1 = 1u << 3, kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  if (!HasAll(seven.b, kBmi1 | kAvx2 | kBmi2)) return Isa::kScalar;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr unsigned kVbmi = 1u << 1, kVbmi2 = 1u << 6, kVnni = 1u << 11;
  if (!HasAll(xcr0, kZmmState) || !HasAll(seven.b, kF | kDq | kBw | kVl) ||
      !HasAll(seven.c, kVbmi | kVbmi2 | kVnni)) {
    return Isa::kAvx2;
  }
  constexpr unsigned kBf16 = 1u << 5;
  return HasAll(ReadCpuid(7, 1).a, kBf16) ? Isa::kAvx512Bf16 : Isa::kAvx512;
}
#else
Isa Detect() {
  return Isa::kScalar;
}
#endif

// AMD family 25: Zen 3 and Zen 4.
bool DetectHardwarePrefetch() {
  if (const char* text = std::getenv("HARROW_PREFETCH"); text != nullptr && *text != '\0') {
    const std::string_view wanted = text;
    if (wanted == "hardware" || wanted == "software") return wanted == "hardware";
    std::fprintf(stderr, "harrow: HARROW_PREFETCH=%s: expected hardware or software\n", text);
    std::exit(2);
  }
#if defined(__x86_64__)
  constexpr unsigned kAuth = 0x68747541;  // "Auth" of AuthenticAMD
  if (ReadCpuid(0, 0).b != kAuth) return false;
  const unsigned version = ReadCpuid(1, 0).a;
  return (version >> 8 & 0xf) + (version >> 20 & 0xff) == 25;
#else
  return false;
#endif
}

Isa LimitFromEnvironment() {
  const char* text = std::getenv("HARROW_ISA");
  if (text == nullptr || *text == '\0') return DetectedIsa();
  const std::optional<Isa> isa = ParseIsa(text);
  if (!isa || *isa > DetectedIsa()) {
    // Going on with another tier would make a forced run lie.
    std::fprintf(stderr,
                 "harrow: HARROW_ISA=%s: expected scalar, avx2, avx512 or avx512bf16, "
                 "at most %s on this machine\n",
                 text, IsaName(DetectedIsa()).data());
    std::exit(2);
  }
  return *isa;
}

Isa& Limit() {
  static Isa limit = LimitFromEnvironment();
  return limit;
}

}  // namespace

std::string_view IsaName(Isa isa) {
  return kNames[static_cast<size_t>(isa)];
}

std::optional<Isa> ParseIsa(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  return std::nullopt;
}

Isa DetectedIsa() {
  static const Isa isa = Detect();
  return isa;
}

bool HardwarePrefetchSuffices() {
  static const bool suffices = DetectHardwarePrefetch();
  return suffices;
}

Isa ActiveIsa() {
  return Limit();
}

Status SetIsaLimit(Isa isa) {
  if (isa > DetectedIsa()) {
    return Unsupported("instruction set {}: this machine has {} at most", IsaName(isa),
                       IsaName(DetectedIsa()));
  }
  Limit() = isa;
  return OkStatus();
}

}  // namespace harrow
