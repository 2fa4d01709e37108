// One sequence being generated or scored: tokens in, logits out, keys and values kept in between.
#ifndef HARROW_RUNTIME_SESSION_H_
#define HARROW_RUNTIME_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "harrow/run_control.h"
#include "model/model.h"
#include "runtime/sampler.h"

namespace harrow {

struct SessionOptions {
  int64_t max_tokens = 0;  // capacity of the cache; 0: the model's context
  int64_t batch = 512;     // tokens processed at once in prefill
  KvType cache_type = KvType::kF32;
};

// The element type of a cache from a user's --cache-type. Errors: an unknown name; a type that
// cannot hold the model's heads.
Result<KvType> ResolveCacheType(std::string_view name, const ModelConfig& config);

// Not thread safe. `model` and `pool` must outlive it. A call that fails leaves the sequence as it
// was.
class Session {
 public:
  Session(const Model* model, ThreadPool* pool, const SessionOptions& options);
  ~Session();

  // Appends tokens and returns the logits [vocab] after the last one (valid until the next call).
  // Errors: no tokens; an id outside the vocabulary; ResourceLimit when they do not fit.
  Result<const float*> Append(const int32_t* ids, int64_t count);
  // Appends tokens and calls visit(i, logits) with the logits [vocab] after each ids[i], in order;
  // `logits` is valid during the call. Holds a bounded number of rows of logits at a time.
  Status AppendAll(const int32_t* ids, int64_t count,
                   const std::function<void(int64_t i, const float* logits)>& visit);
  int64_t position() const;  // tokens so far
  int64_t capacity() const;  // tokens that fit
  int64_t batch() const;
  const Model& model() const;
  // Forgets all but the first `tokens` <= position(), keeps the memory.
  void Rewind(int64_t tokens);
  void Reset() { Rewind(0); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;  // passed to on_token
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of the new tokens after the first, on_token excluded
};
// Runs the prompt, then samples until `max_new_tokens`, a stop id (not passed on), the context's
// end or cancellation; the last three end it normally. `on_token` is called for each new token and
// may return false to stop. Continues the session's sequence. Errors: those of Append; kCancelled
// during the prompt; kNumerical when logits are not finite. `on_token` and `control` may be null.
Result<GenerateStats> Generate(Session* session, const std::vector<int32_t>& prompt,
                               int64_t max_new_tokens, const std::vector<int32_t>& stop_ids,
                               Sampler* sampler, const std::function<bool(int32_t id)>& on_token,
                               const RunControl* control);

// NLL in nats of ids[i] given ids[0..i), i = 1 .. n-1; the first has none. Result[i] belongs to
// ids[i + 1]. Resets the session first. From float32 logits by a double log-sum-exp. Errors: those
// of AppendAll; kNumerical when an NLL is not finite.
Result<std::vector<double>> ScoreTokens(Session* session, const std::vector<int32_t>& ids);

}  // namespace harrow

#endif  // HARROW_RUNTIME_SESSION_H_
