// `harrow sensitivity`: what compressing one part of a model alone does to its predictions.
#ifndef HARROW_EVAL_SENSITIVITY_H_
#define HARROW_EVAL_SENSITIVITY_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/recipe.h"
#include "eval/divergence.h"
#include "eval/loaded_model.h"
#include "harrow/run_control.h"
#include "harrow/sensitivity.h"

namespace harrow {

// The model is wholly loaded; its weights are as before when this returns a report.
Result<SensitivityReport> MeasureSensitivity(LoadedModel* model, const SensitivityOptions& options,
                                             const RunControl* control);

// Fails unless there is one at least and all are fractions of weights to zero.
Status CheckSparsities(const std::vector<double>& sparsities);

// As recipes read it; nothing where no file is given.
Result<std::optional<CalibrationSpec>> ReadLayerCalibration(const LayerCalibration& calibration);

// "self_attn.q_proj" of "model.layers.3.self_attn.q_proj.weight" in block 3; "model.layers.3." is
// the prefix.
std::string BlockPrefix(const std::string& name, int32_t block);
std::string ProjectionName(const std::string& name, int32_t block);

// The heat-map of a report: one row a part, one column a sparsity, coloured by KL on a logarithmic
// scale.
std::string SensitivityPage(const SensitivityReport& report);

}  // namespace harrow

#endif  // HARROW_EVAL_SENSITIVITY_H_
