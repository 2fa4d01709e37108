// A recipe: calibration, then named steps, each a method with its options and the weights it is
// for. docs/recipes.md is the reference of its YAML form.
#ifndef HARROW_COMPRESS_RECIPE_H_
#define HARROW_COMPRESS_RECIPE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "compress/allocators/allocator.h"
#include "compress/methods/method.h"
#include "compress/storage.h"
#include "compress/structure/structure.h"

namespace harrow {

// How calibration sequences are taken from documents.
enum class CalibrationMode : uint8_t {
  kPapers,  // a random crop of a random document that has more tokens than a sequence
  kConcat,  // documents in random order, joined and cut
};

struct CalibrationSpec {
  std::string file;
  CalibrationMode mode = CalibrationMode::kPapers;
  int64_t samples = 128;
  int64_t sequence_length = 0;  // tokens; 0: the model's context, at most 2048
  int64_t seed = 0;
};

struct RecipeStep {
  std::string method_name;
  std::string where;  // "recipe.yaml:3: steps[0]"
  // Names of weights, with or without ".weight", or "re:" and a regular expression.
  std::vector<std::string> targets;
  std::vector<std::string> ignore;
  std::unique_ptr<Method> method;
};

// Bounds of the sparsity of the layers that `match` means: names or regular expressions, as in
// RecipeStep::targets; all layers where it is empty.
struct SparsityCaps {
  std::string key;  // before ".min" in messages: "caps[0]."; empty for the general ones
  std::vector<std::string> match;
  std::optional<double> min;
  std::optional<double> max;
};

// How pruning steps share their sparsity out among layers.
struct AllocationSpec {
  std::string method_name;
  std::string where;               // "recipe.yaml:3: allocation"
  std::vector<size_t> steps;       // whose methods have a target(): all with N:M or none
  std::vector<SparsityCaps> caps;  // each bound from the last that gives it to a layer
  bool embed = false;              // embedding and head take part, where a step prunes them
  std::unique_ptr<Allocator> allocator;
};

struct StructureStep {
  std::string method_name;
  std::string where;      // "recipe.yaml:3: structure[0]"
  std::string canonical;  // the step with defaults filled in, JSON
  std::unique_ptr<StructureMethod> method;
};

struct Recipe {
  std::optional<CalibrationSpec> calibration;
  std::optional<AllocationSpec> allocation;
  std::vector<StructureStep> structure;  // done before `steps`, on the whole model
  std::vector<RecipeStep> steps;         // may be empty only where there is a structure
  Store store = Store::kSmall;
  bool output_error = false;  // gather Hessians for every rewritten layer, to report its error
  // The whole recipe with defaults filled in: JSON, which is YAML that parses to the same recipe.
  std::string canonical;
};

// `where` names the source in errors.
Result<Recipe> ParseRecipe(std::string_view yaml, const std::string& where);
Result<Recipe> LoadRecipe(const std::string& path);

// The name of a recipe that no file holds, for `where` of ParseRecipe.
inline constexpr char kUnnamedRecipe[] = "recipe";

// A message about an unnamed recipe, taken apart for callers whose users wrote flags, not a recipe:
// "recipe:3: steps[0].sparsity: expected ..." is about steps[0] and its key sparsity.
struct RecipeMessage {
  std::string part;  // "steps[0]", "calibration", "allocation", "store"; empty: of no single part
  std::string key;   // of that part; empty: the part as a whole
  std::string text;  // without any "recipe:3: "
};
RecipeMessage SplitRecipeMessage(const std::string& message);

// Whether a target or ignore entry of a recipe means the weight `name`. Regular expressions match
// anywhere in the name. Invalid ones are refused by ParseRecipe; one that is too
// complex for this name is an error here.
bool MatchesExactly(const std::string& entry, const std::string& name);
Result<bool> MatchesRegex(const std::string& entry, const std::string& name);
// Whether any of the entries does; regular expressions count only where `regex` is set.
Result<bool> MatchesAny(const std::vector<std::string>& entries, const std::string& name,
                        bool regex);

}  // namespace harrow

#endif  // HARROW_COMPRESS_RECIPE_H_
