#include "checkpoint/gguf_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/float16.h"

namespace harrow {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;  // general.alignment's default
constexpr size_t kMaxName = 63;      // GGML_MAX_NAME, less its closing zero
constexpr int64_t kQuantBlock = 32;

struct TypeEntry {
  GgufType type;
  std::string_view name;
  int64_t values;  // of a block
  uint64_t bytes;
};
constexpr TypeEntry kTypes[] = {
    {GgufType::kF32, "f32", 1, 4},
    {GgufType::kF16, "f16", 1, 2},
    {GgufType::kBf16, "bf16", 1, 2},
    {GgufType::kQ8_0, "q8_0", kQuantBlock, 2 + kQuantBlock},
    {GgufType::kQ4_0, "q4_0", kQuantBlock, 2 + kQuantBlock / 2},
};

const TypeEntry& EntryOf(GgufType type) {
  const auto* entry = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [type](const TypeEntry& e) { return e.type == type; });
  HARROW_CHECK(entry != std::end(kTypes));
  return *entry;
}

// Type numbers of metadata values.
enum ValueKind : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8 };
constexpr uint32_t kArray = 9;

// The little-endian head of the file.
class Head {
 public:
  template <class T>
  void Number(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void Text(std::string_view text) {
    Number(uint64_t{text.size()});
    bytes_.append(text);
  }

  void Value(uint32_t value) { Tagged(kUint32, value); }
  void Value(int32_t value) { Tagged(kInt32, value); }
  void Value(float value) { Tagged(kFloat32, value); }
  void Value(bool value) { Tagged(kBool, static_cast<uint8_t>(value)); }
  void Value(const std::string& value) {
    Number(uint32_t{kString});
    Text(value);
  }
  void Value(const std::vector<std::string>& values) {
    Array(kString, values.size());
    for (const std::string& value : values)
      Text(value);
  }
  void Value(const std::vector<float>& values) { Numbers(kFloat32, values); }
  void Value(const std::vector<int32_t>& values) { Numbers(kInt32, values); }

  void PadTo(uint64_t alignment) {
    bytes_.append((alignment - bytes_.size() % alignment) % alignment, '\0');
  }
  std::string_view bytes() const { return bytes_; }

 private:
  template <class T>
  void Tagged(ValueKind kind, T value) {
    Number(static_cast<uint32_t>(kind));
    Number(value);
  }
  void Array(ValueKind kind, size_t count) {
    Number(kArray);
    Number(static_cast<uint32_t>(kind));
    Number(uint64_t{count});
  }
  template <class T>
  void Numbers(ValueKind kind, const std::vector<T>& values) {
    Array(kind, values.size());
    for (const T value : values)
      Number(value);
  }

  std::string bytes_;
};

void PutF16(float value, std::byte* out) {
  const uint16_t bits = F32ToF16(value);
  std::memcpy(out, &bits, sizeof(bits));
}

void EncodeQ8(const float* x, std::byte* out) {
  float largest = 0;
  for (int64_t i = 0; i < kQuantBlock; ++i)
    largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127;
  const float inverse = scale == 0 ? 0 : 1 / scale;
  PutF16(scale, out);
  for (int64_t i = 0; i < kQuantBlock; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(x[i] * inverse)));
}

void EncodeQ4(const float* x, std::byte* out) {
  float extreme = 0;
  for (int64_t i = 0; i < kQuantBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float scale = extreme / -8;
  const float inverse = scale == 0 ? 0 : 1 / scale;
  PutF16(scale, out);
  const auto code = [&](int64_t i) {
    return static_cast<uint8_t>(std::min(15, static_cast<int>(x[i] * inverse + 8.5f)));
  };
  // The low halves of the bytes hold the first 16 values, the high halves the rest.
  for (int64_t i = 0; i < kQuantBlock / 2; ++i)
    out[2 + i] = static_cast<std::byte>(code(i) | code(i + kQuantBlock / 2) << 4);
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  return EntryOf(type).name;
}

std::optional<GgufType> ParseGgufType(std::string_view name) {
  for (const TypeEntry& entry : kTypes) {
    if (entry.name == name) return entry.type;
  }
  return std::nullopt;
}

int64_t GgufBlockValues(GgufType type) {
  return EntryOf(type).values;
}

uint64_t GgufBytes(GgufType type, int64_t count) {
  const TypeEntry& entry = EntryOf(type);
  HARROW_CHECK(count >= 0 && count % entry.values == 0);
  return static_cast<uint64_t>(count / entry.values) * entry.bytes;
}

void EncodeGguf(GgufType type, const float* values, int64_t count, std::byte* out) {
  const TypeEntry& entry = EntryOf(type);
  HARROW_CHECK(count % entry.values == 0);
  for (int64_t i = 0; i < count; i += entry.values, out += entry.bytes) {
    switch (type) {
      case GgufType::kF32: std::memcpy(out, values + i, sizeof(float)); break;
      case GgufType::kF16: PutF16(values[i], out); break;
      case GgufType::kBf16: {
        const uint16_t bits = F32ToBf16(values[i]);
        std::memcpy(out, &bits, sizeof(bits));
        break;
      }
      case GgufType::kQ8_0: EncodeQ8(values + i, out); break;
      case GgufType::kQ4_0: EncodeQ4(values + i, out); break;
    }
  }
}

Result<GgufWriter> GgufWriter::Create(const std::string& path, const GgufMetadata& metadata,
                                      const std::vector<Planned>& tensors) {
  Head head;
  head.Number(uint32_t{0x46554747});  // "GGUF"
  head.Number(kVersion);
  head.Number(uint64_t{tensors.size()});
  head.Number(uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    head.Text(key);
    std::visit([&head](const auto& held) { head.Value(held); }, value);
  }
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const Planned& tensor : tensors) {
    if (tensor.name.empty() || tensor.name.size() > kMaxName || !names.insert(tensor.name).second) {
      return InvalidArgument("{}: tensor name \"{}\" is empty, longer than {} bytes or used twice",
                             path, tensor.name, kMaxName);
    }
    const int64_t elements = NumElements(tensor.shape);
    const int64_t block = GgufBlockValues(tensor.type);
    if (elements <= 0 || tensor.shape.empty() || tensor.shape.size() > 4) {
      return InvalidArgument("{}: tensor {}: shape {} cannot be stored", path, tensor.name,
                             ShapeToString(tensor.shape));
    }
    if (tensor.shape.back() % block != 0) {
      return InvalidArgument("{}: tensor {}: {} stores blocks of {} values, which do not divide {}",
                             path, tensor.name, GgufTypeName(tensor.type), block,
                             tensor.shape.back());
    }
    head.Text(tensor.name);
    head.Number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      head.Number(static_cast<uint64_t>(*size));
    head.Number(static_cast<uint32_t>(tensor.type));
    head.Number(offset);
    offset += (GgufBytes(tensor.type, elements) + kAlignment - 1) / kAlignment * kAlignment;
  }
  head.PadTo(kAlignment);

  HARROW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  GgufWriter writer(std::move(file));
  writer.planned_ = tensors;
  HARROW_RETURN_IF_ERROR(writer.file_.Write(head.bytes()));
  return writer;
}

Status GgufWriter::Pad() {
  constexpr std::byte kZeros[kAlignment] = {};
  const uint64_t over = file_.bytes_written() % kAlignment;
  return over == 0 ? OkStatus() : file_.Write(std::span(kZeros, kAlignment - over));
}

Status GgufWriter::Append(const float* values, int64_t count) {
  if (next_ == planned_.size()) return InvalidArgument("more tensors than planned");
  const Planned& tensor = planned_[next_];
  const int64_t elements = NumElements(tensor.shape);
  if (count < 0 || count > elements - done_ || count % GgufBlockValues(tensor.type) != 0) {
    return InvalidArgument("tensor {}: {} values given, {} of {} left", tensor.name, count,
                           elements - done_, elements);
  }
  encoded_.resize(GgufBytes(tensor.type, count));
  EncodeGguf(tensor.type, values, count, encoded_.data());
  HARROW_RETURN_IF_ERROR(file_.Write(encoded_));
  done_ += count;
  if (done_ < elements) return OkStatus();
  ++next_;
  done_ = 0;
  return Pad();
}

Status GgufWriter::Finish() {
  if (next_ != planned_.size())
    return InvalidArgument("tensor {}: planned but not written", planned_[next_].name);
  return file_.Commit();
}

}  // namespace harrow
