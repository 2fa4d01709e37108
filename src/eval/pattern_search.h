// `harrow sensitivity --patterns`: every pattern and method on one layer, at equal bytes and at
// equal measured time.
#ifndef HARROW_EVAL_PATTERN_SEARCH_H_
#define HARROW_EVAL_PATTERN_SEARCH_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/run_control.h"
#include "harrow/sensitivity.h"

namespace harrow {

Result<PatternReport> SearchLayerPatterns(const LoadedModel& model, const PatternOptions& options,
                                          const RunControl* control);

struct RatioAt {
  double sparsity = 0;
  double ratio = 1;
};
// Calls `measure` with sparsities until its ratio, which falls as the sparsity rises, is within
// `tolerance` (relative) of `budget`; until it returns none; or until what is known to be above and
// below the budget is no more than `step` apart. Does nothing where `known` meets the budget
// already.
Status ApproachBudget(double budget, double tolerance, double step,
                      const std::vector<RatioAt>& known,
                      const std::function<Result<std::optional<double>>(double)>& measure);

// Along the points of one pattern and method (any order): where `ratio` first falls to `budget` as
// the sparsity rises. Linear in sparsity and bytes, geometric in the error. Nothing where even the
// sparsest point is above the budget; the least sparse point where all are below it.
std::optional<PatternPoint> AtBudget(std::vector<PatternPoint> points, double PatternPoint::*ratio,
                                     double budget);

// Empty where `at`, what AtBudget found among `points` (not empty), meets the budget; otherwise by
// how much it does not.
std::string NoteOnBudget(const std::vector<PatternPoint>& points,
                         const std::optional<PatternPoint>& at, double PatternPoint::*ratio,
                         double budget);

std::string PatternPage(const PatternReport& report);

}  // namespace harrow

#endif  // HARROW_EVAL_PATTERN_SEARCH_H_
