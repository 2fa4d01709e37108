#include "compress/calibration_run.h"

#include "kernels/elementwise.h"

namespace harrow {

Result<std::unique_ptr<CalibrationRun>> CalibrationRun::Start(const Model& model,
                                                              const Calibration& calibration,
                                                              const std::string& folder) {
  std::unique_ptr<CalibrationRun> run(new CalibrationRun(model, calibration));
  const int64_t length = calibration.sequence_length;
  run->sequence_.resize(static_cast<size_t>(length * model.config().hidden));
  run->kv_ = NewKvCache(model.config(), 1, length);
  HARROW_ASSIGN_OR_RETURN(run->hidden_,
                          HiddenStore::Create(calibration.samples(),
                                              static_cast<int64_t>(run->sequence_.size()), folder));
  for (int64_t s = 0; s < calibration.samples(); ++s) {
    HARROW_RETURN_IF_ERROR(
        model.Embed(calibration.sequence(s), length, run->sequence_.data()).At("calibration"));
    HARROW_RETURN_IF_ERROR(run->hidden_->Write(s, run->sequence_.data()));
  }
  return run;
}

Status CalibrationRun::RunBlock(int32_t b, ForwardState* state, StatisticsObserver* observer,
                                DenseStream* dense, bool advance, const OnSequence& on_sequence) {
  const bool watched = observer != nullptr && !observer->empty();
  for (int64_t s = 0; s < calibration_.samples(); ++s) {
    if (dense != nullptr) HARROW_RETURN_IF_ERROR(dense->Run(b, s));
    if (watched || advance) {
      HARROW_RETURN_IF_ERROR(hidden_->Read(s, sequence_.data()));
      HARROW_RETURN_IF_ERROR(model_.ForwardBlock(b, sequence_.data(), calibration_.sequence_length,
                                                 0, kv_.get(), 0, state, observer));
    }
    if (watched) HARROW_RETURN_IF_ERROR(observer->EndSequence());
    if (advance) HARROW_RETURN_IF_ERROR(hidden_->Write(s, sequence_.data()));
    HARROW_RETURN_IF_ERROR(on_sequence());
  }
  if (observer != nullptr) observer->Finish();
  return OkStatus();
}

Status CalibrationRun::ObserveHead(StatisticsObserver* observer, const OnSequence& on_sequence) {
  const ModelConfig& config = model_.config();
  const int64_t length = calibration_.sequence_length;
  for (int64_t s = 0; s < calibration_.samples(); ++s) {
    HARROW_RETURN_IF_ERROR(hidden_->Read(s, sequence_.data()));
    RmsNorm(sequence_.data(), model_.final_norm().data(), config.rms_eps, length, config.hidden,
            sequence_.data());
    observer->OnLinearInput(model_.head().name, sequence_.data(), length, config.hidden);
    HARROW_RETURN_IF_ERROR(observer->EndSequence());
    HARROW_RETURN_IF_ERROR(on_sequence());
  }
  observer->Finish();
  return OkStatus();
}

}  // namespace harrow
