// How long work will still take, judged by what it has done so far.
#ifndef HARROW_TOOLS_HARROW_REMAINING_TIME_H_
#define HARROW_TOOLS_HARROW_REMAINING_TIME_H_

#include <cstdint>
#include <optional>

namespace harrow::tools {

// Counts belong together while `total` stays and `done` does not fall, even when the step's name
// changes: compression counts through all its steps. A count may start above 0.
class RemainingTime {
 public:
  // Seconds left at time `now` (seconds, any origin). Null until there is a basis: something done
  // since the count was first seen, and a second gone by.
  std::optional<double> Update(int64_t done, int64_t total, double now) {
    if (total != total_ || done < done_) {
      total_ = total;
      first_done_ = done;
      start_ = now;
    }
    done_ = done;
    constexpr double kBasisSeconds = 1;
    const double elapsed = now - start_;
    if (done <= first_done_ || done >= total || elapsed < kBasisSeconds) return std::nullopt;
    return elapsed / static_cast<double>(done - first_done_) * static_cast<double>(total - done);
  }

 private:
  int64_t total_ = -1;
  int64_t done_ = 0;
  int64_t first_done_ = 0;
  double start_ = 0;
};

}  // namespace harrow::tools

#endif  // HARROW_TOOLS_HARROW_REMAINING_TIME_H_
