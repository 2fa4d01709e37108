// Calibration sequences for a model, as a recipe asks for them.
#ifndef HARROW_COMPRESS_MODEL_CALIBRATION_H_
#define HARROW_COMPRESS_MODEL_CALIBRATION_H_

#include <string>

#include "base/run_control.h"
#include "base/status.h"
#include "compress/calibration.h"
#include "harrow/compress.h"
#include "model/model.h"

namespace harrow {

struct ModelCalibration {
  Calibration calibration;
  CalibrationReport report;
};

// Takes the sequences with the tokenizer of options.model and writes their ids to
// options.save_calibration, if that is given; a sequence_length of 0 becomes the
// model's context, at most 2048 tokens, and one beyond the context is an error.
Result<ModelCalibration> CalibrateFor(const CalibrationSpec& spec, const ModelConfig& config,
                                      const CompressOptions& options, const RunControl& control);

}  // namespace harrow

#endif  // HARROW_COMPRESS_MODEL_CALIBRATION_H_
