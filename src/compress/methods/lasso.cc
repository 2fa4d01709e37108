// Lasso: min |X (W - W')^T|^2 / 2 + lambda |W'|_1 with the lambda that leaves exactly the weights
// asked for, then least squares on them, which undoes the shrinkage.
//
// In coordinates where the Hessian has a unit diagonal, so that the penalty of a weight is
// proportional to the norm of its input, by accelerated proximal gradients (FISTA, Beck and
// Teboulle 2009, with the restart of O'Donoghue and Candes 2015). lambda is bisected from the
// smallest that prunes everything; each solution starts from the one before.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/methods/least_squares.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

// Halvings of lambda's bracket after which what is over or short is settled by the size of weights.
constexpr int kBisections = 60;

class Lasso final : public Method {
 public:
  explicit Lasso(OptionReader* options)
      : target_(SparsityTarget::Read(options, ScoreGroup::kLayer)),
        damping_(options->Number("damping", 0.01, 0, 100)),
        iterations_(options->Integer("iterations", 500, 1, 1000000)),
        tolerance_(options->Number("tolerance", 1e-6, 0, 1)),
        refit_iterations_(options->Integer("refit_iterations", 200, 0, 100000)) {
    if (target_.pattern != Pattern()) {
      options->Fail("pattern", fmt::format("lasso is unstructured; {} is for other pruners",
                                           PatternText(target_.pattern)));
    }
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kHessian; }
  bool quantizes() const override { return false; }
  bool needs_original() const override { return true; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override;

 private:
  SparsityTarget target_;
  double damping_;
  int64_t iterations_;
  double tolerance_;
  int64_t refit_iterations_;
};

// The scaled problem of a layer: rows are independent given their lambdas.
class Fista {
 public:
  Fista(const LayerWork& layer, const MaskedLeastSquares& least_squares,
        const HessianSpectrum& spectrum, const std::vector<double>& c)
      : layer_(layer),
        least_squares_(least_squares),
        spectrum_(spectrum),
        c_(c),
        step_(1.0 / std::max(spectrum.values.back(), 1e-300)),
        previous_(c.size()),
        look_(c.size()),
        unscaled_(c.size()),
        gradient_(c.size()) {}

  // Improves b [rows, cols] for the lambdas [rows] until no element moves by more than `tolerance`
  // of its row's largest |c|. Returns the iterations, or max_iterations + 1 when that was not
  // enough.
  Result<int64_t> Run(const std::vector<double>& lambdas, int64_t max_iterations, double tolerance,
                      std::vector<double>* b);

 private:
  const LayerWork& layer_;
  const MaskedLeastSquares& least_squares_;
  const HessianSpectrum& spectrum_;
  const std::vector<double>& c_;
  double step_;
  std::vector<double> previous_;
  std::vector<double> look_;  // the extrapolated point
  std::vector<double> unscaled_;
  std::vector<double> gradient_;
};

Result<int64_t> Fista::Run(const std::vector<double>& lambdas, int64_t max_iterations,
                           double tolerance, std::vector<double>* b) {
  const int64_t cols = layer_.cols;
  const double* const scale = spectrum_.scale.data();
  std::vector<double> momentum(static_cast<size_t>(layer_.rows), 1.0);
  std::vector<double> moved(static_cast<size_t>(layer_.rows));
  look_ = *b;
  for (int64_t iteration = 1; iteration <= max_iterations; ++iteration) {
    if (layer_.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    // The gradient look N - c, with N = S^-1 A S^-1.
    layer_.pool->ParallelFor(layer_.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * cols; i < end * cols; ++i)
        unscaled_[static_cast<size_t>(i)] = look_[static_cast<size_t>(i)] / scale[i % cols];
    });
    least_squares_.Multiply(unscaled_.data(), layer_.rows, gradient_.data());
    previous_.swap(*b);
    layer_.pool->ParallelFor(layer_.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const double threshold = lambdas[static_cast<size_t>(row)] * step_;
        double uphill = 0;
        double largest = 0;
        double size = 0;
        for (int64_t j = 0; j < cols; ++j) {
          const auto i = static_cast<size_t>(row * cols + j);
          const double g = gradient_[i] / scale[j] - c_[i];
          const double t = look_[i] - step_ * g;
          double value = std::copysign(std::max(std::fabs(t) - threshold, 0.0), t);
          if (value == 0 || layer_.pruned[i] != 0) value = 0;
          (*b)[i] = value;
          uphill += (look_[i] - value) * (value - previous_[i]);
          largest = std::max(largest, std::fabs(value - previous_[i]));
          size = std::max(size, std::fabs(c_[i]));
        }
        double& momentum_row = momentum[static_cast<size_t>(row)];
        if (uphill > 0) momentum_row = 1.0;
        const double next = (1 + std::sqrt(1 + 4 * momentum_row * momentum_row)) / 2;
        const double ahead = (momentum_row - 1) / next;
        momentum_row = next;
        for (int64_t j = 0; j < cols; ++j) {
          const auto i = static_cast<size_t>(row * cols + j);
          look_[i] = (*b)[i] + ahead * ((*b)[i] - previous_[i]);
        }
        moved[static_cast<size_t>(row)] = size > 0 ? largest / size : 0.0;
      }
    });
    if (*std::max_element(moved.begin(), moved.end()) <= tolerance) return iteration;
  }
  return max_iterations + 1;
}

// The bracket of one group of rows that share a lambda.
struct Bracket {
  int64_t begin = 0;  // rows
  int64_t end = 0;
  int64_t wanted = 0;  // weights to keep
  double low = 0;      // leaves more than wanted
  double high = 0;     // leaves fewer
  bool exact = false;
};

Status Lasso::Apply(LayerWork* layer) const {
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
  const MaskedLeastSquares least_squares(*statistics, damping_);
  const int64_t rows = layer->rows;
  const int64_t cols = layer->cols;
  std::vector<double> x(layer->original.begin(), layer->original.end());
  std::vector<double> c(x.size());
  least_squares.Multiply(x.data(), rows, c.data());
  std::vector<double> scaled_c(c);
  for (size_t i = 0; i < c.size(); ++i)
    scaled_c[i] /= spectrum->scale[i % static_cast<size_t>(cols)];

  std::vector<Bracket> brackets;
  const int64_t stripe = target.StripeRows(rows);
  for (int64_t begin = 0; begin < rows; begin += stripe) {
    Bracket bracket;
    bracket.begin = begin;
    bracket.end = begin + stripe;
    bracket.wanted = stripe * cols - PrunedCount(stripe * cols, target.sparsity);
    int64_t possible = 0;
    for (int64_t i = begin * cols; i < bracket.end * cols; ++i) {
      if (layer->pruned[static_cast<size_t>(i)] != 0) continue;
      ++possible;
      bracket.high = std::max(bracket.high, std::fabs(scaled_c[static_cast<size_t>(i)]));
    }
    bracket.wanted = std::min(bracket.wanted, possible);
    brackets.push_back(bracket);
  }

  Fista fista(*layer, least_squares, *spectrum, scaled_c);
  std::vector<double> lambdas(static_cast<size_t>(rows));
  std::vector<double> b(c.size());
  std::vector<double> best(c.size());  // the last solution that kept enough, by group
  int64_t iterations = 0;
  bool converged = true;  // the last solution
  for (int bisection = 0; bisection < kBisections; ++bisection) {
    bool open = false;
    for (const Bracket& bracket : brackets) {
      std::fill(lambdas.begin() + bracket.begin, lambdas.begin() + bracket.end,
                bracket.exact ? bracket.low : (bracket.low + bracket.high) / 2);
      open = open || (!bracket.exact && bracket.high - bracket.low > 1e-12 * bracket.high);
    }
    if (!open) break;
    HARROW_ASSIGN_OR_RETURN(const int64_t took, fista.Run(lambdas, iterations_, tolerance_, &b));
    iterations += std::min(took, iterations_);
    converged = took <= iterations_;
    for (Bracket& bracket : brackets) {
      if (bracket.exact) continue;
      const auto first = b.begin() + bracket.begin * cols;
      const auto last = b.begin() + bracket.end * cols;
      const int64_t kept = (last - first) - std::count(first, last, 0.0);
      const double middle = (bracket.low + bracket.high) / 2;
      (kept < bracket.wanted ? bracket.high : bracket.low) = middle;
      if (kept >= bracket.wanted) std::copy(first, last, best.begin() + bracket.begin * cols);
      bracket.exact = kept == bracket.wanted;
    }
  }

  // Where weights leave together no lambda is exact: the smallest of those that are too many go.
  int64_t trimmed = 0;
  SelectScratch scratch;
  for (const Bracket& bracket : brackets) {
    const auto first = static_cast<size_t>(bracket.begin * cols);
    const auto count = (bracket.end - bracket.begin) * cols;
    std::vector<double> scores(static_cast<size_t>(count));
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = layer->pruned[first + i] != 0 ? kPrunedScore : std::fabs(best[first + i]);
      trimmed += scores[i] > 0;
    }
    SelectSmallest(scores.data(), count, count - bracket.wanted, layer->pruned.data() + first,
                   &scratch.sorted);
    trimmed -= bracket.wanted;
  }
  trimmed = std::max<int64_t>(trimmed, 0);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = layer->pruned[i] != 0 ? 0.0 : best[i] / spectrum->scale[i % static_cast<size_t>(cols)];
  }
  HARROW_ASSIGN_OR_RETURN(const MaskedLeastSquares::Outcome refit,
                          least_squares.Iterate(*layer, c.data(), layer->pruned.data(),
                                                refit_iterations_, tolerance_, x.data()));
  HARROW_RETURN_IF_ERROR(StoreWeights(x, layer));
  layer->notes.push_back(
      fmt::format("lasso: {} iterations, {} weights chosen by size", iterations, trimmed));
  if (!converged) {
    layer->warnings.push_back(
        fmt::format("lasso: not converged to {} in {} iterations", tolerance_, iterations_));
  }
  if (refit.unfinished_rows > 0) {
    layer->warnings.push_back(fmt::format("lasso: {} of {} rows not refitted in {} iterations",
                                          refit.unfinished_rows, rows, refit_iterations_));
  }
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeLasso(OptionReader* options) {
  return std::make_unique<Lasso>(options);
}

}  // namespace harrow
