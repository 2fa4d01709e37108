// The dense model's hidden states and linear inputs, block by block beside the compressed model's.
#ifndef HARROW_COMPRESS_DENSE_STREAM_H_
#define HARROW_COMPRESS_DENSE_STREAM_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/calibration.h"
#include "compress/hidden_store.h"
#include "model/model.h"

namespace harrow {

// Every block must be run with its original weights, all sequences in turn. Not thread safe.
class DenseStream final : public Observer {
 public:
  // Embeds the sequences. Keeps references to all but `folder`.
  static Result<std::unique_ptr<DenseStream>> Create(const Model& model,
                                                     const Calibration& calibration,
                                                     const std::string& folder,
                                                     ForwardState* state);
  // Inputs of this linear are to be kept from now on; until ClearWatched().
  void Watch(const std::string& name) { inputs_[name]; }
  void ClearWatched() { inputs_.clear(); }
  // Takes sequence s through block b.
  Status Run(int32_t b, int64_t s);
  // The watched linear's input in the sequence that was run last, from token `token` on, of which
  // there must be `m`.
  const float* Input(std::string_view name, int64_t token, int64_t m, int64_t cols) const;

  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override;

 private:
  DenseStream(const Model& model, const Calibration& calibration, ForwardState* state)
      : model_(model), calibration_(calibration), state_(state) {}

  const Model& model_;
  const Calibration& calibration_;
  ForwardState* state_;
  std::unique_ptr<KvStore> kv_;
  std::unique_ptr<HiddenStore> hidden_;
  std::vector<float> sequence_;  // [sequence_length, hidden]
  std::map<std::string, std::vector<float>, std::less<>> inputs_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_DENSE_STREAM_H_
