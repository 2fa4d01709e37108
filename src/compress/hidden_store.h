// The hidden states of all calibration sequences between two blocks.
#ifndef HARROW_COMPRESS_HIDDEN_STORE_H_
#define HARROW_COMPRESS_HIDDEN_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace harrow {

// Sequences of `elements` float32 each; in memory up to `max_bytes`, otherwise in a temporary file
// in `folder` that has no name, so that nothing is left behind whatever happens. Not thread safe.
class HiddenStore {
 public:
  static constexpr uint64_t kMaxMemoryBytes = uint64_t{512} << 20;

  static Result<std::unique_ptr<HiddenStore>> Create(int64_t sequences, int64_t elements,
                                                     const std::string& folder,
                                                     uint64_t max_bytes = kMaxMemoryBytes);
  ~HiddenStore();
  HiddenStore(const HiddenStore&) = delete;
  HiddenStore& operator=(const HiddenStore&) = delete;

  bool in_memory() const { return fd_ < 0; }
  Status Write(int64_t sequence, const float* values);
  Status Read(int64_t sequence, float* values) const;

 private:
  HiddenStore(int64_t sequences, int64_t elements) : sequences_(sequences), elements_(elements) {}
  int64_t sequences_;
  int64_t elements_;
  std::vector<float> memory_;
  int fd_ = -1;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_HIDDEN_STORE_H_
