#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace harrow {

std::shared_ptr<std::byte> AllocateBytes(uint64_t bytes) {
  constexpr uint64_t kCacheLine = 64;
  constexpr uint64_t kHugePage = 2u << 20;
  const uint64_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  const uint64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (rounded < bytes) throw std::bad_alloc();
  void* memory = std::aligned_alloc(alignment, rounded > 0 ? rounded : alignment);
  if (memory == nullptr) throw std::bad_alloc();
  if (bytes >= kHugePage) ::madvise(memory, rounded, MADV_HUGEPAGE);  // a hint; refusal is harmless
  std::memset(memory, 0, rounded);
  return {static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); }};
}

}  // namespace harrow
