// The JSON form of packed and low-rank weights, shared by config.json and the work files of
// CheckpointWriter.
#ifndef HARROW_CHECKPOINT_PACKED_JSON_H_
#define HARROW_CHECKPOINT_PACKED_JSON_H_

#include <string>

#include "checkpoint/hf_config.h"
#include "checkpoint/json_util.h"

namespace harrow {

// Reads {"<weight name>": {"format", "rows", "cols", "nonzeros", "xxh3"}}; errors name the weight.
Status ReadPackedWeights(const nlohmann::json& weights, PackedWeights* packed);
nlohmann::json PackedWeightsJson(const PackedWeights& packed);

// The same for {"<weight name>": {"rank", "rows", "cols", "residual"}}.
Status ReadLowRankWeights(const nlohmann::json& weights, LowRankWeights* low_rank);
nlohmann::json LowRankWeightsJson(const LowRankWeights& low_rank);

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_PACKED_JSON_H_
