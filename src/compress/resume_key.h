// What an interrupted run must have in common with the one that continues it.
#ifndef HARROW_COMPRESS_RESUME_KEY_H_
#define HARROW_COMPRESS_RESUME_KEY_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace harrow {

// A hash of the source (text of config.json, sizes and times of the weight files: enough to notice
// a change without reading gigabytes), the recipe with defaults and the calibration token ids.
Result<std::string> ResumeKey(const Checkpoint& source, std::string_view recipe,
                              std::span<const int32_t> calibration_ids);

}  // namespace harrow

#endif  // HARROW_COMPRESS_RESUME_KEY_H_
