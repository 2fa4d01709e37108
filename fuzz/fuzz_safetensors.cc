// ParseSafetensorsHeader on arbitrary bytes: an error, or entries that tile the data section.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto header = harrow::ParseSafetensorsHeader(file, "fuzz");
  if (!header.ok()) return 0;
  uint64_t covered = 0;
  for (const harrow::SafetensorsEntry& e : header->entries) {
    HARROW_CHECK(e.begin <= e.end && e.end <= size - header->data_offset);
    HARROW_CHECK(static_cast<uint64_t>(harrow::NumElements(e.shape)) *
                     static_cast<uint64_t>(harrow::DTypeBytes(e.dtype)) ==
                 e.end - e.begin);
    covered += e.end - e.begin;
  }
  HARROW_CHECK(covered == size - header->data_offset);
  return 0;
}
