#include "compress/hidden_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/check.h"

namespace harrow {

Result<std::unique_ptr<HiddenStore>> HiddenStore::Create(int64_t sequences, int64_t elements,
                                                         const std::string& folder,
                                                         uint64_t max_bytes) {
  const unsigned __int128 bytes =
      static_cast<unsigned __int128>(sequences) * static_cast<uint64_t>(elements) * sizeof(float);
  if (bytes > static_cast<unsigned __int128>(INT64_MAX)) {
    return Error(StatusCode::kResourceLimit, "hidden states of {} sequences x {} values", sequences,
                 elements);
  }
  std::unique_ptr<HiddenStore> store(new HiddenStore(sequences, elements));
  if (bytes <= max_bytes) {
    store->memory_.resize(static_cast<size_t>(sequences * elements));
    return store;
  }
  // Not O_TMPFILE: some network and overlay file systems lack it.
  std::string path = folder + "/.harrow-hidden-XXXXXX";
  store->fd_ = ::mkostemp(path.data(), O_CLOEXEC);
  if (store->fd_ < 0) return IoErrorWithErrno("create a temporary file in " + folder, errno);
  ::unlink(path.c_str());
  // Space is asked for now, so that a full disk shows before hours of work.
  const int error = ::posix_fallocate(store->fd_, 0, static_cast<off_t>(bytes));
  if (error != 0 && error != EOPNOTSUPP && error != EINVAL) {
    return IoErrorWithErrno(fmt::format("reserve {} bytes for hidden states in {}",
                                        static_cast<uint64_t>(bytes), folder),
                            error);
  }
  return store;
}

HiddenStore::~HiddenStore() {
  if (fd_ >= 0) ::close(fd_);
}

Status HiddenStore::Write(int64_t sequence, const float* values) {
  HARROW_CHECK(sequence >= 0 && sequence < sequences_);
  if (in_memory()) {
    std::copy_n(values, elements_, memory_.begin() + sequence * elements_);
    return OkStatus();
  }
  const auto* bytes = reinterpret_cast<const char*>(values);
  const int64_t size = elements_ * static_cast<int64_t>(sizeof(float));
  for (int64_t done = 0; done < size;) {
    const ssize_t n =
        ::pwrite(fd_, bytes + done, static_cast<size_t>(size - done), sequence * size + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return IoErrorWithErrno("write hidden states to a temporary file", errno);
    done += n;
  }
  return OkStatus();
}

Status HiddenStore::Read(int64_t sequence, float* values) const {
  HARROW_CHECK(sequence >= 0 && sequence < sequences_);
  if (in_memory()) {
    std::copy_n(memory_.begin() + sequence * elements_, elements_, values);
    return OkStatus();
  }
  auto* bytes = reinterpret_cast<char*>(values);
  const int64_t size = elements_ * static_cast<int64_t>(sizeof(float));
  for (int64_t done = 0; done < size;) {
    const ssize_t n =
        ::pread(fd_, bytes + done, static_cast<size_t>(size - done), sequence * size + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoErrorWithErrno("read hidden states from a temporary file", errno);
    if (n == 0) return Error(StatusCode::kIoError, "the temporary file of hidden states is short");
    done += n;
  }
  return OkStatus();
}

}  // namespace harrow
