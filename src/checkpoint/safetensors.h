// The safetensors container: u64 little-endian header length, JSON header, data.
// docs/formats/safetensors.md.
#ifndef HARROW_CHECKPOINT_SAFETENSORS_H_
#define HARROW_CHECKPOINT_SAFETENSORS_H_

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "base/status.h"
#include "checkpoint/tensor_source.h"

namespace harrow {

struct SafetensorsEntry {
  std::string name;
  DType dtype;
  Shape shape;
  uint64_t begin = 0;  // bytes from the start of the data section
  uint64_t end = 0;
};
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // sorted by name
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the data section in the file
};
// Parses and validates a whole header against the file's bytes: sizes, dtypes, shapes, ranges
// inside the file, no overlap, no holes, no duplicate names. `where` names the file in errors. The
// parser that is fuzzed.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                 std::string_view where);

inline constexpr std::string_view kSafetensorsFile = "model.safetensors";
inline constexpr std::string_view kSafetensorsIndex = "model.safetensors.index.json";

// A file name without folder parts: all that a file may say about files beside it.
bool IsPlainFileName(std::string_view name);

// The weight_map of an index: tensor name -> name of its shard, a plain file name. `where` names
// the file in errors. Fuzzed.
Result<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view text,
                                                                 std::string_view where);

// Opens one file, or a Hugging Face directory: model.safetensors.index.json with its shards, else
// model.safetensors. Every header is checked here; tensor data is mapped, not read. With an index,
// the source holds exactly the tensors of its weight_map.
Result<std::shared_ptr<const TensorSource>> OpenSafetensors(const std::string& file_or_directory);

// Writes one safetensors file atomically. The data section starts on a 64-byte boundary (spaces pad
// the header). The format permits no holes, so tensors lie back to back in the order given: each
// starts on a 64-byte boundary as long as all before it are multiples of 64 bytes. Not thread safe.
class SafetensorsWriter {
 public:
  struct Planned {
    std::string name;
    DType dtype;
    Shape shape;
  };
  // All names, dtypes and shapes are fixed up front; then the bytes follow in the same order.
  static Result<SafetensorsWriter> Create(const std::string& path,
                                          const std::vector<Planned>& tensors,
                                          const std::map<std::string, std::string>& metadata);
  // Bytes of the next planned tensor; the size must match.
  Status Append(std::span<const std::byte> bytes);
  // Fails unless every planned tensor was appended. Without it nothing appears under `path`.
  Status Finish();

 private:
  explicit SafetensorsWriter(AtomicFile file) : file_(std::move(file)) {}
  AtomicFile file_;
  std::vector<Planned> planned_;
  size_t next_ = 0;
};

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_SAFETENSORS_H_
