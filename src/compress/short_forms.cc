// `harrow prune` and `harrow quantize` as recipes.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <regex>

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

// The keys of `calibration`, of PruneOptions or QuantizeOptions.
template <class Options>
void EmitCalibration(YAML::Emitter* out, const Options& options) {
  if (options.calibration.empty()) return;
  *out << YAML::Key << "calibration" << YAML::Value << YAML::BeginMap;
  EmitText(out, "file", options.calibration);
  EmitText(out, "mode", options.mode);
  Emit(out, "samples", options.samples);
  Emit(out, "sequence_length", options.sequence_length);
  Emit(out, "seed", options.seed);
  *out << YAML::EndMap;
}

// `harrow prune` is for the methods that take a sparsity.
Status CheckPruner(const std::string& method) {
  std::string names;
  for (const MethodInfo& info : AllMethods()) {
    OptionReader options(YAML::Load("{sparsity: 0.5}"), "", "");
    if (info.make(&options)->target() == nullptr) continue;
    if (info.name == method) return OkStatus();
    names += (names.empty() ? "" : " | ") + std::string(info.name);
  }
  return InvalidArgument("--method: expected {}, found \"{}\"", names, method);
}

Status CheckWeights(const std::string& weights) {
  if (weights != "int8" && weights != "int4") {
    return InvalidArgument("--weights: expected int8 | int4, found \"{}\"", weights);
  }
  return OkStatus();
}

Status EmitQuantizeStep(YAML::Emitter* out, const std::string& weights, int64_t group,
                        bool symmetric, bool embed, const std::vector<std::string>& targets,
                        const std::vector<std::string>& ignore) {
  HARROW_RETURN_IF_ERROR(CheckWeights(weights));
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
Result<std::string> Checked(const YAML::Emitter& out) {
  std::string text = std::string(out.c_str()) + "\n";
  const Result<Recipe> recipe = ParseRecipe(text, kUnnamedRecipe);
  if (!recipe.ok()) return Status(recipe.status().code(), InFlags(recipe.status().message()));
  return text;
}

}  // namespace

std::string InFlags(const std::string& message) {
  const auto [part, key, text] = SplitRecipeMessage(message);
  if (part.empty()) return text;
  const bool of_step = part.starts_with("steps");
  if (of_step && key.empty()) return text;  // names the weight
  if (part == "calibration" && key.empty() && text.starts_with("missing")) {
    return "--calibration: missing; the method or the allocation needs text to calibrate on "
           "(.jsonl, .txt)";
  }
  std::string flag = key;
  if (key.empty()) {
    flag = part;
  } else if (key == "file") {
    flag = part == "allocation" ? "sensitivity" : "calibration";
  } else if (key == "format") {
    flag = "weights";
  } else if (part == "allocation") {
    flag = key == "method" ? "allocation" : "allocation: " + key;
  }
  std::replace(flag.begin(), flag.end(), '_', '-');
  return fmt::format("--{}: {}", flag, text);
}

Result<std::string> PruneRecipe(const PruneOptions& options) {
  HARROW_RETURN_IF_ERROR(CheckPruner(options.method));
  YAML::Emitter out;
  out << YAML::BeginMap;
  EmitCalibration(&out, options);
  out << YAML::Key << "steps" << YAML::Value << YAML::BeginSeq << YAML::BeginMap;
  EmitText(&out, "method", options.method);
  if (options.sparsity) EmitNumber(&out, "sparsity", *options.sparsity);
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
  if (options.allocation != "uniform" || !options.sensitivity.empty()) {
    out << YAML::Key << "allocation" << YAML::Value << YAML::BeginMap;
    EmitText(&out, "method", options.allocation);
    if (!options.sensitivity.empty()) EmitText(&out, "file", options.sensitivity);
    out << YAML::EndMap;
  }
  EmitText(&out, "store", options.store);
  out << YAML::EndMap;
  return Checked(out);
}

Result<std::string> QuantizeRecipe(const QuantizeOptions& options) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  EmitCalibration(&out, options);
  out << YAML::Key << "steps" << YAML::Value << YAML::BeginSeq;
  std::vector<std::string> ignore = options.ignore;
  const bool rtn = options.method == "rtn";
  if (!rtn && options.method != "gptq" && options.method != "awq") {
    return InvalidArgument("--method: expected rtn | gptq | awq, found \"{}\"", options.method);
  }
  if (!rtn) {
    HARROW_RETURN_IF_ERROR(CheckWeights(options.weights));
    out << YAML::BeginMap;
    EmitText(&out, "method", options.method);
    EmitText(&out, "format", options.weights);
    Emit(&out, "group", options.group);
    Emit(&out, "symmetric", options.symmetric);
    if (options.method == "gptq") Emit(&out, "act_order", options.act_order);
    EmitStrings(&out, "targets", options.targets);
    EmitStrings(&out, "ignore", options.ignore);
    out << YAML::EndMap;
    // What is left is the embedding and the head: weights of blocks carry a number.
    ignore.push_back("re:\\.[0-9]+\\.");
  }
  if (rtn || (options.embed && options.targets.empty())) {
    HARROW_RETURN_IF_ERROR(EmitQuantizeStep(&out, options.weights, options.group, options.symmetric,
                                            options.embed, options.targets, ignore));
  }
  out << YAML::EndSeq;
  EmitText(&out, "store", options.store);
  out << YAML::EndMap;
  return Checked(out);
}

}  // namespace harrow
