// `harrow inspect`: what a model directory holds.
#ifndef HARROW_EVAL_INSPECT_H_
#define HARROW_EVAL_INSPECT_H_

#include <string>

#include "base/status.h"
#include "harrow/model.h"
#include "harrow/run_control.h"

namespace harrow {

Result<InspectReport> InspectModel(const std::string& path, const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_INSPECT_H_
