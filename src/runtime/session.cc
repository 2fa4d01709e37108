#include "runtime/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "base/buffer.h"
#include "base/check.h"
#include "kernels/elementwise.h"

namespace harrow {
namespace {

// Logits held at once by AppendAll: enough rows for the head to run as a matrix product.
constexpr int64_t kLogitsFloats = 4 << 20;
constexpr int64_t kLeastLogitsRows = 16;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

}  // namespace

struct Session::Impl {
  Impl(const Model* m, ThreadPool* pool, int64_t capacity_tokens, int64_t batch_tokens,
       KvType cache_type)
      : model(m),
        capacity(capacity_tokens),
        batch(batch_tokens),
        kv(NewKvCache(m->config(), m->config().layers, capacity_tokens, cache_type)),
        state(NewForwardState(pool, batch_tokens)) {}

  Status Check(const int32_t* ids, int64_t count) const {
    if (count <= 0) return InvalidArgument("no tokens to append");
    // Not `position + count`, which an absurd count would overflow.
    if (count > capacity - position) {
      return Error(StatusCode::kResourceLimit,
                   "the context is full: {} tokens so far and {} more exceed its {} tokens",
                   position, count, capacity);
    }
    return model->CheckIds(ids, count);
  }

  // Runs count <= batch tokens at `at`; returns their hidden rows.
  Result<const float*> Step(const int32_t* ids, int64_t count, int64_t at) {
    float* rows = hidden.Reserve(static_cast<uint64_t>(count * model->config().hidden));
    HARROW_RETURN_IF_ERROR(model->Forward(ids, count, at, kv.get(), state.get(), rows));
    return static_cast<const float*>(rows);
  }

  const Model* model;
  int64_t capacity;
  int64_t batch;
  int64_t position = 0;
  std::unique_ptr<KvStore> kv;
  std::unique_ptr<ForwardState, void (*)(ForwardState*)> state;
  AlignedArray<float> hidden;  // [tokens of a step, hidden]
  AlignedArray<float> logits;  // [rows, vocab]
};

Session::Session(const Model* model, ThreadPool* pool, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(
          model, pool, options.max_tokens > 0 ? options.max_tokens : model->config().max_context,
          std::max<int64_t>(options.batch, 1), options.cache_type)) {}

Session::~Session() = default;

Result<KvType> ResolveCacheType(std::string_view name, const ModelConfig& config) {
  const std::optional<KvType> type = ParseKvType(name);
  if (!type) {
    return InvalidArgument("--cache-type: '{}' is unknown; it may be f32, bf16 or int8", name);
  }
  if (const Status fits = CheckKvType(config, *type); !fits.ok()) return fits.At("--cache-type");
  return *type;
}

int64_t Session::position() const {
  return impl_->position;
}
int64_t Session::capacity() const {
  return impl_->capacity;
}
int64_t Session::batch() const {
  return impl_->batch;
}
const Model& Session::model() const {
  return *impl_->model;
}
void Session::Rewind(int64_t tokens) {
  HARROW_CHECK(tokens >= 0 && tokens <= impl_->position);
  impl_->position = tokens;
}

Result<const float*> Session::Append(const int32_t* ids, int64_t count) {
  Impl& s = *impl_;
  HARROW_RETURN_IF_ERROR(s.Check(ids, count));
  const ModelConfig& config = s.model->config();
  for (int64_t done = 0; done < count; done += s.batch) {
    const int64_t n = std::min(s.batch, count - done);
    HARROW_ASSIGN_OR_RETURN(const float* rows, s.Step(ids + done, n, s.position + done));
    if (done + n < count) continue;
    s.model->Logits(rows + (n - 1) * config.hidden, 1, s.state.get(),
                    s.logits.Reserve(static_cast<uint64_t>(config.vocab)));
  }
  s.position += count;
  return static_cast<const float*>(s.logits.data());
}

Status Session::AppendAll(const int32_t* ids, int64_t count,
                          const std::function<void(int64_t i, const float* logits)>& visit) {
  Impl& s = *impl_;
  HARROW_RETURN_IF_ERROR(s.Check(ids, count));
  const ModelConfig& config = s.model->config();
  const int64_t most = std::max(kLogitsFloats / config.vocab, kLeastLogitsRows);
  for (int64_t done = 0; done < count; done += s.batch) {
    const int64_t n = std::min(s.batch, count - done);
    HARROW_ASSIGN_OR_RETURN(const float* rows, s.Step(ids + done, n, s.position + done));
    for (int64_t row = 0; row < n; row += most) {
      const int64_t some = std::min(most, n - row);
      float* logits = s.logits.Reserve(static_cast<uint64_t>(some * config.vocab));
      s.model->Logits(rows + row * config.hidden, some, s.state.get(), logits);
      for (int64_t i = 0; i < some; ++i)
        visit(done + row + i, logits + i * config.vocab);
    }
  }
  s.position += count;
  return OkStatus();
}

Result<GenerateStats> Generate(Session* session, const std::vector<int32_t>& prompt,
                               int64_t max_new_tokens, const std::vector<int32_t>& stop_ids,
                               Sampler* sampler, const std::function<bool(int32_t id)>& on_token,
                               const RunControl* control) {
  const int64_t vocab = session->model().config().vocab;
  const int64_t count = static_cast<int64_t>(prompt.size());
  if (count == 0) return InvalidArgument("the prompt has no tokens");
  if (count > session->capacity() - session->position()) {
    return Error(StatusCode::kResourceLimit,
                 "the prompt does not fit: {} tokens so far and {} more exceed the context of {}",
                 session->position(), count, session->capacity());
  }
  HARROW_RETURN_IF_ERROR(session->model().CheckIds(prompt.data(), count));

  GenerateStats stats;
  const float* logits = nullptr;
  auto start = std::chrono::steady_clock::now();
  for (int64_t done = 0; done < count; done += session->batch()) {
    if (control != nullptr) {
      if (control->Cancelled()) return Error(StatusCode::kCancelled, "interrupted in the prompt");
      control->Progress("prompt", done, count);
    }
    const int64_t n = std::min(session->batch(), count - done);
    HARROW_ASSIGN_OR_RETURN(logits, session->Append(prompt.data() + done, n));
  }
  stats.prompt_tokens = count;
  stats.prefill_seconds = Seconds(start);

  while (stats.new_tokens < max_new_tokens) {
    if (control != nullptr && control->Cancelled()) break;
    if (!AllFinite(logits, vocab)) {
      return Error(StatusCode::kNumerical, "the logits after token {} are not finite",
                   session->position());
    }
    const int32_t id = sampler->Sample(logits, vocab);
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) break;
    if (stats.new_tokens > 0) stats.decode_seconds += Seconds(start);
    ++stats.new_tokens;
    if (on_token && !on_token(id)) break;
    if (stats.new_tokens == max_new_tokens || session->position() == session->capacity()) break;
    start = std::chrono::steady_clock::now();
    HARROW_ASSIGN_OR_RETURN(logits, session->Append(&id, 1));
  }
  return stats;
}

Result<std::vector<double>> ScoreTokens(Session* session, const std::vector<int32_t>& ids) {
  session->Reset();
  std::vector<double> nll;
  HARROW_RETURN_IF_ERROR(session->model().CheckIds(ids.data(), static_cast<int64_t>(ids.size())));
  if (ids.size() < 2) return nll;
  const int64_t vocab = session->model().config().vocab;
  nll.reserve(ids.size() - 1);
  HARROW_RETURN_IF_ERROR(session->AppendAll(
      ids.data(), static_cast<int64_t>(ids.size()) - 1, [&](int64_t i, const float* logits) {
        nll.push_back(LogSumExp(logits, vocab) - logits[ids[static_cast<size_t>(i) + 1]]);
      }));
  for (size_t i = 0; i < nll.size(); ++i) {
    if (!std::isfinite(nll[i])) {
      return Error(StatusCode::kNumerical, "the NLL of token {} is not finite ({})", i + 1, nll[i]);
    }
  }
  return nll;
}

}  // namespace harrow
