// Source of the forward pass: Touvron et al., arXiv 2302.13971 (the LLaMA block), as
// model/forward.cc computes it. The gradients are its derivatives by hand: y = x W^T gives dW =
// dy^T x and dx = dy W; a softmax row p gives ds = p (dp - sum p dp); a rotation's transpose is the
// rotation back.
#include "compress/block_halves.h"

#include <algorithm>
#include <cmath>

#include "compress/blas.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace harrow {
namespace {

// y [m, rows] = x [m, cols] w^T
void Project(const float* w, int64_t rows, int64_t cols, const float* x, int64_t m, float* y) {
  Gemm(CblasNoTrans, CblasTrans, m, rows, cols, 1, x, cols, w, cols, 0, y, rows);
}

// dw += dy^T x
void WeightGradient(const float* dy, const float* x, int64_t rows, int64_t cols, int64_t m,
                    float* dw) {
  Gemm(CblasTrans, CblasNoTrans, rows, cols, m, 1, dy, rows, x, cols, 1, dw, cols);
}

// dx [m, cols] = dy w
void InputGradient(const float* w, int64_t rows, int64_t cols, const float* dy, int64_t m,
                   float* dx) {
  Gemm(CblasNoTrans, CblasNoTrans, m, cols, rows, 1, dy, rows, w, cols, 0, dx, cols);
}

struct GateValue {
  float value;
  float slope;
};

GateValue Gate(GateActivation activation, float x) {
  switch (activation) {
    case GateActivation::kSilu: {
      const float s = 1.0f / (1.0f + std::exp(-x));
      return {x * s, s * (1.0f + x * (1.0f - s))};
    }
    case GateActivation::kRelu: return {std::max(x, 0.0f), x > 0 ? 1.0f : 0.0f};
    case GateActivation::kGeluTanh: {
      constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
      constexpr float kCubic = 0.044715f;
      const float t = std::tanh(kRoot * (x + kCubic * x * x * x));
      const float inner = kRoot * (1.0f + 3.0f * kCubic * x * x);
      return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
    }
  }
  return {0, 0};
}

}  // namespace

BlockHalves::BlockHalves(const ModelConfig& config, const std::vector<float>& attention_norm,
                         const std::vector<float>& ffn_norm, int64_t length, ThreadPool* pool)
    : config_(config),
      attention_norm_(attention_norm),
      ffn_norm_(ffn_norm),
      length_(length),
      q_width_(int64_t{config.heads} * config.head_dim),
      kv_width_(int64_t{config.kv_heads} * config.head_dim),
      pool_(pool) {
  const auto size = [length](int64_t width) { return static_cast<size_t>(length * width); };
  cosines_.resize(size(config.head_dim / 2));
  sines_.resize(cosines_.size());
  RopeAngles(length, 0, config.rope_inv_freq.data(), config.head_dim / 2,
             config.rope_attention_scaling, cosines_.data(), sines_.data());
  negative_sines_ = sines_;
  for (float& sine : negative_sines_)
    sine = -sine;
  normed_.resize(size(config.hidden));
  ffn_normed_.resize(size(config.hidden));
  for (std::vector<float>* v : {&q_, &attended_, &dq_, &dattended_})
    v->resize(size(q_width_));
  for (std::vector<float>* v : {&k_, &v_, &dk_, &dv_})
    v->resize(size(kv_width_));
  for (std::vector<float>* v : {&probabilities_, &dprobabilities_})
    v->resize(size(length));
  for (std::vector<float>* v : {&gate_, &up_, &product_, &dproduct_})
    v->resize(size(config.ffn));
}

void BlockHalves::HeadProbabilities(int32_t head) {
  const int64_t dim = config_.head_dim;
  const int64_t group = head / (config_.heads / config_.kv_heads);
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  Gemm(CblasNoTrans, CblasTrans, length_, length_, dim, scale, q_.data() + head * dim, q_width_,
       k_.data() + group * dim, kv_width_, 0, probabilities_.data(), length_);
  pool_->ParallelFor(length_, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* const row = probabilities_.data() + i * length_;
      const float largest = *std::max_element(row, row + i + 1);
      float sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        row[j] = std::exp(row[j] - largest);
        sum += row[j];
      }
      for (int64_t j = 0; j <= i; ++j)
        row[j] /= sum;
      std::fill(row + i + 1, row + length_, 0.0f);
    }
  });
}

void BlockHalves::Attention(const Attention4& weights, const float* x, float* out) {
  const ModelConfig& c = config_;
  const int64_t dim = c.head_dim;
  RmsNorm(x, attention_norm_.data(), c.rms_eps, length_, c.hidden, normed_.data());
  Project(weights[0], q_width_, c.hidden, normed_.data(), length_, q_.data());
  Project(weights[1], kv_width_, c.hidden, normed_.data(), length_, k_.data());
  Project(weights[2], kv_width_, c.hidden, normed_.data(), length_, v_.data());
  ApplyRope(q_.data(), length_, c.heads, c.head_dim, cosines_.data(), sines_.data());
  ApplyRope(k_.data(), length_, c.kv_heads, c.head_dim, cosines_.data(), sines_.data());
  for (int32_t head = 0; head < c.heads; ++head) {
    HeadProbabilities(head);
    const int64_t group = head / (c.heads / c.kv_heads);
    Gemm(CblasNoTrans, CblasNoTrans, length_, dim, length_, 1, probabilities_.data(), length_,
         v_.data() + group * dim, kv_width_, 0, attended_.data() + head * dim, q_width_);
  }
  Project(weights[3], c.hidden, q_width_, attended_.data(), length_, out);
  AddInPlace(out, x, length_ * c.hidden);
}

void BlockHalves::AttentionGradients(const Attention4& weights, const float* output_gradient,
                                     const std::array<float*, 4>& gradients) {
  const ModelConfig& c = config_;
  const int64_t dim = c.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  WeightGradient(output_gradient, attended_.data(), c.hidden, q_width_, length_, gradients[3]);
  InputGradient(weights[3], c.hidden, q_width_, output_gradient, length_, dattended_.data());
  std::fill(dk_.begin(), dk_.end(), 0.0f);
  std::fill(dv_.begin(), dv_.end(), 0.0f);
  for (int32_t head = 0; head < c.heads; ++head) {
    HeadProbabilities(head);
    const int64_t group = head / (c.heads / c.kv_heads);
    const float* const dout = dattended_.data() + head * dim;
    Gemm(CblasTrans, CblasNoTrans, length_, dim, length_, 1, probabilities_.data(), length_, dout,
         q_width_, 1, dv_.data() + group * dim, kv_width_);
    Gemm(CblasNoTrans, CblasTrans, length_, length_, dim, 1, dout, q_width_,
         v_.data() + group * dim, kv_width_, 0, dprobabilities_.data(), length_);
    pool_->ParallelFor(length_, 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* const p = probabilities_.data() + i * length_;
        float* const dp = dprobabilities_.data() + i * length_;
        float sum = 0;
        for (int64_t j = 0; j <= i; ++j)
          sum += p[j] * dp[j];
        for (int64_t j = 0; j <= i; ++j)
          dp[j] = p[j] * (dp[j] - sum);
        std::fill(dp + i + 1, dp + length_, 0.0f);
      }
    });
    Gemm(CblasNoTrans, CblasNoTrans, length_, dim, length_, scale, dprobabilities_.data(), length_,
         k_.data() + group * dim, kv_width_, 0, dq_.data() + head * dim, q_width_);
    Gemm(CblasTrans, CblasNoTrans, length_, dim, length_, scale, dprobabilities_.data(), length_,
         q_.data() + head * dim, q_width_, 1, dk_.data() + group * dim, kv_width_);
  }
  ApplyRope(dq_.data(), length_, c.heads, c.head_dim, cosines_.data(), negative_sines_.data());
  ApplyRope(dk_.data(), length_, c.kv_heads, c.head_dim, cosines_.data(), negative_sines_.data());
  WeightGradient(dq_.data(), normed_.data(), q_width_, c.hidden, length_, gradients[0]);
  WeightGradient(dk_.data(), normed_.data(), kv_width_, c.hidden, length_, gradients[1]);
  WeightGradient(dv_.data(), normed_.data(), kv_width_, c.hidden, length_, gradients[2]);
}

void BlockHalves::Ffn(const Ffn3& weights, const float* x, float* out) {
  const ModelConfig& c = config_;
  RmsNorm(x, ffn_norm_.data(), c.rms_eps, length_, c.hidden, ffn_normed_.data());
  Project(weights[0], c.ffn, c.hidden, ffn_normed_.data(), length_, gate_.data());
  Project(weights[1], c.ffn, c.hidden, ffn_normed_.data(), length_, up_.data());
  GatedActivation(c.activation, gate_.data(), up_.data(), length_ * c.ffn, product_.data());
  Project(weights[2], c.hidden, c.ffn, product_.data(), length_, out);
  AddInPlace(out, x, length_ * c.hidden);
}

void BlockHalves::FfnGradients(const Ffn3& weights, const float* output_gradient,
                               const std::array<float*, 3>& gradients) {
  const ModelConfig& c = config_;
  WeightGradient(output_gradient, product_.data(), c.hidden, c.ffn, length_, gradients[2]);
  InputGradient(weights[2], c.hidden, c.ffn, output_gradient, length_, dproduct_.data());
  // product_ and dproduct_ become the gradients of gate and up.
  pool_->ParallelFor(length_, 8, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin * c.ffn); i < static_cast<size_t>(end * c.ffn); ++i) {
      const GateValue gate = Gate(c.activation, gate_[i]);
      product_[i] = dproduct_[i] * up_[i] * gate.slope;
      dproduct_[i] *= gate.value;
    }
  });
  WeightGradient(product_.data(), ffn_normed_.data(), c.ffn, c.hidden, length_, gradients[0]);
  WeightGradient(dproduct_.data(), ffn_normed_.data(), c.ffn, c.hidden, length_, gradients[1]);
}

}  // namespace harrow
