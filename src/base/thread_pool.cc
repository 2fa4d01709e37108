#include "base/thread_pool.h"

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace harrow {
namespace {

// Some tens of microseconds of spinning, on either side: longer than the serial gaps between two
// layer calls and than the skew of a balanced split, shorter than a scheduler quantum. After that a
// thread blocks, because on a shared machine the one it waits for may need this very CPU
// (sched_yield instead gave whole time slices away: 100 ms a token with twice as many runnable
// threads as CPUs).
constexpr int kSpinsBeforeSleep = 4000;

inline void CpuRelax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

int ThreadPool::AvailableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

ThreadPool::ThreadPool(int threads) : size_(threads > 0 ? threads : AvailableCpus()) {
  workers_.reserve(static_cast<size_t>(size_ - 1));
  for (int i = 1; i < size_; ++i)
    workers_.emplace_back([this, i] { Worker(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_)
    worker.join();
}

void ThreadPool::RunErased(Function function, void* context) {
  if (size_ == 1) {
    function(context, 0);
    return;
  }
  function_ = function;
  context_ = context;
  pending_.store(size_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  function(context, 0);
  for (int spins = 0;; ++spins) {
    const int left = pending_.load(std::memory_order_acquire);
    if (left == 0) return;
    CpuRelax();
    if (spins >= kSpinsBeforeSleep) pending_.wait(left, std::memory_order_acquire);
  }
}

void ThreadPool::Worker(int index) {
  uint32_t seen = 0;
  for (;;) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
      CpuRelax();
      if (spins >= kSpinsBeforeSleep) generation_.wait(seen, std::memory_order_acquire);
    }
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    function_(context_, index);
    if (pending_.fetch_sub(1, std::memory_order_release) == 1) pending_.notify_one();
  }
}

}  // namespace harrow
