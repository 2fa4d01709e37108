// Task files (JSONL of multiple-choice questions).
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "eval/tasks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto items = harrow::ParseTaskFile(text, "fuzz", "part", 0);
  if (!items.ok()) return 0;
  for (const harrow::TaskItem& item : *items) {
    if (item.answer < 0 || item.answer >= static_cast<int64_t>(item.choices.size()))
      __builtin_trap();
  }
  return 0;
}
