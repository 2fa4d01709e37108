#include "compress/dense_stream.h"

#include "base/check.h"

namespace harrow {

Result<std::unique_ptr<DenseStream>> DenseStream::Create(const Model& model,
                                                         const Calibration& calibration,
                                                         const std::string& folder,
                                                         ForwardState* state) {
  std::unique_ptr<DenseStream> stream(new DenseStream(model, calibration, state));
  const int64_t length = calibration.sequence_length;
  stream->sequence_.resize(static_cast<size_t>(length * model.config().hidden));
  stream->kv_ = NewKvCache(model.config(), 1, length);
  HARROW_ASSIGN_OR_RETURN(
      stream->hidden_, HiddenStore::Create(calibration.samples(),
                                           static_cast<int64_t>(stream->sequence_.size()), folder));
  for (int64_t s = 0; s < calibration.samples(); ++s) {
    HARROW_RETURN_IF_ERROR(
        model.Embed(calibration.sequence(s), length, stream->sequence_.data()).At("calibration"));
    HARROW_RETURN_IF_ERROR(stream->hidden_->Write(s, stream->sequence_.data()));
  }
  return stream;
}

Status DenseStream::Run(int32_t b, int64_t s) {
  for (auto& [name, input] : inputs_)
    input.clear();
  HARROW_RETURN_IF_ERROR(hidden_->Read(s, sequence_.data()));
  HARROW_RETURN_IF_ERROR(model_.ForwardBlock(b, sequence_.data(), calibration_.sequence_length, 0,
                                             kv_.get(), 0, state_, this));
  return hidden_->Write(s, sequence_.data());
}

const float* DenseStream::Input(std::string_view name, int64_t token, int64_t m,
                                int64_t cols) const {
  const auto found = inputs_.find(name);
  HARROW_CHECK(found != inputs_.end() &&
               found->second.size() >= static_cast<size_t>((token + m) * cols));
  return found->second.data() + token * cols;
}

void DenseStream::OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) {
  const auto found = inputs_.find(name);
  if (found != inputs_.end()) found->second.insert(found->second.end(), x, x + m * k);
}

}  // namespace harrow
