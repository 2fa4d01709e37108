// What a model family is: a function that turns config.json into sizes, switches, and the names and
// shapes of every weight. One file in families/ and one line in families/families.def.
#ifndef HARROW_MODEL_FAMILY_H_
#define HARROW_MODEL_FAMILY_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/hf_config.h"
#include "model/config.h"
#include "model/model.h"

namespace harrow {

// Everything of a Model but the weights themselves.
struct ModelLayout {
  ModelConfig config;
  LinearLayer embedding;  // [vocab, hidden]
  LinearLayer head;       // [vocab, hidden]; a tied model may store its one matrix by either name
  std::string final_norm_name;
  std::vector<Block> blocks;
};

// Checks that config.json describes a model that the shared blocks compute exactly (Unsupported
// names the field otherwise) and fills the layout.
using FamilyBinder = Status (*)(const HfConfig& config, ModelLayout* layout);

// The binder of an architecture; null when there is none.
FamilyBinder FindFamily(std::string_view architecture);
// "LlamaForCausalLM, ..."
std::string SupportedArchitectures();

// What every family takes from config.json in the same way: sizes (their products bounded, so that
// no later arithmetic overflows), norm epsilon, gate activation, rotary frequencies.
Status FillCommonConfig(const HfConfig& config, ModelConfig* out);

}  // namespace harrow

#endif  // HARROW_MODEL_FAMILY_H_
