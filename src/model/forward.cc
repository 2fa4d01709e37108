// The one forward pass.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "model/forward_state.h"
#include "model/model.h"

namespace harrow {
namespace {

// Element-wise work on `rows` rows of `width` floats, cut so that a piece is worth a hand-off.
template <class Body>
void ForRows(ThreadPool* pool, int64_t rows, int64_t width, const Body& body) {
  constexpr int64_t kFloatsPerPiece = 32768;
  pool->ParallelFor(rows, std::max<int64_t>(1, kFloatsPerPiece / width), body);
}

void NormRows(ThreadPool* pool, const float* x, const std::vector<float>& weight, float eps,
              int64_t rows, float* out) {
  const int64_t dim = static_cast<int64_t>(weight.size());
  ForRows(pool, rows, dim, [&](int64_t begin, int64_t end) {
    RmsNorm(x + begin * dim, weight.data(), eps, end - begin, dim, out + begin * dim);
  });
}

void AddRows(ThreadPool* pool, float* x, const float* y, int64_t rows, int64_t dim) {
  ForRows(pool, rows, dim, [&](int64_t begin, int64_t end) {
    AddInPlace(x + begin * dim, y + begin * dim, (end - begin) * dim);
  });
}

// y = x * W^T + bias for each layer, all of which read x [m, k].
void RunLinears(ForwardState* state, Observer* observer,
                std::initializer_list<std::pair<const LinearLayer*, float*>> layers, const float* x,
                int64_t m) {
  LinearOp ops[3];
  size_t count = 0;
  const int64_t k = layers.begin()->first->cols;
  for (const auto& [layer, y] : layers) {
    if (observer != nullptr) observer->OnLinearInput(layer->name, x, m, k);
    HARROW_CHECK(!layer->weight.empty() && count < 3);
    ops[count++] = {.weight = &layer->weight, .y = y, .y_stride = layer->rows};
  }
  Linear(state->linear(), {ops, count}, x, k, m, k);
  for (const auto& item : layers) {
    const LinearLayer& layer = *item.first;
    if (layer.bias_name.empty()) continue;
    HARROW_CHECK(static_cast<int64_t>(layer.bias.size()) == layer.rows);
    float* const y = item.second;
    ForRows(state->pool(), m, layer.rows, [&layer, y](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token)
        AddInPlace(y + token * layer.rows, layer.bias.data(), layer.rows);
    });
  }
}

Status NoRoom(int64_t tokens) {
  return Error(StatusCode::kResourceLimit, "the KV cache has no room for {} tokens", tokens);
}

}  // namespace

void ForwardState::Reserve(const ModelConfig& c, int64_t tokens) {
  const auto floats = [tokens](int64_t width) { return static_cast<uint64_t>(tokens * width); };
  normed_.Reserve(floats(c.hidden));
  projected_.Reserve(floats(c.hidden));
  q_.Reserve(floats(int64_t{c.heads} * c.head_dim));
  attended_.Reserve(floats(int64_t{c.heads} * c.head_dim));
  k_.Reserve(floats(int64_t{c.kv_heads} * c.head_dim));
  v_.Reserve(floats(int64_t{c.kv_heads} * c.head_dim));
  gate_.Reserve(floats(c.ffn));
  up_.Reserve(floats(c.ffn));
}

void ForwardState::PrepareRope(const Model& model, int64_t start, int64_t tokens) {
  if (rope_model_ == &model && rope_start_ == start && rope_tokens_ == tokens) return;
  const ModelConfig& c = model.config();
  const int32_t half = c.head_dim / 2;
  cosines_.Reserve(static_cast<uint64_t>(tokens * half));
  sines_.Reserve(static_cast<uint64_t>(tokens * half));
  RopeAngles(tokens, start, c.rope_inv_freq.data(), half, c.rope_attention_scaling, cosines_.data(),
             sines_.data());
  rope_model_ = &model;
  rope_start_ = start;
  rope_tokens_ = tokens;
}

std::unique_ptr<ForwardState, void (*)(ForwardState*)> NewForwardState(ThreadPool* pool,
                                                                       int64_t batch) {
  return {new ForwardState(pool, batch), [](ForwardState* state) { delete state; }};
}

Status Model::CheckIds(const int32_t* ids, int64_t m) const {
  for (int64_t i = 0; i < m; ++i) {
    if (ids[i] < 0 || ids[i] >= config_.vocab) {
      return InvalidArgument("token {} has id {}, outside the vocabulary of {}", i, ids[i],
                             config_.vocab);
    }
  }
  return OkStatus();
}

Status Model::Embed(const int32_t* ids, int64_t m, float* hidden) const {
  HARROW_RETURN_IF_ERROR(CheckIds(ids, m));
  for (int64_t i = 0; i < m; ++i)
    UnpackRows(embedding_.weight, ids[i], ids[i] + 1, hidden + i * config_.hidden);
  return OkStatus();
}

Status Model::ForwardBlock(int32_t index, float* hidden, int64_t m, int64_t start, KvStore* kv,
                           int32_t kv_layer, ForwardState* state, Observer* observer) const {
  HARROW_CHECK(index >= 0 && index < config_.layers && start >= 0);
  const Block& block = blocks_[static_cast<size_t>(index)];
  HARROW_CHECK(!block.attention_norm.empty());
  const ModelConfig& c = config_;
  const int64_t q_width = block.q.rows;
  const int64_t kv_width = block.k.rows;
  const int32_t kv_heads = block.kv_heads;
  if (!kv->Reserve(start + m)) return NoRoom(start + m);
  const int64_t step = std::min(m, state->batch());
  state->Reserve(c, step);
  for (int64_t done = 0; done < m; done += step) {
    const int64_t n = std::min(step, m - done);
    const int64_t position = start + done;
    float* x = hidden + done * c.hidden;

    NormRows(state->pool(), x, block.attention_norm, c.rms_eps, n, state->normed());
    RunLinears(state, observer,
               {{&block.q, state->q()}, {&block.k, state->k()}, {&block.v, state->v()}},
               state->normed(), n);
    state->PrepareRope(*this, position, n);
    ForRows(state->pool(), n, q_width, [&](int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      const float* cosines = state->cosines() + begin * (c.head_dim / 2);
      const float* sines = state->sines() + begin * (c.head_dim / 2);
      ApplyRope(state->q() + begin * q_width, count, block.heads, c.head_dim, cosines, sines);
      ApplyRope(state->k() + begin * kv_width, count, kv_heads, c.head_dim, cosines, sines);
    });
    const KvView view = kv->layer(kv_layer);
    AppendKv(view, kv_heads, position, n, state->k(), state->v(), state->pool());
    Attention({.q = state->q(),
               .kv = view,
               .out = state->attended(),
               .m = n,
               .start = position,
               .heads = block.heads,
               .kv_heads = kv_heads,
               .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))},
              state->pool());
    RunLinears(state, observer, {{&block.o, state->projected()}}, state->attended(), n);
    AddRows(state->pool(), x, state->projected(), n, c.hidden);

    NormRows(state->pool(), x, block.ffn_norm, c.rms_eps, n, state->normed());
    RunLinears(state, observer, {{&block.gate, state->gate()}, {&block.up, state->up()}},
               state->normed(), n);
    const int64_t ffn = block.ffn;
    ForRows(state->pool(), n, ffn, [&](int64_t begin, int64_t end) {
      float* gate = state->gate() + begin * ffn;
      GatedActivation(c.activation, gate, state->up() + begin * ffn, (end - begin) * ffn, gate);
    });
    RunLinears(state, observer, {{&block.down, state->projected()}}, state->gate(), n);
    AddRows(state->pool(), x, state->projected(), n, c.hidden);
  }
  return OkStatus();
}

void Model::Logits(const float* hidden, int64_t m, ForwardState* state, float* logits) const {
  const int64_t step = std::min(m, state->batch());
  state->Reserve(config_, step);
  for (int64_t done = 0; done < m; done += step) {
    const int64_t n = std::min(step, m - done);
    NormRows(state->pool(), hidden + done * config_.hidden, final_norm_, config_.rms_eps, n,
             state->normed());
    RunLinears(state, nullptr, {{&head_, logits + done * config_.vocab}}, state->normed(), n);
  }
}

Status Model::Forward(const int32_t* ids, int64_t m, int64_t start, KvStore* kv,
                      ForwardState* state, float* hidden) const {
  HARROW_RETURN_IF_ERROR(CheckIds(ids, m));
  if (!kv->Reserve(start + m)) return NoRoom(start + m);
  const int64_t step = std::min(m, state->batch());
  for (int64_t done = 0; done < m; done += step) {
    const int64_t n = std::min(step, m - done);
    float* x = hidden + done * config_.hidden;
    HARROW_RETURN_IF_ERROR(Embed(ids + done, n, x));
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      HARROW_RETURN_IF_ERROR(ForwardBlock(layer, x, n, start + done, kv, layer, state, nullptr));
    }
  }
  return OkStatus();
}

}  // namespace harrow
