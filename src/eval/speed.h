// Tokens per second of one or more models, measured in turn, and the memory roof beside them.
#ifndef HARROW_EVAL_SPEED_H_
#define HARROW_EVAL_SPEED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "eval/loaded_model.h"
#include "harrow/run_control.h"
#include "kernels/memory_roof.h"

namespace harrow {

struct SpeedPlan {
  int64_t n_prompt = 0;  // 0: no prefill measurement
  int64_t n_gen = 0;     // 0: no decode measurement
  int64_t repetitions = 1;
  // A repetition measures its tokens again, each time from an empty cache, until this has passed.
  double min_seconds = 0;
  int64_t batch_size = 512;
  KvType cache_type = KvType::kBf16;  // as `harrow run` has it
  uint64_t seed = 0;                  // of the random token ids
};

// One entry a repetition; entry i of every model was measured in the same round.
struct SpeedSamples {
  std::vector<double> prefill_tps;
  std::vector<double> decode_tps;
  std::vector<double> roof_gbps;  // probed right after each decode measurement; empty without roof
};

// Prefill: n_prompt random tokens into an empty cache, logits of the last. Decode: n_gen single
// tokens from an empty cache. Each round measures every model, in alternating order, after one
// uncounted warm-up. `roof` may be null. All models share one pool. Fails when a length exceeds a
// model's context.
Result<std::vector<SpeedSamples>> MeasureSpeed(const std::vector<const LoadedModel*>& models,
                                               const SpeedPlan& plan, MemoryRoof* roof,
                                               const RunControl* control);

// In words, for people: "1.31 x (1.25 to 1.40): faster here", without the median where it is
// TooNoisy.
std::string SpeedVerdict(const RatioSpread& ratio, int64_t repetitions);

}  // namespace harrow

#endif  // HARROW_EVAL_SPEED_H_
