#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>

namespace harrow {
namespace {

// Part of every temporary name, so that writers of one process never share one.
std::atomic<uint64_t> next_temporary{0};

// The rename would replace whatever is there, be it /dev/null.
Status CheckTarget(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return InvalidArgument("{}: exists and is not a regular file, so it is not replaced", path);
  }
  return OkStatus();
}

}  // namespace

Result<AtomicFile> AtomicFile::Create(const std::string& path) {
  HARROW_RETURN_IF_ERROR(CheckTarget(path));
  AtomicFile file;
  file.path_ = path;
  // A name in use is that of a dead process with our id; the next one is free.
  constexpr int kMaxTries = 100;
  for (int i = 0; i < kMaxTries; ++i) {
    file.temporary_ = path + fmt::format(".{}.{}.tmp", ::getpid(), next_temporary++);
    file.fd_ =
        ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (file.fd_ >= 0 || errno != EEXIST) break;
  }
  if (file.fd_ < 0) return IoErrorWithErrno("create " + file.temporary_, errno);
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : fd_(other.fd_),
      written_(other.written_),
      path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)) {
  other.fd_ = -1;
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

Status AtomicFile::Write(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoErrorWithErrno("write " + path_, errno);
    done += static_cast<size_t>(n);
  }
  written_ += bytes.size();
  return OkStatus();
}

Status AtomicFile::Write(std::string_view text) {
  return Write(std::as_bytes(std::span(text.data(), text.size())));
}

Status AtomicFile::Commit() {
  HARROW_RETURN_IF_ERROR(CheckTarget(path_));
  if (::fsync(fd_) != 0) return IoErrorWithErrno("fsync " + path_, errno);
  if (::close(fd_) != 0) {
    fd_ = -1;
    ::unlink(temporary_.c_str());
    return IoErrorWithErrno("close " + path_, errno);
  }
  fd_ = -1;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    return IoErrorWithErrno("rename to " + path_, error);
  }
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const int dir = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {
    ::fsync(dir);
    ::close(dir);
  }
  return OkStatus();
}

Status WriteFileAtomically(const std::string& path, std::string_view text) {
  HARROW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  HARROW_RETURN_IF_ERROR(file.Write(text));
  return file.Commit();
}

}  // namespace harrow
