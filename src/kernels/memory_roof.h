// The bandwidth that decoding is measured against.
#ifndef HARROW_KERNELS_MEMORY_ROOF_H_
#define HARROW_KERNELS_MEMORY_ROOF_H_

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"

namespace harrow {

// Plain stream-read bandwidth: every thread of the pool reads its own contiguous part of a buffer
// several times larger than the last-level cache. Not thread safe; `pool` must outlive it.
class MemoryRoof {
 public:
  explicit MemoryRoof(ThreadPool* pool);
  double ProbeGbps();  // 1e9 bytes per second, of one pass over the buffer
  // Of the next `bytes` (rounded; at most the buffer), each thread its part: a probe as short as
  // the work beside it that still reads memory and no cache.
  double ProbeGbps(uint64_t bytes);
  uint64_t bytes() const { return buffer_.size() * sizeof(uint64_t); }

 private:
  ThreadPool* pool_;
  AlignedArray<uint64_t> buffer_;
  uint64_t next_ = 0;           // word where the next short probe begins
  std::vector<uint64_t> sums_;  // kept so that the reads cannot be optimized away
};

}  // namespace harrow

#endif  // HARROW_KERNELS_MEMORY_ROOF_H_
