// What long work tells its caller, and how the caller stops it. Passed by pointer; null means
// silent and uninterruptible. Callbacks are called on the calling thread.
#ifndef HARROW_RUN_CONTROL_H_
#define HARROW_RUN_CONTROL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string_view>

namespace harrow {

struct RunControl {
  // step of total done (units are the work's own: blocks, windows, tokens); `what` names the
  // present step.
  std::function<void(std::string_view what, int64_t done, int64_t total)> on_progress;
  // A loud note that belongs in a report as well (a damped factorization, a dead column).
  std::function<void(std::string_view message)> on_warning;
  // Set from anywhere, also a signal handler; work stops at its next safe point with
  // StatusCode::kCancelled.
  const std::atomic<bool>* cancel = nullptr;

  bool Cancelled() const { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }
  void Progress(std::string_view what, int64_t done, int64_t total) const {
    if (on_progress) on_progress(what, done, total);
  }
  void Warn(std::string_view message) const {
    if (on_warning) on_warning(message);
  }
};

}  // namespace harrow

#endif  // HARROW_RUN_CONTROL_H_
