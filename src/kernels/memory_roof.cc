#include "kernels/memory_roof.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/machine.h"
#include "kernels/read_stream.h"

namespace harrow {

MemoryRoof::MemoryRoof(ThreadPool* pool)
    : pool_(pool),
      buffer_(
          std::clamp<uint64_t>(4 * LastLevelCacheBytes(), uint64_t{128} << 20, uint64_t{2} << 30) /
          sizeof(uint64_t)),
      sums_(pool->size()) {
  // Written once, or every page would be the same page of zeros.
  std::fill(buffer_.begin(), buffer_.end(), uint64_t{1});
}

double MemoryRoof::ProbeGbps() {
  next_ = 0;
  return ProbeGbps(bytes());
}

double MemoryRoof::ProbeGbps(uint64_t bytes) {
  using Clock = std::chrono::steady_clock;
  const uint64_t threads = static_cast<uint64_t>(pool_->size());
  const uint64_t words = std::clamp<uint64_t>(bytes / sizeof(uint64_t), 1, buffer_.size());
  if (next_ + words > buffer_.size()) next_ = 0;
  const std::span<const uint64_t> all =
      std::as_const(buffer_).span().subspan(static_cast<size_t>(next_), static_cast<size_t>(words));
  next_ += words;
  const Clock::time_point start = Clock::now();
  pool_->Run([&](int index) {
    const uint64_t begin = words * static_cast<uint64_t>(index) / threads;
    const uint64_t end = words * static_cast<uint64_t>(index + 1) / threads;
    sums_[static_cast<size_t>(index)] =
        ReadStream(all.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(words * sizeof(uint64_t)) / seconds / 1e9;
}

}  // namespace harrow
