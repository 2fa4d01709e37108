// Timing of products whose weights come from memory, for the break-even tables and the benchmarks.
#ifndef HARROW_ADVISE_LINEAR_TIMING_H_
#define HARROW_ADVISE_LINEAR_TIMING_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/mapped_file.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "kernels/memory_roof.h"

namespace harrow {

// Copies of one random weight, one after the other, that together exceed the caches; products visit
// them in turn, so that each finds its weight in memory. Movable, not thread safe.
class WeightStack {
 public:
  // At least two copies, and no fewer than make `bytes`.
  static Result<WeightStack> Make(const WeightSpec& spec, int64_t rows, int64_t cols,
                                  double density, uint64_t bytes);

  const LinearWeight& weight() const { return copies_.front(); }
  int64_t size() const { return static_cast<int64_t>(copies_.size()); }
  const LinearWeight& Next();
  // All copies, one behind the other.
  std::span<const std::byte> bytes() const { return memory_.span(); }
  // Has the products read `file` instead, which holds bytes(); those are freed.
  void MoveTo(std::shared_ptr<const MappedFile> file);

 private:
  AlignedArray<std::byte> memory_;
  std::vector<LinearWeight> copies_;
  int64_t next_ = 0;
};

// More than the last-level cache holds, also of what is timed in between: three times, 64 to 512
// MiB.
uint64_t DefaultStackBytes();

// M tokens of random x times weights of one shape. `pool` must outlive it.
class ProductTimer {
 public:
  ProductTimer(ThreadPool* pool, int64_t m, int64_t rows, int64_t cols);
  int64_t m() const { return m_; }
  // Seconds of one product, the mean of `count` in a row over the next copies.
  double Product(WeightStack* stack, int64_t count);

 private:
  ThreadPool* pool_;
  int64_t m_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch_;
};

// Kernels worth timing for the spec here: of each kind (name without the tier) the one of the
// highest tier, the reference only where there is no other.
std::vector<std::string> RivalKernels(const WeightSpec& spec);

// Kernels of one or more stacks timed in turn.
struct Rival {
  WeightStack* stack = nullptr;
  std::string kernel;
  std::vector<double> seconds;  // out: of one product, one entry a round
};
struct RivalRounds {
  double seconds = 0.1;  // about how long to take
  int64_t least = 3;     // rounds, however long they take
};
// One uncounted product of each, then rounds in alternating order, each with a probe of `roof` as
// long as the weights of the first rival; returns those, in 1e9 bytes per second. Forces kernels,
// so none may be forced.
std::vector<double> TimeRivals(ProductTimer* timer, MemoryRoof* roof, const RivalRounds& rounds,
                               std::vector<Rival>* rivals);

}  // namespace harrow

#endif  // HARROW_ADVISE_LINEAR_TIMING_H_
