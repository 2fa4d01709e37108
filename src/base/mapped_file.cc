#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace harrow {
namespace {

struct FileDescriptor {
  int fd = -1;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

Result<uint64_t> OpenForRead(const std::string& path, FileDescriptor* file) {
  // Without O_NONBLOCK a FIFO would wait here for a writer, perhaps forever.
  file->fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file->fd < 0) {
    if (errno == ENOENT) return NotFound("{}: no such file", path);
    return IoErrorWithErrno("open " + path, errno);
  }
  struct stat st;
  if (::fstat(file->fd, &st) != 0) return IoErrorWithErrno("stat " + path, errno);
  if (!S_ISREG(st.st_mode)) return InvalidArgument("{}: not a regular file", path);
  return static_cast<uint64_t>(st.st_size);
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  FileDescriptor file;
  HARROW_ASSIGN_OR_RETURN(const uint64_t size, OpenForRead(path, &file));
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  if (size > 0) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (address == MAP_FAILED) return IoErrorWithErrno("mmap " + path, errno);
    mapped->bytes_ = {static_cast<const std::byte*>(address), size};
  }
  return std::shared_ptr<const MappedFile>(std::move(mapped));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::DropResident(std::span<const std::byte> range) const {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(range.data()) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.data() + range.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  FileDescriptor file;
  HARROW_ASSIGN_OR_RETURN(const uint64_t size, OpenForRead(path, &file));
  if (size > max_bytes) {
    return Error(StatusCode::kResourceLimit, "{}: {} bytes, more than the {} allowed here", path,
                 size, max_bytes);
  }
  std::string text(size, '\0');
  uint64_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(file.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoErrorWithErrno("read " + path, errno);
    if (n == 0) return Corruption("{}: shrank while it was read", path);
    done += static_cast<uint64_t>(n);
  }
  return text;
}

}  // namespace harrow
