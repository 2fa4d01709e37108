#include <utility>

#include "checkpoint/json_util.h"
#include "checkpoint/safetensors.h"

namespace harrow {
namespace {

constexpr uint64_t kAlignment = 64;  // a cache line, and the widest vector load

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Planned>& tensors,
    const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Planned& tensor : tensors) {
    const int64_t elements = NumElements(tensor.shape);
    uint64_t bytes = 0, end = 0;
    if (elements < 0 ||
        __builtin_mul_overflow(static_cast<uint64_t>(elements),
                               static_cast<uint64_t>(DTypeBytes(tensor.dtype)), &bytes) ||
        __builtin_add_overflow(offset, bytes, &end)) {
      return InvalidArgument("{}: tensor {}: shape {} cannot be stored", path, tensor.name,
                             ShapeToString(tensor.shape));
    }
    nlohmann::json entry = {{"dtype", DTypeName(tensor.dtype)},
                            {"shape", tensor.shape},
                            {"data_offsets", {offset, end}}};
    if (tensor.name.empty() || tensor.name == "__metadata__" || header.contains(tensor.name)) {
      return InvalidArgument("{}: tensor name \"{}\" is empty, reserved or used twice", path,
                             tensor.name);
    }
    header[tensor.name] = std::move(entry);
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("{}: {}", path, JsonErrorText(error));
  }
  const uint64_t unpadded = sizeof(uint64_t) + text.size();
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');

  HARROW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  SafetensorsWriter writer(std::move(file));
  writer.planned_ = tensors;
  const uint64_t length = text.size();
  HARROW_RETURN_IF_ERROR(writer.file_.Write(std::as_bytes(std::span(&length, 1))));
  HARROW_RETURN_IF_ERROR(writer.file_.Write(text));
  return writer;
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (next_ == planned_.size()) return InvalidArgument("more tensors than planned");
  const Planned& tensor = planned_[next_];
  const uint64_t expected = static_cast<uint64_t>(NumElements(tensor.shape)) *
                            static_cast<uint64_t>(DTypeBytes(tensor.dtype));
  if (bytes.size() != expected) {
    return InvalidArgument("tensor {}: {} bytes given, {} planned", tensor.name, bytes.size(),
                           expected);
  }
  ++next_;
  return file_.Write(bytes);
}

Status SafetensorsWriter::Finish() {
  if (next_ != planned_.size()) {
    return InvalidArgument("tensor {}: planned but not written", planned_[next_].name);
  }
  return file_.Commit();
}

}  // namespace harrow
