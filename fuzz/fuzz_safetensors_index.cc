// ParseSafetensorsIndex on arbitrary text: an error, or tensors whose shards are plain file names.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto shards = harrow::ParseSafetensorsIndex(text, "fuzz");
  if (!shards.ok()) return 0;
  for (const auto& [tensor, shard] : *shards)
    HARROW_CHECK(harrow::IsPlainFileName(shard));
  return 0;
}
