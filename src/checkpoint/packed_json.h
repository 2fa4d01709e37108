// The JSON form of packed weights, shared by config.json and the work files of CheckpointWriter.
#ifndef HARROW_CHECKPOINT_PACKED_JSON_H_
#define HARROW_CHECKPOINT_PACKED_JSON_H_

#include <map>
#include <string>

#include "checkpoint/hf_config.h"
#include "checkpoint/json_util.h"

namespace harrow {

// Reads {"<weight name>": {"format", "rows", "cols", "nonzeros", "xxh3"}}; errors name the weight.
Status ReadPackedWeights(const nlohmann::json& weights,
                         std::map<std::string, PackedWeightInfo>* packed);
nlohmann::json PackedWeightsJson(const std::map<std::string, PackedWeightInfo>& packed);

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_PACKED_JSON_H_
