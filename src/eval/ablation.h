// `harrow ablate`: a recipe with parts left out.
#ifndef HARROW_EVAL_ABLATION_H_
#define HARROW_EVAL_ABLATION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "compress/recipe.h"
#include "eval/divergence.h"
#include "harrow/ablation.h"
#include "harrow/run_control.h"

namespace harrow {

// `machine` has been applied to the process; `pool` has its threads.
Result<AblationReport> MeasureAblation(const AblationOptions& options,
                                       std::shared_ptr<ThreadPool> pool, const RunControl* control);

// Empty, or why there is no "sparsity alone" and "quantization alone": all steps are of one kind,
// or one of them is both.
std::string WhyNotSplit(const Recipe& recipe);

// The recipe (JSON, as Recipe::canonical) with only the steps that `keep` says, by index. Each
// step's `ignore` gets `ignore` as well, where that is not empty.
std::string RecipeVariant(const Recipe& recipe, const std::function<bool(size_t)>& keep,
                          const std::string& ignore);

// Whether loss increases add, by window: nats a token of the three models and the dense one.
Additivity JudgeAdditivity(const DivergenceReport& sparsity, const DivergenceReport& quantization,
                           const DivergenceReport& both);

std::string AblationPage(const AblationReport& report);

}  // namespace harrow

#endif  // HARROW_EVAL_ABLATION_H_
