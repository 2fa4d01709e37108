// Fork-join over a fixed set of threads with a hand-off of about a microsecond: workers spin for a
// short while on a generation counter and sleep on a futex after that. What a worker has not begun
// when the owner is done with its own share, the owner does too, so a worker that gets no CPU, on a
// machine that others use as well, holds nothing up; after one that lost its CPU within a task the
// owner works alone for a while.
#ifndef HARROW_BASE_THREAD_POOL_H_
#define HARROW_BASE_THREAD_POOL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace harrow {

// Run() may be called by one thread at a time (the owner); a task must not call Run() on the same
// pool. The calling thread does the work of index 0, so a pool of 1 has no threads at all. Worker i
// does index i unless the owner took it over.
class ThreadPool {
 public:
  // `threads` <= 0 means one per CPU that this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls task(index) once for each index in [0, size()), in parallel as far as there are CPUs, and
  // returns when all are done. `task` must not throw, nor wait for another index.
  template <class Task>
  void Run(Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    RunErased([](void* context, int index) { (*static_cast<Plain*>(context))(index); },
              const_cast<void*>(static_cast<const void*>(&task)));
  }

  // Splits [0, count) into chunks of `grain` that idle threads claim; body(begin, end).
  template <class Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (size_ == 1 || count <= grain) {
      body(int64_t{0}, count);
      return;
    }
    std::atomic<int64_t> next{0};
    Run([&](int) {
      for (;;) {
        const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count);
      }
    });
  }

  // CPUs that this process may use (affinity mask), at least 1.
  static int AvailableCpus();

 private:
  using Function = void (*)(void*, int);
  using Clock = std::chrono::steady_clock;
  // Of one index; each on a cache line.
  struct alignas(64) Slot {
    std::atomic<uint32_t> claimed{0};  // the last generation whose task somebody began
    std::atomic<uint32_t> seen{0};     // the last one that its worker noticed
  };

  void RunErased(Function function, void* context);
  void Worker(int index);
  // Starts the next generation, one for each Run().
  uint32_t Publish();
  // Whether the caller is the one to do `index`. Only then may it read function_ and context_.
  bool Claim(int index, uint32_t generation);

  int size_ = 1;
  Function function_ = nullptr;
  void* context_ = nullptr;
  Clock::time_point rest_end_;  // until then the owner works alone
  Clock::duration rest_{0};     // how long that was, the last time
  std::vector<Slot> slots_;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> pending_{0};   // tasks that are not done; and thread_pool.cc
  alignas(64) std::atomic<uint32_t> sleepers_{0};  // workers that need a wake-up
  std::atomic<bool> preempted_{false};             // the worker that the owner slept for
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace harrow

#endif  // HARROW_BASE_THREAD_POOL_H_
