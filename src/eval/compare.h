// `harrow compare`: what compression changed, in bytes, accuracy and speed.
#ifndef HARROW_EVAL_COMPARE_H_
#define HARROW_EVAL_COMPARE_H_

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/eval.h"
#include "harrow/run_control.h"

namespace harrow {

// Both models see the ids of the dense model's tokenizer; InvalidArgument when the sparse model has
// a tokenizer that gives others. The models share a pool.
Result<CompareReport> CompareModels(const LoadedModel& dense, const LoadedModel& sparse,
                                    const CompareOptions& options, const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_COMPARE_H_
