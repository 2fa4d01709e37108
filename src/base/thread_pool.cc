#include "base/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace harrow {
namespace {

// Some 200 microseconds of spinning, on either side: longer than the serial gaps between two layer
// calls and than the skew of a balanced split, shorter than a scheduler quantum. After that a
// thread blocks, because on a shared machine the one it waits for may need this very CPU. It blocks
// in the futex itself: std::atomic::wait calls sched_yield first, each time for as long as a busy
// neighbour's time slice lasts.
constexpr int kSpinsBeforeSleep = 4000;

// Pauses for which the owner, done with its own index, leaves the others to workers that are awake:
// about a microsecond, twice as long as one takes to notice.
constexpr int kSpinsBeforeTakeover = 20;
// A worker that is this many generations behind has no CPU and is not waited for.
constexpr uint32_t kGenerationsOfAbsence = 4;

// How long the owner works alone after a worker was preempted in the middle of a task and held it
// up for longer than its own share took; twice as long when that happens again soon. Beside other
// busy processes the worker would otherwise take from the owner's CPU time what it gives back in
// short tasks.
constexpr std::chrono::milliseconds kShortestRest{8};
constexpr std::chrono::milliseconds kLongestRest{128};

// In pending_: the owner sleeps.
constexpr uint32_t kOwnerSleeps = 1u << 31;

inline void CpuRelax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Sleeps while *word is `value`; may return early.
void FutexWait(std::atomic<uint32_t>* word, uint32_t value) {
  static_assert(sizeof(*word) == sizeof(uint32_t));
  ::syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

int ThreadPool::AvailableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

ThreadPool::ThreadPool(int threads)
    : size_(threads > 0 ? threads : AvailableCpus()), slots_(static_cast<size_t>(size_)) {
  workers_.reserve(static_cast<size_t>(size_ - 1));
  for (int i = 1; i < size_; ++i)
    workers_.emplace_back([this, i] { Worker(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  Publish();
  for (std::thread& worker : workers_)
    worker.join();
}

uint32_t ThreadPool::Publish() {
  // Sequentially consistent with the worker's: either this sees that it is about to sleep, or it
  // sees the new generation and does not.
  const uint32_t generation = generation_.fetch_add(1) + 1;
  if (sleepers_.load() > 0) FutexWakeAll(&generation_);
  return generation;
}

bool ThreadPool::Claim(int index, uint32_t generation) {
  uint32_t before = generation - 1;
  return slots_[static_cast<size_t>(index)].claimed.compare_exchange_strong(
      before, generation, std::memory_order_acq_rel, std::memory_order_relaxed);
}

void ThreadPool::RunErased(Function function, void* context) {
  if (size_ == 1) return function(context, 0);
  const Clock::time_point begin = Clock::now();
  if (begin < rest_end_) {
    for (int i = 0; i < size_; ++i)
      function(context, i);
    return;
  }
  function_ = function;
  context_ = context;
  pending_.store(static_cast<uint32_t>(size_ - 1), std::memory_order_relaxed);
  const uint32_t generation = Publish();
  function(context, 0);
  int spins = 0;
  for (int i = 1; i < size_; ++i) {
    const Slot& slot = slots_[static_cast<size_t>(i)];
    while (spins < kSpinsBeforeTakeover &&
           slot.claimed.load(std::memory_order_relaxed) != generation &&
           generation - slot.seen.load(std::memory_order_relaxed) < kGenerationsOfAbsence) {
      CpuRelax();
      ++spins;
    }
    if (!Claim(i, generation)) continue;
    function(context, i);
    pending_.fetch_sub(1, std::memory_order_relaxed);
  }
  for (spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (pending_.load(std::memory_order_acquire) == 0) return;
    CpuRelax();
  }
  const Clock::time_point sleep = Clock::now();
  preempted_.store(false, std::memory_order_relaxed);
  uint32_t left = pending_.fetch_or(kOwnerSleeps, std::memory_order_acq_rel) | kOwnerSleeps;
  while (left != kOwnerSleeps) {
    FutexWait(&pending_, left);
    left = pending_.load(std::memory_order_acquire);
  }
  const Clock::time_point end = Clock::now();
  if (!preempted_.load(std::memory_order_relaxed) || end - sleep < sleep - begin) return;
  rest_ = end - rest_end_ < rest_ ? std::min<Clock::duration>(2 * rest_, kLongestRest)
                                  : Clock::duration(kShortestRest);
  rest_end_ = end + rest_;
}

void ThreadPool::Worker(int index) {
  Slot& slot = slots_[static_cast<size_t>(index)];
  uint32_t seen = 0;
  int64_t preemptions = 0;  // when last asked
  for (;;) {
    uint32_t generation;
    for (int spins = 0; (generation = generation_.load(std::memory_order_acquire)) == seen;
         ++spins) {
      CpuRelax();
      if (spins < kSpinsBeforeSleep) continue;
      sleepers_.fetch_add(1);
      FutexWait(&generation_, seen);
      sleepers_.fetch_sub(1);
    }
    // Generations between the two went by without this thread.
    seen = generation;
    slot.seen.store(seen, std::memory_order_relaxed);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!Claim(index, generation)) continue;
    function_(context_, index);
    if (pending_.load(std::memory_order_acquire) == (kOwnerSleeps | 1)) {
      rusage usage = {};
      ::getrusage(RUSAGE_THREAD, &usage);
      preempted_.store(usage.ru_nivcsw != preemptions, std::memory_order_relaxed);
      preemptions = usage.ru_nivcsw;
    }
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == (kOwnerSleeps | 1))
      FutexWakeAll(&pending_);
  }
}

}  // namespace harrow
