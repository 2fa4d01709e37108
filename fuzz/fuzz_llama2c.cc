// ParseLlama2c on arbitrary bytes: an error, or tensors that lie inside the file.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "checkpoint/llama2c.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto parsed = harrow::ParseLlama2c(file, "fuzz");
  if (!parsed.ok()) return 0;
  for (const harrow::Llama2cTensor& tensor : parsed->tensors) {
    HARROW_CHECK(tensor.bytes.data() >= file.data() &&
                 tensor.bytes.data() + tensor.bytes.size() <= file.data() + file.size());
    HARROW_CHECK(static_cast<uint64_t>(harrow::NumElements(tensor.shape)) * sizeof(float) ==
                 tensor.bytes.size());
    if (tensor.rope_heads > 0) harrow::InterleavedToHalves(tensor);
  }
  return 0;
}
