#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "checkpoint/json_util.h"
#include "checkpoint/safetensors.h"

namespace harrow {
namespace {

using nlohmann::json;

// The cap of the reference implementation (safetensors/src/tensor.rs, MAX_HEADER_SIZE).
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDims = 8;
constexpr size_t kMaxNameBytes = 1024;

// Builds the entries straight from parse events, so a hostile header costs no more memory than the
// entries it really holds, and duplicate keys are seen (a tree would hide them).
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(SafetensorsHeader* header) : header_(header) {}
  const Status& status() const { return status_; }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart: state_ = State::kRoot; return true;
      case State::kRoot:
        if (name_ == "__metadata__") {
          if (std::exchange(has_metadata_, true)) return Fail("__metadata__ appears twice");
          state_ = State::kMetadata;
        } else {
          entry_ = SafetensorsEntry{};
          entry_.name = name_;
          has_dtype_ = has_shape_ = has_offsets_ = false;
          state_ = State::kTensor;
        }
        return true;
      default: return Unexpected("an object");
    }
  }

  bool key(std::string& text) override {
    switch (state_) {
      case State::kRoot:
        if (text.size() > kMaxNameBytes) return Fail("a tensor name longer than 1024 bytes");
        if (std::any_of(text.begin(), text.end(),
                        [](char c) { return static_cast<unsigned char>(c) < 0x20; })) {
          return Fail("a tensor name with control characters");
        }
        name_ = text;
        return true;
      case State::kMetadata: metadata_key_ = text; return true;
      default: break;
    }
    bool* const seen = text == "dtype"          ? &has_dtype_
                       : text == "shape"        ? &has_shape_
                       : text == "data_offsets" ? &has_offsets_
                                                : nullptr;
    if (seen == nullptr) return Fail("a field other than dtype, shape and data_offsets");
    if (std::exchange(*seen, true)) return Fail(text + " appears twice");
    field_ = text;
    return true;
  }

  bool string(std::string& text) override {
    if (state_ == State::kMetadata) {
      if (!header_->metadata.emplace(metadata_key_, text).second) {
        return Fail("a key appears twice");
      }
      return true;
    }
    if (state_ != State::kTensor || field_ != "dtype") return Unexpected("a string");
    const std::optional<DType> dtype = ParseDType(text);
    if (!dtype) {
      status_ =
          Unsupported("tensor {}: dtype {} is not one that Harrow reads", name_, JsonQuote(text));
      return false;
    }
    entry_.dtype = *dtype;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || field_ == "dtype") return Unexpected("an array");
    state_ = field_ == "shape" ? State::kShape : State::kOffsets;
    offsets_ = 0;
    return true;
  }

  bool number_unsigned(json::number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (entry_.shape.size() == kMaxDims) return Fail("more than 8 dimensions");
      if (value > static_cast<uint64_t>(INT64_MAX)) return Fail("a dimension beyond 2^63");
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsets) {
      if (offsets_ == 2) return Fail("more than two data_offsets");
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return Unexpected("a number");
  }
  bool number_integer(json::number_integer_t value) override {
    if (state_ == State::kShape || state_ == State::kOffsets) {
      return Fail(fmt::format("the negative number {} in {}", value, field_));
    }
    return Unexpected("a number");
  }
  bool number_float(json::number_float_t, const std::string&) override {
    return Unexpected("a fraction");
  }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(json::binary_t&) override { return Unexpected("binary data"); }

  bool end_array() override {
    if (state_ == State::kOffsets && offsets_ != 2) return Fail("data_offsets needs two numbers");
    state_ = State::kTensor;
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_) {
        return Fail("dtype, shape or data_offsets is missing");
      }
      header_->entries.push_back(std::move(entry_));
    }
    state_ = state_ == State::kRoot ? State::kDone : State::kRoot;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const json::exception& error) override {
    status_ = Corruption("header is not valid JSON: {}", JsonErrorText(error));
    return false;
  }

 private:
  enum class State { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kDone };

  bool Fail(std::string_view what) {
    switch (state_) {
      case State::kMetadata: status_ = Corruption("__metadata__: {}", what); break;
      case State::kTensor:
      case State::kShape:
      case State::kOffsets: status_ = Corruption("tensor {}: {}", name_, what); break;
      default: status_ = Corruption("header: {}", what); break;
    }
    return false;
  }
  bool Unexpected(std::string_view what) {
    switch (state_) {
      case State::kStart:
        status_ = Corruption("header holds {}, expected an object of tensors", what);
        return false;
      case State::kRoot:
        status_ = Corruption("tensor {}: {} where an object should be", name_, what);
        return false;
      case State::kMetadata:
        status_ = Corruption("__metadata__: {} where a string should be", what);
        return false;
      default: return Fail(fmt::format("unexpected {} in {}", what, field_));
    }
  }

  SafetensorsHeader* header_;
  Status status_;
  State state_ = State::kStart;
  std::string name_, metadata_key_, field_;
  SafetensorsEntry entry_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

Status CheckEntry(const SafetensorsEntry& e, uint64_t data_bytes) {
  if (e.begin > e.end || e.end > data_bytes) {
    return Corruption("tensor {}: data_offsets [{}, {}], expected a range inside the {} data bytes",
                      e.name, e.begin, e.end, data_bytes);
  }
  const int64_t elements = NumElements(e.shape);
  int64_t bytes = 0;
  if (elements < 0 || __builtin_mul_overflow(elements, DTypeBytes(e.dtype), &bytes)) {
    return Corruption("tensor {}: shape {} overflows", e.name, ShapeToString(e.shape));
  }
  if (static_cast<uint64_t>(bytes) != e.end - e.begin) {
    return Corruption("tensor {}: {} {} needs {} bytes, data_offsets give {}", e.name,
                      DTypeName(e.dtype), ShapeToString(e.shape), bytes, e.end - e.begin);
  }
  return OkStatus();
}

// No overlap and no holes: in order of their offsets the tensors tile the data section.
Status CheckTiling(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  std::vector<const SafetensorsEntry*> order;
  order.reserve(entries.size());
  for (const SafetensorsEntry& e : entries)
    order.push_back(&e);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::tie(a->begin, a->end) < std::tie(b->begin, b->end);
  });
  uint64_t covered = 0;
  for (const SafetensorsEntry* e : order) {
    if (e->begin < covered) {
      return Corruption("tensor {}: begins at {}, inside another that ends at {}", e->name,
                        e->begin, covered);
    }
    if (e->begin > covered) {
      return Corruption("tensor {}: begins at {}, leaving a hole after {}", e->name, e->begin,
                        covered);
    }
    covered = e->end;
  }
  if (covered != data_bytes) {
    return Corruption("the tensors take {} bytes, the file holds {} after its header", covered,
                      data_bytes);
  }
  return OkStatus();
}

Result<SafetensorsHeader> Parse(std::span<const std::byte> file) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return Corruption("{} bytes, too short for a safetensors file", file.size());
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return Corruption("header length {}, expected at most {}; is it a safetensors file?", length,
                      kMaxHeaderBytes);
  }
  if (length > file.size() - sizeof(length)) {
    return Corruption("header length {} exceeds the file ({} bytes)", length, file.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length),
                              static_cast<size_t>(length));
  // nlohmann-json takes NUL for the end of the text.
  if (text.find('\0') != std::string_view::npos) return Corruption("header has a NUL byte");
  if (!text.starts_with('{')) return Corruption("header does not begin with '{{'");

  SafetensorsHeader header;
  header.data_offset = sizeof(length) + length;
  HeaderHandler handler(&header);
  if (!json::sax_parse(text.begin(), text.end(), &handler)) return handler.status();

  const uint64_t data_bytes = file.size() - header.data_offset;
  std::sort(header.entries.begin(), header.entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 0; i < header.entries.size(); ++i) {
    const SafetensorsEntry& e = header.entries[i];
    if (i > 0 && header.entries[i - 1].name == e.name) {
      return Corruption("tensor {}: appears twice", e.name);
    }
    HARROW_RETURN_IF_ERROR(CheckEntry(e, data_bytes));
  }
  HARROW_RETURN_IF_ERROR(CheckTiling(header.entries, data_bytes));
  return header;
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                 std::string_view where) {
  auto header = Parse(file);
  if (!header.ok()) return header.status().At(where);
  return header;
}

}  // namespace harrow
