#include "compress/model_calibration.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "text/tokenizer.h"

namespace harrow {

Result<ModelCalibration> CalibrateFor(const CalibrationSpec& spec, const ModelConfig& config,
                                      const CompressOptions& options, const RunControl& control) {
  constexpr int64_t kDefaultSequenceLength = 2048;
  const int64_t context = config.max_context;
  if (spec.sequence_length > context) {
    return InvalidArgument("calibration.sequence_length: {} exceeds the model's context of {}",
                           spec.sequence_length, context);
  }
  const int64_t length =
      spec.sequence_length > 0 ? spec.sequence_length : std::min(context, kDefaultSequenceLength);
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer,
                          LoadTokenizer(options.model));
  Result<Calibration> taken = TakeCalibration(spec, length, *tokenizer, &control);
  if (!taken.ok()) return taken.status().At("calibration");
  ModelCalibration result{std::move(taken).value(), {}};
  CalibrationReport& report = result.report;
  report.file = spec.file;
  report.text_hash = fmt::format("{:016x}", result.calibration.text_hash);
  report.mode = spec.mode == CalibrationMode::kConcat ? "concat" : "papers";
  report.seed = spec.seed;
  report.samples = result.calibration.samples();
  report.sequence_length = length;
  report.tokens = report.samples * length;
  report.documents = result.calibration.documents;
  report.rejected_documents = result.calibration.rejected_documents;
  report.tokenizer = tokenizer->kind();
  if (!options.save_calibration.empty()) {
    HARROW_RETURN_IF_ERROR(
        WriteFileAtomically(options.save_calibration, CalibrationJson(result.calibration)));
  }
  return result;
}

}  // namespace harrow
