// The angles of the rotary embedding, from config.json.
#ifndef HARROW_MODEL_ROPE_H_
#define HARROW_MODEL_ROPE_H_

#include <vector>

#include "base/status.h"
#include "checkpoint/hf_config.h"

namespace harrow {

// Radians per position of each pair, [head_dim / 2], with rope_scaling applied: "" (none), "linear"
// and "llama3". Computed in double and rounded once; transformers computes the same in float32.
// Unsupported names any other type. Sources: Su et al., arXiv 2104.09864 section 3.2.2; linear,
// Chen et al., arXiv 2306.15595; llama3, transformers modeling_rope_utils.py
// (_compute_llama3_parameters).
Result<std::vector<float>> RopeInverseFrequencies(const HfConfig& config);

}  // namespace harrow

#endif  // HARROW_MODEL_ROPE_H_
