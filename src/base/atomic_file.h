// Output that is either whole or not there: written under a temporary name in the same folder,
// fsynced, then renamed over the final name.
#ifndef HARROW_BASE_ATOMIC_FILE_H_
#define HARROW_BASE_ATOMIC_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace harrow {

// Not thread safe. Destroying a file that was not committed removes its temporary.
class AtomicFile {
 public:
  // InvalidArgument, here or in Commit, when `path` exists and is not a regular file (a symbolic
  // link is none).
  static Result<AtomicFile> Create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status Write(std::span<const std::byte> bytes);
  Status Write(std::string_view text);
  uint64_t bytes_written() const { return written_; }
  // fsync, rename, fsync of the folder. After this the destructor does nothing.
  Status Commit();

 private:
  AtomicFile() = default;
  int fd_ = -1;
  uint64_t written_ = 0;
  std::string path_;
  std::string temporary_;
};

// Create + Write + Commit.
Status WriteFileAtomically(const std::string& path, std::string_view text);

}  // namespace harrow

#endif  // HARROW_BASE_ATOMIC_FILE_H_
