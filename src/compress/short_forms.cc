// `harrow prune` and `harrow quantize` as recipes.
#include <yaml-cpp/yaml.h>

#include "compress/recipe.h"
#include "harrow/compress.h"

namespace harrow {
namespace {

void EmitStrings(YAML::Emitter* out, const char* key, const std::vector<std::string>& values) {
  if (values.empty()) return;
  *out << YAML::Key << key << YAML::Value << YAML::Flow << YAML::BeginSeq;
  for (const std::string& value : values)
    *out << YAML::DoubleQuoted << value;
  *out << YAML::EndSeq;
}

void EmitText(YAML::Emitter* out, const char* key, const std::string& value) {
  *out << YAML::Key << key << YAML::Value << YAML::DoubleQuoted << value;
}

template <class T>
void Emit(YAML::Emitter* out, const char* key, const T& value) {
  *out << YAML::Key << key << YAML::Value << value;
}

// Shortest text that reads back as the same number.
void EmitNumber(YAML::Emitter* out, const char* key, double value) {
  Emit(out, key, fmt::format("{}", value));
}

Status EmitQuantizeStep(YAML::Emitter* out, const std::string& weights, int64_t group,
                        bool symmetric, bool embed, const std::vector<std::string>& targets,
                        const std::vector<std::string>& ignore) {
  if (weights != "int8" && weights != "int4") {
    return InvalidArgument("--weights: expected int8 | int4, found \"{}\"", weights);
  }
  *out << YAML::BeginMap;
  Emit(out, "method", "rtn");
  EmitText(out, "format", weights);
  Emit(out, "group", group);
  Emit(out, "symmetric", symmetric);
  Emit(out, "embed", embed && targets.empty());
  EmitStrings(out, "targets", targets);
  EmitStrings(out, "ignore", ignore);
  *out << YAML::EndMap;
  return OkStatus();
}

// The recipe is checked here, so that a bad flag fails before a model is opened.
Result<std::string> Checked(const YAML::Emitter& out, const char* command) {
  std::string text = std::string(out.c_str()) + "\n";
  Result<Recipe> recipe = ParseRecipe(text, command);
  if (!recipe.ok()) return recipe.status();
  return text;
}

}  // namespace

Result<std::string> PruneRecipe(const PruneOptions& options) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  if (!options.calibration.empty()) {
    out << YAML::Key << "calibration" << YAML::Value << YAML::BeginMap;
    EmitText(&out, "file", options.calibration);
    EmitText(&out, "mode", options.mode);
    Emit(&out, "samples", options.samples);
    Emit(&out, "sequence_length", options.sequence_length);
    Emit(&out, "seed", options.seed);
    out << YAML::EndMap;
  }
  out << YAML::Key << "steps" << YAML::Value << YAML::BeginSeq << YAML::BeginMap;
  EmitText(&out, "method", options.method);
  if (options.sparsity != 0) EmitNumber(&out, "sparsity", options.sparsity);
  if (!options.pattern.empty()) EmitText(&out, "pattern", options.pattern);
  if (options.method == "sparsegpt") {
    EmitNumber(&out, "damping", options.damping);
    Emit(&out, "allow_damping_escalation", options.allow_damping_escalation);
    Emit(&out, "block_size", options.block_size);
  }
  EmitStrings(&out, "targets", options.targets);
  EmitStrings(&out, "ignore", options.ignore);
  out << YAML::EndMap;
  if (!options.weights.empty()) {
    HARROW_RETURN_IF_ERROR(EmitQuantizeStep(&out, options.weights, options.group, options.symmetric,
                                            /*embed=*/true, {}, {}));
  }
  out << YAML::EndSeq;
  EmitText(&out, "store", options.store);
  out << YAML::EndMap;
  return Checked(out, "harrow prune");
}

Result<std::string> QuantizeRecipe(const QuantizeOptions& options) {
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "steps" << YAML::Value << YAML::BeginSeq;
  HARROW_RETURN_IF_ERROR(EmitQuantizeStep(&out, options.weights, options.group, options.symmetric,
                                          options.embed, options.targets, options.ignore));
  out << YAML::EndSeq;
  EmitText(&out, "store", options.store);
  out << YAML::EndMap;
  return Checked(out, "harrow quantize");
}

}  // namespace harrow
