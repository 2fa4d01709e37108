#include "compress/recipe.h"

#include <algorithm>
#include <charconv>
#include <regex>
#include <sstream>

#include <yaml-cpp/eventhandler.h>

#include "base/mapped_file.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

constexpr size_t kMaxRecipeBytes = 1 << 20;
constexpr std::string_view kRegexPrefix = "re:";
// std::regex recurses over the expression; a hostile one must not exhaust the stack.
constexpr size_t kMaxRegexBytes = 256;

class NoEvents final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

CalibrationSpec ReadCalibration(OptionReader* options) {
  CalibrationSpec spec;
  spec.file = options->String("file", "");
  if (spec.file.empty()) options->Fail("file", "missing; the text to calibrate on (.jsonl, .txt)");
  spec.mode = options->Choice("mode", "papers", {"papers", "concat"}) == "concat"
                  ? CalibrationMode::kConcat
                  : CalibrationMode::kPapers;
  spec.samples = options->Integer("samples", spec.samples, 1, 1 << 20);
  spec.sequence_length = options->Integer("sequence_length", spec.sequence_length, 0, 1 << 20);
  spec.seed = options->Integer("seed", spec.seed, 0);
  return spec;
}

void CheckEntries(OptionReader* options, std::string_view key,
                  const std::vector<std::string>& entries) {
  for (const std::string& entry : entries) {
    if (!entry.starts_with(kRegexPrefix)) continue;
    const std::string expression = entry.substr(kRegexPrefix.size());
    if (expression.empty() || expression.size() > kMaxRegexBytes) {
      options->Fail(key, fmt::format("a regular expression must have 1 to {} characters, not {}",
                                     kMaxRegexBytes, expression.size()));
      return;
    }
    try {
      const std::regex compiled(expression, std::regex::ECMAScript);
    } catch (const std::exception& error) {
      options->Fail(
          key, fmt::format("\"{}\" is not a regular expression: {}", expression, error.what()));
      return;
    }
  }
}

// The entry of a registry that the key `method` names. Null, with a mistake recorded, when none is.
template <class Info>
const Info* ReadMethod(OptionReader* options, const Info* (*find)(std::string_view),
                       std::span<const Info> all, std::string* name) {
  *name = options->String("method", "");
  const Info* const found = find(*name);
  if (found != nullptr) return found;
  std::string names;
  for (const Info& info : all)
    names += (names.empty() ? "" : " | ") + std::string(info.name);
  options->Fail("method", name->empty() ? fmt::format("missing; expected {}", names)
                                        : fmt::format("expected {}, found \"{}\"", names, *name));
  return nullptr;
}

Result<RecipeStep> ReadStep(const YAML::Node& node, const std::string& where, size_t index,
                            nlohmann::ordered_json* canonical) {
  OptionReader options(node, where, fmt::format("steps[{}]", index));
  RecipeStep step;
  step.where = options.Location();
  const MethodInfo* info = ReadMethod(&options, FindMethod, AllMethods(), &step.method_name);
  if (info == nullptr) return options.Finish();
  step.method = info->make(&options);
  step.targets = options.Strings("targets");
  step.ignore = options.Strings("ignore");
  CheckEntries(&options, "targets", step.targets);
  CheckEntries(&options, "ignore", step.ignore);
  HARROW_RETURN_IF_ERROR(options.Finish());
  canonical->push_back(options.values());
  return step;
}

// The steps named by `steps`, or all that have a target; those that cannot be named are mistakes.
std::vector<size_t> ReadAllocatedSteps(OptionReader* options,
                                       const std::vector<RecipeStep>& steps) {
  std::vector<size_t> chosen;
  if (options->Has("steps")) {
    for (const std::string& text : options->Strings("steps")) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
      if (error != std::errc() || end != text.data() + text.size() || index >= steps.size() ||
          std::count(chosen.begin(), chosen.end(), index) != 0) {
        options->Fail("steps", fmt::format("expected different numbers of steps from 0 to {}, "
                                           "found \"{}\"",
                                           steps.size() - 1, text.substr(0, 60)));
        return {};
      }
      if (steps[index].method->target() == nullptr) {
        options->Fail("steps", fmt::format("step {} ({}) has no sparsity to share out", index,
                                           steps[index].method_name));
        return {};
      }
      chosen.push_back(index);
    }
  } else {
    for (size_t i = 0; i < steps.size(); ++i) {
      if (steps[i].method->target() != nullptr) chosen.push_back(i);
    }
    if (chosen.empty()) options->Fail("method", "no step has a sparsity to share out");
  }
  return chosen;
}

// The keys `min` and `max`; one of them must be given where `match` names layers.
SparsityCaps ReadCaps(OptionReader* options, std::string key, std::vector<std::string> match) {
  SparsityCaps caps = {std::move(key), std::move(match), {}, {}};
  for (const auto& [name, cap] : {std::pair("min", &caps.min), std::pair("max", &caps.max)}) {
    if (!options->Has(name)) continue;
    *cap = options->Number(name, 0, 0, 1);
    if (**cap >= 1) options->Fail(name, "expected a sparsity below 1");
  }
  if (!caps.match.empty() && !caps.min && !caps.max) {
    options->Fail("max", "missing; give `min` or `max` or both");
  }
  if (caps.min && caps.max && *caps.min > *caps.max) {
    options->Fail("min", fmt::format("{} is above max, {}", *caps.min, *caps.max));
  }
  return caps;
}

AllocationSpec ReadAllocation(OptionReader* options, const std::vector<RecipeStep>& steps) {
  AllocationSpec spec;
  spec.where = options->Location();
  const AllocatorInfo* info =
      ReadMethod(options, FindAllocator, AllAllocators(), &spec.method_name);
  if (info == nullptr) return spec;
  spec.steps = ReadAllocatedSteps(options, steps);
  int64_t with_nm = 0;
  for (const size_t index : spec.steps)
    with_nm += steps[index].method->target()->pattern.nm.has_value();
  if (with_nm != 0 && with_nm != static_cast<int64_t>(spec.steps.size())) {
    options->Fail("steps",
                  "N:M and other steps cannot share an allocation; name those of one kind");
  }
  spec.caps.push_back(ReadCaps(options, "", {}));
  options->NestedList("caps", 1000, [&spec](OptionReader* entry, size_t index) {
    std::vector<std::string> match = entry->Strings("match");
    if (match.empty()) entry->Fail("match", "missing; expected names of weights or re:REGEX");
    CheckEntries(entry, "match", match);
    spec.caps.push_back(ReadCaps(entry, fmt::format("caps[{}].", index), std::move(match)));
  });
  spec.embed = options->Boolean("embed", false);
  spec.allocator = info->make(options, with_nm != 0);
  return spec;
}

Result<StructureStep> ReadStructureStep(const YAML::Node& node, const std::string& where,
                                        size_t index) {
  OptionReader options(node, where, fmt::format("structure[{}]", index));
  StructureStep step;
  step.where = options.Location();
  const StructureInfo* info =
      ReadMethod(&options, FindStructureMethod, AllStructureMethods(), &step.method_name);
  if (info == nullptr) return options.Finish();
  step.method = info->make(&options);
  HARROW_RETURN_IF_ERROR(options.Finish());
  step.canonical = options.values().dump();
  return step;
}

Result<Recipe> ReadRecipe(const YAML::Node& root, const std::string& where) {
  OptionReader options(root, where, "");
  Recipe recipe;
  const YAML::Node calibration = options.Child("calibration");
  const YAML::Node structure = options.Child("structure");
  const YAML::Node steps = options.Child("steps");
  const YAML::Node allocation = options.Child("allocation");
  const std::string store = options.Choice("store", "auto", {"auto", "fast", "dense"});
  recipe.store = store == "dense" ? Store::kDense : store == "fast" ? Store::kFast : Store::kSmall;
  recipe.output_error = options.Boolean("output_error", false);
  if (structure.IsDefined() &&
      (!structure.IsSequence() || structure.size() == 0 || structure.size() > 100)) {
    options.Fail("structure", "expected a list of 1 to 100 structural steps");
  }
  if (!steps.IsDefined()) {
    if (!structure.IsDefined()) {
      options.Fail("steps", "missing; expected a list of at least one step");
    }
  } else if (!steps.IsSequence() || steps.size() == 0 || steps.size() > 1000) {
    options.Fail("steps", "expected a list of 1 to 1000 steps");
  }
  HARROW_RETURN_IF_ERROR(options.Finish());

  nlohmann::ordered_json canonical = nlohmann::ordered_json::object();
  if (calibration.IsDefined()) {
    OptionReader reader(calibration, where, "calibration");
    recipe.calibration = ReadCalibration(&reader);
    HARROW_RETURN_IF_ERROR(reader.Finish());
    canonical["calibration"] = reader.values();
  }
  bool needs_calibration = recipe.output_error;
  for (size_t i = 0; i < (structure.IsDefined() ? structure.size() : 0); ++i) {
    HARROW_ASSIGN_OR_RETURN(StructureStep step, ReadStructureStep(structure[i], where, i));
    canonical["structure"].push_back(nlohmann::ordered_json::parse(step.canonical));
    needs_calibration = true;
    recipe.structure.push_back(std::move(step));
  }
  nlohmann::ordered_json canonical_steps = nlohmann::ordered_json::array();
  for (size_t i = 0; i < (steps.IsDefined() ? steps.size() : 0); ++i) {
    HARROW_ASSIGN_OR_RETURN(RecipeStep step, ReadStep(steps[i], where, i, &canonical_steps));
    needs_calibration = needs_calibration || step.method->needs() != StatisticsNeed::kNone ||
                        step.method->block_method() != nullptr;
    recipe.steps.push_back(std::move(step));
  }
  if (allocation.IsDefined()) {
    OptionReader reader(allocation, where, "allocation");
    recipe.allocation = ReadAllocation(&reader, recipe.steps);
    HARROW_RETURN_IF_ERROR(reader.Finish());
    canonical["allocation"] = reader.values();
    needs_calibration =
        needs_calibration || recipe.allocation->allocator->needs() == DenseNeed::kActivations;
  }
  if (needs_calibration && !recipe.calibration) {
    return InvalidArgument(
        "{}: calibration: missing; {} needs it. Add `calibration: {{file: text.jsonl}}`",
        options.Location(),
        recipe.output_error ? "output_error" : "a method of the recipe or the allocation");
  }
  if (!canonical_steps.empty()) canonical["steps"] = canonical_steps;
  for (const auto& [key, value] : options.values().items())
    canonical[key] = value;
  recipe.canonical = canonical.dump(1);  // throws on what is not UTF-8
  return recipe;
}

}  // namespace

Result<Recipe> ParseRecipe(std::string_view yaml, const std::string& where) {
  if (yaml.size() > kMaxRecipeBytes) {
    return InvalidArgument("{}: {} bytes; a recipe has at most {}", where, yaml.size(),
                           kMaxRecipeBytes);
  }
  // YAML has no control characters; yaml-cpp takes some for the end of input and then never ends.
  for (size_t i = 0; i < yaml.size(); ++i) {
    const auto c = static_cast<unsigned char>(yaml[i]);
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
      return InvalidArgument("{}:{}: control character 0x{:02x}; a recipe is UTF-8 text", where,
                             1 + std::count(yaml.begin(), yaml.begin() + i, '\n'), c);
    }
  }
  try {
    // Documents are counted one by one, as YAML::LoadAll never comes back from some texts ("!,").
    std::istringstream stream{std::string(yaml)};
    YAML::Parser parser(stream);
    NoEvents ignored;
    if (!parser.HandleNextDocument(ignored)) {
      return InvalidArgument("{}: expected one YAML mapping with `steps`, found an empty document",
                             where);
    }
    if (parser.HandleNextDocument(ignored)) {
      return InvalidArgument("{}: expected one YAML mapping with `steps`, found several documents",
                             where);
    }
    return ReadRecipe(YAML::Load(std::string(yaml)), where);
  } catch (const YAML::Exception& error) {
    return InvalidArgument("{}:{}: not YAML: {}", where, error.mark.line + 1, error.msg);
  } catch (const std::exception& error) {
    return InvalidArgument("{}: not a recipe: {}", where, error.what());
  }
}

Result<Recipe> LoadRecipe(const std::string& path) {
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxRecipeBytes));
  return ParseRecipe(text, path);
}

RecipeMessage SplitRecipeMessage(const std::string& message) {
  static const std::regex line(std::string(kUnnamedRecipe) + R"(:\d+: )");
  // An allocator's message about a step names both: "allocation: steps[0]: ".
  static const std::regex place(
      R"(^(store|calibration|allocation|steps\[\d+\])(?:\.([a-z_]+))?: (?:steps\[\d+\]: )?)");
  RecipeMessage split;
  split.text = std::regex_replace(message, line, "");
  std::smatch match;
  if (!std::regex_search(split.text, match, place)) return split;
  split.part = match[1].str();
  split.key = match[2].str();
  split.text = match.suffix().str();
  return split;
}

bool MatchesExactly(const std::string& entry, const std::string& name) {
  return entry == name || entry + ".weight" == name;
}

Result<bool> MatchesRegex(const std::string& entry, const std::string& name) {
  if (!entry.starts_with(kRegexPrefix)) return false;
  try {
    return std::regex_search(name, std::regex(entry.substr(kRegexPrefix.size())));
  } catch (const std::exception& error) {
    return InvalidArgument("\"{}\" cannot be matched with {}: {}", entry, name, error.what());
  }
}

Result<bool> MatchesAny(const std::vector<std::string>& entries, const std::string& name,
                        bool regex) {
  for (const std::string& entry : entries) {
    if (MatchesExactly(entry, name)) return true;
    if (!regex) continue;
    HARROW_ASSIGN_OR_RETURN(const bool matches, MatchesRegex(entry, name));
    if (matches) return true;
  }
  return false;
}

}  // namespace harrow
