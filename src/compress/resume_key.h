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
// a change without reading gigabytes), the recipe with defaults, the calibration token ids, and
// what decides how sums round: the instruction set, kernels forced or chosen by a machine profile,
// the activations of quantized weights and the number of threads.
Result<std::string> ResumeKey(const Checkpoint& source, std::string_view recipe, int threads,
                              std::span<const int32_t> calibration_ids);

}  // namespace harrow

#endif  // HARROW_COMPRESS_RESUME_KEY_H_
