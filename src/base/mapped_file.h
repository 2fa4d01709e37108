// A read-only memory-mapped file.
#ifndef HARROW_BASE_MAPPED_FILE_H_
#define HARROW_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace harrow {

// Immutable after Open; safe to share between threads. Views into bytes() must not outlive the
// object, so whoever keeps a view keeps the shared_ptr too.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  // Tells the kernel that these pages are not needed soon, so that streaming through a large model
  // does not keep all of it resident. A hint; never fails.
  void DropResident(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  std::string path_;
  std::span<const std::byte> bytes_;
};

// Reads a whole small file. Fails when it is larger than `max_bytes`, before allocating.
Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes);

}  // namespace harrow

#endif  // HARROW_BASE_MAPPED_FILE_H_
