// GGUF files, version 3, as llama.cpp reads them: metadata, then tensors one after the other.
// Layout: ggml's docs/gguf.md; blocks: the structs of ggml-common.h and the reference quantizers
// of ggml-quants.c. docs/formats/gguf.md says what Harrow writes.
#ifndef HARROW_CHECKPOINT_GGUF_WRITER_H_
#define HARROW_CHECKPOINT_GGUF_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/atomic_file.h"
#include "base/status.h"
#include "tensor/tensor.h"

namespace harrow {

// Element types of GGUF tensors, with ggml's numbers.
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8, kBf16 = 30 };
std::string_view GgufTypeName(GgufType type);  // "f32" "f16" "q4_0" "q8_0" "bf16"
std::optional<GgufType> ParseGgufType(std::string_view name);
// Consecutive values that are stored together, a row holds a multiple of them: 32 for Q4_0 and
// Q8_0, otherwise 1.
int64_t GgufBlockValues(GgufType type);
// Bytes of `count` values, a multiple of GgufBlockValues.
uint64_t GgufBytes(GgufType type, int64_t count);

// Rounds `count` values, a multiple of GgufBlockValues, into GgufBytes(type, count) bytes at `out`.
// Q8_0: d = max|x| / 127, codes round(x / d). Q4_0: d = (the x of largest magnitude) / -8, codes
// floor(x / d + 8.5) but at most 15; both with d stored as F16.
void EncodeGguf(GgufType type, const float* values, int64_t count, std::byte* out);

using GgufValue = std::variant<uint32_t, int32_t, float, bool, std::string,
                               std::vector<std::string>, std::vector<float>, std::vector<int32_t>>;
// In the order of the file.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

// Tensors are planned first, because their places precede their data, and then appended in that
// order. The file appears under its name, whole, at Finish. Not thread safe.
class GgufWriter {
 public:
  struct Planned {
    std::string name;  // at most 63 bytes
    Shape shape;       // [rows, cols] or [cols], outermost first; at most 4 dimensions
    GgufType type = GgufType::kF32;
  };
  static Result<GgufWriter> Create(const std::string& path, const GgufMetadata& metadata,
                                   const std::vector<Planned>& tensors);
  // The next `count` values of the tensor that is being written, whole blocks, in order; a tensor
  // may come in any number of pieces but each piece belongs to one tensor.
  Status Append(const float* values, int64_t count);
  // Fails when tensors are missing.
  Status Finish();
  uint64_t bytes_written() const { return file_.bytes_written(); }

 private:
  explicit GgufWriter(AtomicFile file) : file_(std::move(file)) {}
  Status Pad();

  AtomicFile file_;
  std::vector<Planned> planned_;
  size_t next_ = 0;
  int64_t done_ = 0;  // values of planned_[next_]
  std::vector<std::byte> encoded_;
};

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_GGUF_WRITER_H_
