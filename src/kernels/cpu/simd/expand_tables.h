// Shuffles that put consecutive bytes or words where a mask byte has bits, zero elsewhere: the
// expansion of machines without vpexpand.
#ifndef HARROW_KERNELS_CPU_SIMD_EXPAND_TABLES_H_
#define HARROW_KERNELS_CPU_SIMD_EXPAND_TABLES_H_

#include <cstdint>

namespace harrow {

struct ExpandTables {
  alignas(64) uint8_t bytes[256][8];   // pshufb controls for 8 bytes
  alignas(64) uint8_t words[256][16];  // pshufb controls for 8 words
};

constexpr ExpandTables MakeExpandTables() {
  ExpandTables tables = {};
  for (int mask = 0; mask < 256; ++mask) {
    int from = 0;
    for (int i = 0; i < 8; ++i) {
      const bool set = (mask >> i & 1) != 0;
      tables.bytes[mask][i] = static_cast<uint8_t>(set ? from : 0x80);
      tables.words[mask][2 * i] = static_cast<uint8_t>(set ? 2 * from : 0x80);
      tables.words[mask][2 * i + 1] = static_cast<uint8_t>(set ? 2 * from + 1 : 0x80);
      from += set ? 1 : 0;
    }
  }
  return tables;
}

inline constexpr ExpandTables kExpandTables = MakeExpandTables();

}  // namespace harrow

#endif  // HARROW_KERNELS_CPU_SIMD_EXPAND_TABLES_H_
