// `harrow run` and `harrow score`: text in, text or likelihoods out.
#ifndef HARROW_EVAL_GENERATE_H_
#define HARROW_EVAL_GENERATE_H_

#include <functional>
#include <string_view>

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/model.h"
#include "harrow/run_control.h"

namespace harrow {

Result<GenerateReport> GenerateText(const LoadedModel& model, const GenerateOptions& options,
                                    const std::function<void(std::string_view)>& on_output,
                                    const RunControl* control);
Result<ScoreReport> ScoreText(const LoadedModel& model, const ScoreOptions& options);

}  // namespace harrow

#endif  // HARROW_EVAL_GENERATE_H_
