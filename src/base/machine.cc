#include "base/machine.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include <fmt/format.h>

namespace harrow {

std::string CpuModelName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

// sysfs: under a hypervisor sysconf() may report the caches of the whole host.
uint64_t CacheBytes(int level) {
  constexpr int kMostIndices = 8;
  for (int index = 0; index < kMostIndices; ++index) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", index);
    int found = 0;
    if (!(std::ifstream(folder + "level") >> found)) break;
    std::string type;
    std::ifstream(folder + "type") >> type;
    if (found != level || type == "Instruction") continue;
    uint64_t size = 0;
    char unit = ' ';
    std::ifstream file(folder + "size");
    if (!(file >> size)) return 0;
    file >> unit;
    return size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
  }
  return 0;
}

uint64_t LastLevelCacheBytes() {
  const uint64_t largest = std::max({CacheBytes(1), CacheBytes(2), CacheBytes(3), CacheBytes(4)});
  if (largest > 0) return largest;
  const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
}

}  // namespace harrow
