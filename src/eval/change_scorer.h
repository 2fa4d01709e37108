// What changing the weights of some blocks does to a model's predictions, with the dense model as
// the measure, without running the unchanged blocks in front again.
#ifndef HARROW_EVAL_CHANGE_SCORER_H_
#define HARROW_EVAL_CHANGE_SCORER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "eval/divergence.h"
#include "harrow/run_control.h"
#include "model/model.h"

namespace harrow {

// Keeps, in float32, the hidden states of all scored tokens in front of one block and behind the
// last. Not thread safe.
class ChangeScorer {
 public:
  // Runs the model as it is over the first `windows` windows of `seqlen` tokens of `ids`, and
  // stands in front of block 0. `model` and `pool` must outlive it.
  static Result<std::unique_ptr<ChangeScorer>> Create(const Model* model, ThreadPool* pool,
                                                      const std::vector<int32_t>& ids,
                                                      int64_t seqlen, int64_t windows,
                                                      const RunControl* control);
  // Stands in front of block 0 again.
  Status Rewind();
  // Moves behind the block it stands in front of; the block must be as in Create.
  Status Advance();
  // The model as it is now (q) against what it was in Create (p); blocks in front of where it
  // stands must not have changed. A logit that is not finite is kNumerical.
  Result<DivergenceReport> Score();

 private:
  ChangeScorer(const Model* model, ThreadPool* pool, const std::vector<int32_t>& ids,
               int64_t seqlen, int64_t windows, const RunControl* control);
  Status RunBlocks(int32_t begin, int32_t end, float* hidden);

  const Model* model_;
  ThreadPool* pool_;
  const RunControl* control_;
  int64_t seqlen_;
  int64_t windows_;
  int32_t next_ = 0;  // the block it stands in front of
  std::vector<int32_t> ids_;
  std::unique_ptr<ForwardState, void (*)(ForwardState*)> state_;
  std::unique_ptr<KvStore> kv_;   // one layer
  std::vector<float> front_;      // [windows, seqlen, hidden]
  std::vector<float> dense_;      // behind the last block
  std::vector<float> changed_;    // one window
  std::vector<float> logits_[2];  // some positions
};

}  // namespace harrow

#endif  // HARROW_EVAL_CHANGE_SCORER_H_
