// The calibration sequences on their way through a model, block by block.
#ifndef HARROW_COMPRESS_CALIBRATION_RUN_H_
#define HARROW_COMPRESS_CALIBRATION_RUN_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compress/calibration.h"
#include "compress/hidden_store.h"
#include "compress/statistics_observer.h"
#include "model/model.h"

namespace harrow {

// Holds the hidden states in front of one block. Not thread safe.
class CalibrationRun {
 public:
  // Called after each sequence; an error (a cancelled run) stops the pass.
  using OnSequence = std::function<Status()>;

  // Embeds all sequences. Hidden states that do not fit in memory wait in a file in `folder`.
  // `model` and `calibration` must outlive it.
  static Result<std::unique_ptr<CalibrationRun>> Start(const Model& model,
                                                       const Calibration& calibration,
                                                       const std::string& folder);

  // Runs block `b` (loaded) as it is; `observer`, which may be null, sees its inputs and is
  // finished. With `advance` the hidden states are then those behind the block.
  Status RunBlock(int32_t b, ForwardState* state, StatisticsObserver* observer, bool advance,
                  const OnSequence& on_sequence);
  // Shows the head's input, the last block's output after the final norm, to `observer`.
  Status ObserveHead(StatisticsObserver* observer, const OnSequence& on_sequence);

 private:
  CalibrationRun(const Model& model, const Calibration& calibration)
      : model_(model), calibration_(calibration) {}
  const Model& model_;
  const Calibration& calibration_;
  std::unique_ptr<KvStore> kv_;  // one layer, reused by every block and sequence
  std::unique_ptr<HiddenStore> hidden_;
  std::vector<float> sequence_;  // [sequence_length, hidden]
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_CALIBRATION_RUN_H_
