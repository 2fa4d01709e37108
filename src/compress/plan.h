// Which steps of a recipe apply to which weight of a model.
#ifndef HARROW_COMPRESS_PLAN_H_
#define HARROW_COMPRESS_PLAN_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/recipe.h"
#include "model/model.h"

namespace harrow {

struct LayerPlan {
  std::vector<const RecipeStep*> steps;  // in the recipe's order, at least one
  // What an allocator gives the layer in place of the sparsity that a step asks for.
  std::map<const RecipeStep*, double> allocated;
  StatisticsNeed need = StatisticsNeed::kNone;
};

// A step that works on whole blocks, after all other steps.
struct BlockStep {
  const RecipeStep* step = nullptr;
  std::set<std::string> names;  // weights that it may change: its targets that other steps compress
};

struct CompressionPlan {
  std::map<std::string, LayerPlan> layers;  // by weight name; only weights that have steps
  std::vector<BlockStep> block_steps;       // in the recipe's order
  std::vector<std::string> warnings;

  // Whether a step needs the dense model's inputs.
  bool NeedsDenseStream() const;
  // Whether a block step may change a weight of the block.
  bool HasBlockSteps(const Block& block) const;
  const LayerPlan* Find(const std::string& name) const;
  StatisticsNeed NeedOf(const std::string& name) const;
  // All allocated sparsities, exact; empty when there are none.
  std::string AllocationText() const;
};

// Refuses, before any work, targets that match nothing, weights that a method cannot do, and
// pruning after quantization. The recipe must outlive the plan. Without `check_sizes` weights may
// have any size: those of `model` will change before the plan that counts is made.
Result<CompressionPlan> MakePlan(const Recipe& recipe, const Model& model, bool check_sizes = true);

}  // namespace harrow

#endif  // HARROW_COMPRESS_PLAN_H_
