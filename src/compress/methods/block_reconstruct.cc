// Block-wise reconstruction: with the masks as they are, the kept weights of attention and then of
// the FFN are trained until each half gives the output that the original half gives on the same
// inputs. The FFN sees what the trained attention leaves, and makes up for it as well.
// Source: "A Free Lunch in LLM Compression", arXiv 2510.14444 (attention and MLP apart, after
// Wanda); Adam, Kingma and Ba, arXiv 1412.6980. docs/decisions/024.
#include <cmath>

#include "compress/block_halves.h"
#include "compress/block_method.h"
#include "compress/hidden_store.h"
#include "compress/methods/method.h"

namespace harrow {
namespace {

constexpr float kBeta1 = 0.9f;
constexpr float kBeta2 = 0.999f;
constexpr float kEpsilon = 1e-8f;
constexpr double kPi = 3.14159265358979323846;
// One sequence in so many is held back to decide when to stop.
constexpr int64_t kHoldBackEvery = 8;
// Epochs in a row without a smaller error, after which training stops.
constexpr int kPatience = 2;

// The weights of one linear that are trained, with Adam's moments.
struct Trained {
  BlockLinear* linear = nullptr;
  float rate = 0;                   // of a step, in units of the weight
  std::vector<float> gradient;      // [rows, cols]; also of linears that are not trained
  std::vector<float> mean, square;  // empty where not trained
  std::vector<float> best;
};

// One half of a block in training.
class HalfTraining {
 public:
  // `linears`: those of the half, in the block's order.
  HalfTraining(std::vector<BlockLinear*> linears, double learning_rate);
  bool any() const { return any_; }
  // The weights of `linears` now, or before the first step.
  std::vector<const float*> Weights(bool original) const;
  std::vector<float*> Gradients();
  void ClearGradients();
  void Step(double decay, ThreadPool* pool);
  void Keep();     // the present weights are the best so far
  void Restore();  // the best weights

 private:
  std::vector<Trained> trained_;
  bool any_ = false;
  int64_t steps_ = 0;
};

HalfTraining::HalfTraining(std::vector<BlockLinear*> linears, double learning_rate) {
  for (BlockLinear* linear : linears) {
    Trained trained;
    trained.linear = linear;
    trained.gradient.resize(linear->w.size());
    if (linear->trainable) {
      any_ = true;
      trained.mean.resize(linear->w.size());
      trained.square.resize(linear->w.size());
      double energy = 0;
      int64_t kept = 0;
      for (const float w : linear->w) {
        energy += static_cast<double>(w) * w;
        kept += w != 0.0f;
      }
      if (kept > 0) {
        trained.rate =
            static_cast<float>(learning_rate * std::sqrt(energy / static_cast<double>(kept)));
      }
    }
    trained_.push_back(std::move(trained));
  }
  Keep();
}

std::vector<const float*> HalfTraining::Weights(bool original) const {
  std::vector<const float*> weights;
  for (const Trained& t : trained_)
    weights.push_back(original ? t.linear->original.data() : t.linear->w.data());
  return weights;
}

std::vector<float*> HalfTraining::Gradients() {
  std::vector<float*> gradients;
  for (Trained& t : trained_)
    gradients.push_back(t.gradient.data());
  return gradients;
}

void HalfTraining::ClearGradients() {
  for (Trained& t : trained_)
    std::fill(t.gradient.begin(), t.gradient.end(), 0.0f);
}

void HalfTraining::Step(double decay, ThreadPool* pool) {
  ++steps_;
  const auto count = static_cast<double>(steps_);
  const auto correction1 = static_cast<float>(1.0 / (1.0 - std::pow(kBeta1, count)));
  const auto correction2 = static_cast<float>(1.0 / (1.0 - std::pow(kBeta2, count)));
  for (Trained& t : trained_) {
    if (t.mean.empty()) continue;
    const float rate = t.rate * static_cast<float>(decay);
    float* const w = t.linear->w.data();
    pool->ParallelFor(
        static_cast<int64_t>(t.gradient.size()), 1 << 14, [&, w, rate](int64_t begin, int64_t end) {
          for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
            if (w[i] == 0.0f) continue;
            const float g = t.gradient[i];
            t.mean[i] += (1 - kBeta1) * (g - t.mean[i]);
            t.square[i] += (1 - kBeta2) * (g * g - t.square[i]);
            const float moved = w[i] - rate * t.mean[i] * correction1 /
                                           (std::sqrt(t.square[i] * correction2) + kEpsilon);
            // A kept weight that lands on 0 would look pruned from then on.
            if (moved != 0.0f) w[i] = moved;
          }
        });
  }
}

void HalfTraining::Keep() {
  for (Trained& t : trained_) {
    if (!t.mean.empty()) t.best = t.linear->w;
  }
}

void HalfTraining::Restore() {
  for (Trained& t : trained_) {
    if (!t.mean.empty()) t.linear->w = t.best;
  }
}

class BlockReconstruct final : public Method, public BlockMethod {
 public:
  explicit BlockReconstruct(OptionReader* options)
      : epochs_(options->Integer("epochs", 10, 1, 10000)),
        batch_(options->Integer("batch", 4, 1, 1 << 20)),
        learning_rate_(options->Number("learning_rate", 0.01, 0, 1)) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return false; }
  const BlockMethod* block_method() const override { return this; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork*) const override { return OkStatus(); }
  Status ApplyToBlock(BlockWork* block) const override;

 private:
  // Runs a half forward on `x` with the given weights.
  using Forward =
      std::function<void(const std::vector<const float*>& weights, const float* x, float* out)>;
  using Backward = std::function<void(const std::vector<const float*>& weights, const float* error,
                                      const std::vector<float*>& gradients)>;
  using Reader = std::function<Status(int64_t s, float* hidden)>;
  Status Train(BlockWork* block, const std::string& name, const Forward& forward,
               const Backward& backward, const Reader& input, const Reader& target,
               double reference, HalfTraining* half) const;

  int64_t epochs_;
  int64_t batch_;
  double learning_rate_;
};

bool HeldBack(int64_t sequence, int64_t sequences) {
  return sequences >= kHoldBackEvery && sequence % kHoldBackEvery == kHoldBackEvery - 1;
}
// Without enough sequences all of them both train and decide.
bool Decides(int64_t sequence, int64_t sequences) {
  return sequences < kHoldBackEvery || HeldBack(sequence, sequences);
}

double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    sum += d * d;
  }
  return sum;
}

Status BlockReconstruct::Train(BlockWork* block, const std::string& name, const Forward& forward,
                               const Backward& backward, const Reader& input, const Reader& target,
                               double reference, HalfTraining* half) const {
  const size_t elements = static_cast<size_t>(block->length * block->config->hidden);
  std::vector<float> x(elements);
  std::vector<float> wanted(elements);
  std::vector<float> out(elements);
  const auto run = [&](int64_t s) -> Status {
    if (block->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    HARROW_RETURN_IF_ERROR(input(s, x.data()));
    HARROW_RETURN_IF_ERROR(target(s, wanted.data()));
    forward(half->Weights(/*original=*/false), x.data(), out.data());
    return OkStatus();
  };
  const auto measure = [&]() -> Result<double> {
    double error = 0;
    for (int64_t s = 0; s < block->sequences; ++s) {
      if (!Decides(s, block->sequences)) continue;
      HARROW_RETURN_IF_ERROR(run(s));
      error += SquaredDistance(out, wanted);
    }
    error = reference > 0 ? error / reference : error;
    if (!std::isfinite(error)) {
      return Error(StatusCode::kNumerical, "the error of the {} is {}", name, error);
    }
    return error;
  };

  int64_t training = 0;
  for (int64_t s = 0; s < block->sequences; ++s)
    training += !HeldBack(s, block->sequences);
  const int64_t steps = epochs_ * ((training + batch_ - 1) / batch_);
  HARROW_ASSIGN_OR_RETURN(const double before, measure());
  double best = before;
  int64_t step = 0;
  int64_t epoch = 0;
  for (int without = 0; epoch < epochs_ && without < kPatience && best > 0; ++epoch) {
    int64_t in_batch = 0;
    int64_t seen = 0;
    half->ClearGradients();
    for (int64_t s = 0; s < block->sequences; ++s) {
      if (HeldBack(s, block->sequences)) continue;
      HARROW_RETURN_IF_ERROR(run(s));
      for (size_t i = 0; i < elements; ++i)
        out[i] -= wanted[i];
      backward(half->Weights(/*original=*/false), out.data(), half->Gradients());
      ++seen;
      if (++in_batch < batch_ && seen < training) continue;
      const double progress = static_cast<double>(step++) / static_cast<double>(steps);
      half->Step(0.5 * (1.0 + std::cos(kPi * progress)), block->pool);
      half->ClearGradients();
      in_batch = 0;
    }
    HARROW_ASSIGN_OR_RETURN(const double error, measure());
    without = error < best ? 0 : without + 1;
    if (error < best) {
      best = error;
      half->Keep();
    }
  }
  half->Restore();
  for (BlockLinear& linear : block->linears) {
    const bool here = (&linear - block->linears.data() < 4) == (name == "attention");
    if (!here || !linear.trainable) continue;
    linear.notes.push_back(
        fmt::format("block_reconstruct: error of the {} {:.4g} -> {:.4g} in {} "
                    "epochs",
                    name, before, best, epoch));
  }
  if (best >= before && before > 0) {
    block->warnings.push_back(
        fmt::format("block_reconstruct: the error of the {} does not fall below {:.4g}; its "
                    "weights are left as "
                    "they were",
                    name, before));
  }
  return OkStatus();
}

Status BlockReconstruct::ApplyToBlock(BlockWork* block) const {
  const size_t elements = static_cast<size_t>(block->length * block->config->hidden);
  std::vector<BlockLinear*> linears;
  for (BlockLinear& linear : block->linears)
    linears.push_back(&linear);
  HalfTraining attention({linears.begin(), linears.begin() + 4}, learning_rate_);
  HalfTraining ffn({linears.begin() + 4, linears.end()}, learning_rate_);
  if (!attention.any() && !ffn.any()) return OkStatus();
  BlockHalves halves(*block->config, *block->attention_norm, *block->ffn_norm, block->length,
                     block->pool);
  const Forward run_attention = [&halves](const std::vector<const float*>& w, const float* x,
                                          float* out) {
    halves.Attention({w[0], w[1], w[2], w[3]}, x, out);
  };
  const Backward attention_backward = [&halves](const std::vector<const float*>& w,
                                                const float* error, const std::vector<float*>& g) {
    halves.AttentionGradients({w[0], w[1], w[2], w[3]}, error, {g[0], g[1], g[2], g[3]});
  };
  const Forward run_ffn = [&halves](const std::vector<const float*>& w, const float* x,
                                    float* out) {
    halves.Ffn({w[0], w[1], w[2]}, x, out);
  };
  const Backward ffn_backward = [&halves](const std::vector<const float*>& w, const float* error,
                                          const std::vector<float*>& g) {
    halves.FfnGradients({w[0], w[1], w[2]}, error, {g[0], g[1], g[2]});
  };

  // What the original halves make of the inputs; later `middle` becomes what the FFN gets.
  HARROW_ASSIGN_OR_RETURN(
      const std::unique_ptr<HiddenStore> middle,
      HiddenStore::Create(block->sequences, static_cast<int64_t>(elements), block->folder));
  HARROW_ASSIGN_OR_RETURN(
      const std::unique_ptr<HiddenStore> last,
      HiddenStore::Create(block->sequences, static_cast<int64_t>(elements), block->folder));
  std::vector<float> x(elements);
  std::vector<float> y(elements);
  double attention_energy = 0;
  double ffn_energy = 0;
  for (int64_t s = 0; s < block->sequences; ++s) {
    if (block->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    HARROW_RETURN_IF_ERROR(block->read_input(s, x.data()));
    run_attention(attention.Weights(/*original=*/true), x.data(), y.data());
    if (Decides(s, block->sequences)) attention_energy += SquaredDistance(x, y);
    HARROW_RETURN_IF_ERROR(middle->Write(s, y.data()));
    run_ffn(ffn.Weights(/*original=*/true), y.data(), x.data());
    if (Decides(s, block->sequences)) ffn_energy += SquaredDistance(x, y);
    HARROW_RETURN_IF_ERROR(last->Write(s, x.data()));
  }
  const auto reader = [](const HiddenStore& store) -> Reader {
    return [&store](int64_t s, float* hidden) { return store.Read(s, hidden); };
  };
  if (attention.any()) {
    HARROW_RETURN_IF_ERROR(Train(block, "attention", run_attention, attention_backward,
                                 block->read_input, reader(*middle), attention_energy, &attention));
  }
  if (!ffn.any()) return OkStatus();
  for (int64_t s = 0; s < block->sequences; ++s) {
    HARROW_RETURN_IF_ERROR(block->read_input(s, x.data()));
    run_attention(attention.Weights(/*original=*/false), x.data(), y.data());
    HARROW_RETURN_IF_ERROR(middle->Write(s, y.data()));
  }
  return Train(block, "FFN", run_ffn, ffn_backward, reader(*middle), reader(*last), ffn_energy,
               &ffn);
}

}  // namespace

std::unique_ptr<Method> MakeBlockReconstruct(OptionReader* options) {
  return std::make_unique<BlockReconstruct>(options);
}

}  // namespace harrow
