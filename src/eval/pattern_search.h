// `harrow sensitivity --patterns`: every pattern and method on one layer, at equal bytes and at
// equal measured time.
#ifndef HARROW_EVAL_PATTERN_SEARCH_H_
#define HARROW_EVAL_PATTERN_SEARCH_H_

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

// Along the points of one pattern and method (any order): where `ratio` first falls to `budget` as
// the sparsity rises. Linear in sparsity and bytes, geometric in the error. Nothing where even the
// sparsest point is above the budget; the least sparse point where all are below it.
std::optional<PatternPoint> AtBudget(std::vector<PatternPoint> points, double PatternPoint::*ratio,
                                     double budget);

std::string PatternPage(const PatternReport& report);

}  // namespace harrow

#endif  // HARROW_EVAL_PATTERN_SEARCH_H_
