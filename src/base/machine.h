// What the system says about the processor.
#ifndef HARROW_BASE_MACHINE_H_
#define HARROW_BASE_MACHINE_H_

#include <cstdint>
#include <string>

namespace harrow {

// "model name" of /proc/cpuinfo; "unknown" where there is none.
std::string CpuModelName();

// Bytes of the data or unified cache of `level` (1, 2, 3) that CPU 0 uses; 0 when unknown.
uint64_t CacheBytes(int level);
// Of the largest level; 0 when unknown.
uint64_t LastLevelCacheBytes();

}  // namespace harrow

#endif  // HARROW_BASE_MACHINE_H_
