// ALPS: the mask and the weights together, by ADMM on min |X (W - W')^T|^2 with a bound on the
// number of weights, then conjugate gradients on the support that it found.
// Source: Meng et al., arXiv 2406.07831; alps.py ALPS_admm and cg_batch.
//
// As the authors' code: damping relative to the mean diagonal, scaled to a unit diagonal, one
// eigendecomposition for all penalties rho, rho_0 = 0.1, the support looked at every 3 iterations,
// rho times 1.3, 1.2 or 1.1 by how much of it changed, 10 iterations of conjugate gradients.
// Differences: int(n * s) weights go where they keep round(n * (1 - s)); weights that an earlier
// step pruned stay pruned; inputs up to 1024 wide are done in float64, wider ones in float32 as
// theirs, except for the conjugate gradients. The dual V is 0 on the support and D is 0 off it, so
// that one array holds both.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/methods/least_squares.h"
#include "compress/methods/ridge_inverse.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

constexpr double kFirstRho = 0.1;
constexpr double kLargestRho = 1e6;
constexpr int64_t kUpdateEvery = 3;
// From this iteration on a support that changes by less than kSettled is final.
constexpr int64_t kSwitchIteration = 30;
constexpr double kSettled = 3e-4;

struct AdmmOutcome {
  int64_t iterations = 0;
  double rho = 0;
  double support_change = 0;  // weights that entered or left it last, over the weights kept
};

template <class Real>
class Admm {
 public:
  Admm(const LayerWork& layer, const SparsityTarget& target, const HessianSpectrum& spectrum)
      : layer_(layer),
        target_(target),
        inverse_(spectrum),
        size_(static_cast<size_t>(layer.rows * layer.cols)),
        mask_(size_),
        scores_(size_) {}

  // start [rows, cols]: the scaled weight B_0. rhs: B_0 N. On return *mask is what is pruned and
  // *b [rows, cols] the scaled weights, not yet zero there.
  Result<AdmmOutcome> Run(const std::vector<Real>& start, const std::vector<Real>& rhs,
                          int64_t max_iterations, std::vector<Real>* b, std::vector<uint8_t>* mask);

 private:
  template <class Body>
  void ForElements(const Body& body) {
    const int64_t cols = layer_.cols;
    layer_.pool->ParallelFor(layer_.rows, 16, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin * cols); i < static_cast<size_t>(end * cols); ++i)
        body(i);
    });
  }
  // mask_ from the squares of `values`.
  void Project(const std::vector<Real>& values) {
    ForElements([&](size_t i) {
      const auto value = static_cast<double>(values[i]);
      scores_[i] = layer_.pruned[i] != 0 ? kPrunedScore : value * value;
    });
    SelectMask(target_, layer_.rows, layer_.cols, scores_.data(), mask_.data(), &scratch_);
  }
  const LayerWork& layer_;
  const SparsityTarget& target_;
  RidgeInverse<Real> inverse_;
  size_t size_;
  std::vector<uint8_t> mask_;
  std::vector<double> scores_;
  SelectScratch scratch_;
};

template <class Real>
Result<AdmmOutcome> Admm<Real>::Run(const std::vector<Real>& start, const std::vector<Real>& rhs,
                                    int64_t max_iterations, std::vector<Real>* b,
                                    std::vector<uint8_t>* mask) {
  AdmmOutcome outcome;
  double rho = kFirstRho;
  Project(start);
  const std::vector<uint8_t> first_mask = mask_;
  const auto kept = static_cast<double>(std::count(mask_.begin(), mask_.end(), 0));
  std::vector<uint8_t> seen = mask_;  // the support when it was last looked at
  std::vector<Real> state(size_);     // D on the support, V off it
  const auto reset = [&] {
    *b = start;
    mask_ = first_mask;
    ForElements([&](size_t i) { state[i] = mask_[i] != 0 ? Real{0} : start[i]; });
  };
  reset();
  std::vector<Real> right(size_);
  bool grown = false;
  inverse_.Set(rho);
  for (int64_t i = 0; i < max_iterations && kept > 0; ++i) {
    if (layer_.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    const auto penalty = static_cast<Real>(rho);
    ForElements(
        [&](size_t k) { right[k] = rhs[k] + (mask_[k] != 0 ? -state[k] : penalty * state[k]); });
    inverse_.Multiply(right.data(), layer_.rows, b->data());
    ForElements(
        [&](size_t k) { state[k] = (*b)[k] + (mask_[k] != 0 ? state[k] / penalty : Real{0}); });
    Project(state);
    ForElements([&](size_t k) {
      if (mask_[k] != 0) state[k] *= penalty;
    });
    outcome.iterations = i + 1;
    if ((i + 1) % kUpdateEvery != 0) continue;

    int64_t changed = 0;
    for (size_t k = 0; k < size_; ++k)
      changed += mask_[k] != seen[k];
    seen = mask_;
    outcome.support_change = static_cast<double>(changed) / kept;
    if (outcome.support_change > 0.1) {
      grown = true;
      rho *= 1.3;
    } else if (outcome.support_change > 0.005) {
      grown = true;
      rho *= 1.2;
    } else if (grown) {
      if (changed == 0) break;
      rho *= 1.1;
    } else {
      // The penalty is too strong for the support to move: start again with a weaker one.
      rho /= 5;
      if (changed > 0) reset();
    }
    rho = std::min(rho, kLargestRho);
    if (i >= kSwitchIteration && outcome.support_change < kSettled) break;
    inverse_.Set(rho);
  }
  outcome.rho = rho;
  Project(*b);
  *mask = mask_;
  return outcome;
}

class Alps final : public Method {
 public:
  explicit Alps(OptionReader* options)
      : target_(SparsityTarget::Read(options, std::nullopt)),
        damping_(options->Number("damping", 0.01, 0, 100)),
        iterations_(options->Integer("iterations", 300, 1, 100000)),
        pcg_iterations_(options->Integer("pcg_iterations", 10, 0, 100000)) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kHessian; }
  bool quantizes() const override { return false; }
  bool needs_original() const override { return true; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }
  Status Apply(LayerWork* layer) const override;

 private:
  template <class Real>
  Status Solve(const SparsityTarget& target, const HessianSpectrum& spectrum,
               LayerWork* layer) const;

  SparsityTarget target_;
  double damping_;
  int64_t iterations_;
  int64_t pcg_iterations_;
};

Status Alps::Apply(LayerWork* layer) const {
  InputStatistics* statistics = layer->statistics;
  HARROW_CHECK(statistics != nullptr && statistics->cols() == layer->cols);
  HARROW_CHECK(layer->original.size() == layer->w.size());
  const SparsityTarget target = target_.For(*layer);
  target.Record(layer);
  layer->damping = damping_;
  layer->dead_columns = statistics->DeadColumns();
  HARROW_RETURN_IF_ERROR(statistics->CheckDefinite(damping_));
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const HessianSpectrum> spectrum,
                          statistics->Spectrum(damping_));
  return layer->cols <= kFloat64Cols ? Solve<double>(target, *spectrum, layer)
                                     : Solve<float>(target, *spectrum, layer);
}

template <class Real>
Status Alps::Solve(const SparsityTarget& target, const HessianSpectrum& spectrum,
                   LayerWork* layer) const {
  const size_t size = layer->w.size();
  const auto cols = static_cast<size_t>(layer->cols);
  const MaskedLeastSquares least_squares(*layer->statistics, damping_);
  std::vector<double> x(layer->original.begin(), layer->original.end());
  std::vector<double> c(size);
  least_squares.Multiply(x.data(), layer->rows, c.data());
  std::vector<Real> start(size);
  std::vector<Real> rhs(size);
  for (size_t i = 0; i < size; ++i) {
    const double scale = spectrum.scale[i % cols];
    start[i] = static_cast<Real>(x[i] * scale);
    rhs[i] = static_cast<Real>(c[i] / scale);
  }
  std::vector<Real> b;
  AdmmOutcome outcome;
  {
    Admm<Real> admm(*layer, target, spectrum);
    HARROW_ASSIGN_OR_RETURN(outcome, admm.Run(start, rhs, iterations_, &b, &layer->pruned));
  }
  for (size_t i = 0; i < size; ++i) {
    x[i] = layer->pruned[i] != 0 ? 0.0 : static_cast<double>(b[i]) / spectrum.scale[i % cols];
  }
  if (const Result<MaskedLeastSquares::Outcome> solved = least_squares.Iterate(
          *layer, c.data(), layer->pruned.data(), pcg_iterations_, /*tolerance=*/1e-9, x.data());
      !solved.ok()) {
    return solved.status();
  }
  HARROW_RETURN_IF_ERROR(StoreWeights(x, layer));
  layer->notes.push_back(fmt::format("alps: {} iterations, rho {:.4g}, support change {:.4g}",
                                     outcome.iterations, outcome.rho, outcome.support_change));
  if (outcome.iterations == iterations_ && outcome.support_change >= kSettled) {
    layer->warnings.push_back(
        fmt::format("alps: the support still changed by {:.4g} after {} iterations",
                    outcome.support_change, iterations_));
  }
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeAlps(OptionReader* options) {
  return std::make_unique<Alps>(options);
}

}  // namespace harrow
