// Sharing the sparsity of a recipe's pruning steps out among layers, before anything is compressed.
#ifndef HARROW_COMPRESS_ALLOCATION_H_
#define HARROW_COMPRESS_ALLOCATION_H_

#include <functional>
#include <string>
#include <vector>

#include "compress/calibration.h"
#include "compress/plan.h"
#include "compress/recipe.h"
#include "compress/statistics_observer.h"
#include "model/model.h"

namespace harrow {

// The allocation of one recipe over one model. Scores are numbers of the dense model, one a step
// and unit (a block, the embedding, the head).
class Allocation {
 public:
  // Called after each unit of work; an error stops the pass.
  using OnProgress = std::function<Status(const std::string& what, int64_t units)>;

  // Refuses, before any work, steps that cannot be allocated. Everything must outlive it;
  // recipe.allocation must be set.
  static Result<Allocation> Make(const Recipe& recipe, const Model& model,
                                 const CompressionPlan& plan);

  DenseNeed needs() const { return spec_->allocator->needs(); }
  // Units of work of ScoreDense, as `progress` counts them.
  int64_t units(int64_t samples) const;
  // Runs the dense model over the calibration (null without kActivations), one block in memory at a
  // time. `folder` is for hidden states that do not fit.
  Status ScoreDense(Model* model, const Calibration* calibration, const std::string& folder,
                    ForwardState* state, const OnProgress& progress);
  // The scores as JSON, for a run that continues this one; false when the text is not such scores.
  std::string SaveScores() const;
  bool LoadScores(const std::string& text);

  // Sets the plan's allocated sparsities; scores first, where needs() is not kNothing. Adds
  // warnings for a pattern that cannot express them and for caps of weights that no step prunes.
  Status Apply(CompressionPlan* plan) const;

 private:
  struct Unit {
    int32_t block = 0;  // config.layers: the head or the embedding
    std::vector<const LinearLayer*> layers;
  };
  struct Step {
    const RecipeStep* step = nullptr;
    std::vector<Unit> units;
    AllocationProblem problem;
  };
  Result<std::vector<Unit>> UnitsOf(const RecipeStep& step, const Model& model,
                                    const CompressionPlan& plan) const;
  // Gives the spec's caps to the layers of all steps.
  Status SetCaps(const Model& model);
  bool HasUnitIn(int32_t block) const;
  void Watch(const Block& block, StatisticsObserver* observer) const;
  Status ScoreBlock(int32_t block, StatisticsObserver* observer);

  const AllocationSpec* spec_ = nullptr;
  int32_t blocks_ = 0;
  std::vector<Step> steps_;
  std::vector<std::string> warnings_;  // for the plan
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_ALLOCATION_H_
