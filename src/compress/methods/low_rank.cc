// Low-rank methods: a truncated singular value decomposition of the weight, or of what earlier
// steps lost, weighted by the calibration inputs.
//
// svd_llm: |(W - B A) S|_F with S S^T = X^T X. Source: Wang et al., arXiv 2403.07378, SVDLLM.py
// (whitening): S from a Cholesky factorization, rank int(rows * cols * ratio / (rows + cols)). Any
// such S gives the same product. Difference: damping, where the authors add to the diagonal only
// after a failure.
// asvd: S = diag(mean |x_j|^alpha + 1e-6). Source: Yuan et al., arXiv 2312.05821,
// modules/svd_linear.py from_linear.
// lowrank_correction: the same fit to W - W', where W' is what earlier steps made of the weight
// (quantized values included). Source: Mozaffari et al., SLiM, arXiv 2410.09615, which weights by
// mean |x_j| (`weighting: diagonal`).
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/methods/low_rank_fit.h"
#include "compress/storage.h"

namespace harrow {
namespace {

constexpr double kAsvdEpsilon = 1e-6;

// By the Hessian, or by powers of the mean absolute inputs.
struct Weighting {
  bool hessian = false;
  double damping = 0;
  bool escalate = false;
  double alpha = 0;

  static Weighting ReadHessian(OptionReader* options) {
    Weighting weighting;
    weighting.hessian = true;
    weighting.damping = options->Number("damping", 1e-4, 0, 100);
    weighting.escalate = options->Boolean("allow_damping_escalation", false);
    if (weighting.escalate && weighting.damping <= 0) {
      options->Fail("damping", "allow_damping_escalation multiplies it, so it must not be 0");
    }
    return weighting;
  }
  static Weighting ReadDiagonal(OptionReader* options, double alpha) {
    Weighting weighting;
    weighting.alpha = options->Number("alpha", alpha, 0, 4);
    return weighting;
  }
  StatisticsNeed needs() const {
    return hessian ? StatisticsNeed::kHessian : StatisticsNeed::kInputAbsSums;
  }
  Result<InputScaling> Scaling(LayerWork* layer) const {
    InputStatistics* const statistics = layer->statistics;
    HARROW_CHECK(statistics != nullptr && statistics->cols() == layer->cols);
    layer->dead_columns = statistics->DeadColumns();
    InputScaling scaling;
    if (hessian) {
      HARROW_ASSIGN_OR_RETURN(scaling.hessian, statistics->Factor(damping, escalate));
      layer->damping = scaling.hessian->percent_damping;
      return scaling;
    }
    for (const double sum : statistics->abs_sums()) {
      const double mean = sum / static_cast<double>(statistics->tokens());
      scaling.diagonal.push_back(std::pow(mean, alpha) + kAsvdEpsilon);
    }
    return scaling;
  }
};

class Factorize final : public Method {
 public:
  Factorize(OptionReader* options, const Weighting& weighting)
      : target_(RankTarget::Read(options)),
        residual_(options->Boolean("residual", false)),
        weighting_(weighting) {}
  StatisticsNeed needs() const override { return weighting_.needs(); }
  bool quantizes() const override { return false; }
  LowRankUse low_rank() const override {
    return residual_ ? LowRankUse::kSplitsOff : LowRankUse::kReplaces;
  }
  Status Check(int64_t rows, int64_t cols) const override {
    return target_.Check(rows, cols, /*alone=*/!residual_);
  }
  Status Apply(LayerWork* layer) const override {
    HARROW_ASSIGN_OR_RETURN(const InputScaling scaling, weighting_.Scaling(layer));
    HARROW_ASSIGN_OR_RETURN(LowRankProduct product,
                            FitLowRank({layer->w.begin(), layer->w.end()}, layer->rows, layer->cols,
                                       target_.RankOf(layer->rows, layer->cols), scaling));
    product.residual = residual_;
    if (residual_) {
      // What the pruning of an earlier step left at zero is part of the residual again.
      const int64_t regrown = std::count(layer->pruned.begin(), layer->pruned.end(), 1);
      if (regrown > 0) {
        layer->warnings.push_back(
            fmt::format("{} weights that a step before the low-rank one pruned are part of its "
                        "residual again; prune after it",
                        regrown));
      }
      std::vector<double> fitted(layer->w.size());
      Multiply(product, layer->rows, layer->cols, fitted.data());
      for (size_t i = 0; i < fitted.size(); ++i)
        layer->w[i] = static_cast<float>(static_cast<double>(layer->w[i]) - fitted[i]);
      // What later steps approximate is the residual too.
      for (size_t i = 0; i < layer->original.size(); ++i) {
        layer->original[i] =
            static_cast<float>(static_cast<double>(layer->original[i]) - fitted[i]);
      }
    } else {
      std::fill(layer->w.begin(), layer->w.end(), 0.0f);
    }
    std::fill(layer->pruned.begin(), layer->pruned.end(), uint8_t{0});
    layer->pattern = Pattern();
    layer->low_rank = std::move(product);
    return OkStatus();
  }

 private:
  RankTarget target_;
  bool residual_;
  Weighting weighting_;
};

// The values that w will be stored as.
Result<std::vector<float>> StoredValues(const LayerWork& layer) {
  if (!layer.quantization) return layer.w;
  const int64_t nonzeros =
      std::count_if(layer.w.begin(), layer.w.end(), [](float value) { return value != 0.0f; });
  const WeightSpec spec = ChooseSpec(layer, nonzeros, ValueType::kBf16, Store::kSmall);
  HARROW_ASSIGN_OR_RETURN(
      const LinearWeight weight,
      PackWeight(spec, layer.rows, layer.cols, layer.w.data(), layer.quantization->grid.get()));
  std::vector<float> stored(layer.w.size());
  UnpackRows(weight, 0, layer.rows, stored.data());
  return stored;
}

class Correction final : public Method {
 public:
  explicit Correction(OptionReader* options)
      : target_(RankTarget::Read(options)),
        weighting_(options->Choice("weighting", "hessian", {"hessian", "diagonal"}) == "hessian"
                       ? Weighting::ReadHessian(options)
                       : Weighting::ReadDiagonal(options, 1.0)) {}
  StatisticsNeed needs() const override { return weighting_.needs(); }
  bool quantizes() const override { return false; }
  bool needs_original() const override { return true; }
  LowRankUse low_rank() const override { return LowRankUse::kCorrects; }
  Status Check(int64_t rows, int64_t cols) const override {
    return target_.Check(rows, cols, /*alone=*/false);
  }
  Status Apply(LayerWork* layer) const override {
    HARROW_CHECK(layer->original.size() == layer->w.size());
    HARROW_ASSIGN_OR_RETURN(const InputScaling scaling, weighting_.Scaling(layer));
    HARROW_ASSIGN_OR_RETURN(const std::vector<float> stored, StoredValues(*layer));
    std::vector<double> lost(layer->original.begin(), layer->original.end());
    for (size_t i = 0; i < lost.size(); ++i)
      lost[i] -= static_cast<double>(stored[i]);
    HARROW_ASSIGN_OR_RETURN(LowRankProduct product,
                            FitLowRank(std::move(lost), layer->rows, layer->cols,
                                       target_.RankOf(layer->rows, layer->cols), scaling));
    product.residual = true;
    layer->low_rank = std::move(product);
    return OkStatus();
  }

 private:
  RankTarget target_;
  Weighting weighting_;
};

}  // namespace

std::unique_ptr<Method> MakeSvdLlm(OptionReader* options) {
  return std::make_unique<Factorize>(options, Weighting::ReadHessian(options));
}

std::unique_ptr<Method> MakeAsvd(OptionReader* options) {
  return std::make_unique<Factorize>(options, Weighting::ReadDiagonal(options, 0.5));
}

std::unique_ptr<Method> MakeLowRankCorrection(OptionReader* options) {
  return std::make_unique<Correction>(options);
}

}  // namespace harrow
