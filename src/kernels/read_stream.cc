#include "kernels/read_stream.h"

#include "kernels/isa.h"

namespace harrow {
namespace {

template <bool kAsks>
uint64_t Read(std::span<const uint64_t> words) {
  constexpr size_t kLine = 8;       // words of a cache line
  constexpr size_t kAhead = 12288;  // bytes
  uint64_t lanes[kLine] = {};
  size_t i = 0;
  for (; i + kLine <= words.size(); i += kLine) {
    if constexpr (kAsks)
      __builtin_prefetch(reinterpret_cast<const char*>(words.data() + i) + kAhead, 0, 3);
    for (size_t j = 0; j < kLine; ++j)
      lanes[j] |= words[i + j];
  }
  uint64_t all = 0;
  for (const uint64_t lane : lanes)
    all |= lane;
  for (; i < words.size(); ++i)
    all |= words[i];
  return all;
}

}  // namespace

uint64_t ReadStream(std::span<const uint64_t> words) noexcept {
  return HardwarePrefetchSuffices() ? Read<false>(words) : Read<true>(words);
}

}  // namespace harrow
