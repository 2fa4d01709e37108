// Lasso: min |X (W - W')^T|^2 / 2 + lambda |W'|_1 with the lambda that leaves exactly the weights
// asked for, then least squares on them, which undoes the shrinkage.
//
// In coordinates where the Hessian has a unit diagonal, so that the penalty of a weight is
// proportional to the norm of its input, by ADMM (Boyd et al. 2011, section 6.4, over-relaxed as in
// 3.4.3). There is no search for lambda: soft thresholding takes, in each iteration, the threshold
// that leaves the weights asked for, and where iterations come to rest threshold * rho is the
// lambda whose solution that is. Decision 024 has what the search took.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/methods/least_squares.h"
#include "compress/methods/ridge_inverse.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

constexpr double kRho = 0.5;
constexpr double kRelaxation = 1.7;
// Later iterations keep the threshold: with a fixed one they converge, whereas a weight that comes
// and goes with the threshold can keep both from coming to rest.
constexpr int64_t kChooseThreshold = 200;

// Rows that share a lambda.
struct Group {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t pruned = 0;  // weights that go, those of earlier steps included
};

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
  template <class Real>
  Status Solve(const SparsityTarget& target, const HessianSpectrum& spectrum,
               LayerWork* layer) const;

  SparsityTarget target_;
  double damping_;
  int64_t iterations_;
  double tolerance_;
  int64_t refit_iterations_;
};

struct Outcome {
  int64_t iterations = 0;
  double moved = 0;     // in the last of them, of its row's largest |rhs|
  int64_t by_size = 0;  // weights that the penalty alone would have decided otherwise
};

// Sets z [rows, cols] to the scaled weights, 0 where pruned and where the Lasso has none, and
// layer->pruned. start: the scaled weight B; rhs: B N. Stops when no element of z moves by more
// than `tolerance` of its row's largest |rhs|, nor is so far from the solution of the linear
// system.
template <class Real>
Result<Outcome> Admm(const std::vector<Real>& start, const std::vector<Real>& rhs,
                     const std::vector<Group>& groups, const HessianSpectrum& spectrum,
                     int64_t max_iterations, double tolerance, LayerWork* layer,
                     std::vector<Real>* z) {
  const int64_t cols = layer->cols;
  const size_t size = rhs.size();
  constexpr auto kPenalty = static_cast<Real>(kRho);
  constexpr auto kOver = static_cast<Real>(kRelaxation);
  RidgeInverse<Real> inverse(spectrum);
  inverse.Set(kRho);
  const auto for_rows = [&](const auto& body) {
    layer->pool->ParallelFor(layer->rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        body(row, static_cast<size_t>(row * cols), static_cast<size_t>((row + 1) * cols));
    });
  };
  std::vector<Real> dual(size);   // over rho
  std::vector<Real> right(size);  // then what z + dual is thresholded to
  std::vector<Real> b(size);
  std::vector<Real> scores(size);  // |right|, or kPrunedScore
  std::vector<Real> order;
  std::vector<Real> thresholds(static_cast<size_t>(layer->rows));
  std::vector<Real> moved(thresholds.size());
  std::vector<Real> largest(thresholds.size());
  for_rows([&](int64_t row, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      largest[static_cast<size_t>(row)] =
          std::max(largest[static_cast<size_t>(row)], std::abs(rhs[i]));
  });
  const auto choose = [&] {
    for (const Group& group : groups) {
      Real threshold = 0;
      if (group.pruned > 0) {
        order.assign(scores.begin() + group.begin * cols, scores.begin() + group.end * cols);
        const auto nth = order.begin() + (group.pruned - 1);
        std::nth_element(order.begin(), nth, order.end());
        threshold = std::max(threshold, *nth);
      }
      std::fill(thresholds.begin() + group.begin, thresholds.begin() + group.end, threshold);
    }
  };
  *z = start;
  Outcome outcome;
  while (outcome.iterations < max_iterations) {
    if (layer->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    ++outcome.iterations;
    for_rows([&](int64_t, size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        right[i] = rhs[i] + kPenalty * ((*z)[i] - dual[i]);
    });
    inverse.Multiply(right.data(), layer->rows, b.data());
    for_rows([&](int64_t, size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        right[i] = kOver * b[i] + (1 - kOver) * (*z)[i] + dual[i];
        scores[i] = layer->pruned[i] != 0 ? static_cast<Real>(kPrunedScore) : std::abs(right[i]);
      }
    });
    if (outcome.iterations <= kChooseThreshold) choose();
    for_rows([&](int64_t row, size_t begin, size_t end) {
      const Real threshold = thresholds[static_cast<size_t>(row)];
      Real most = 0;
      for (size_t i = begin; i < end; ++i) {
        const Real value =
            scores[i] > threshold ? std::copysign(scores[i] - threshold, right[i]) : Real{0};
        most = std::max({most, std::abs(value - (*z)[i]), std::abs(value - b[i])});
        dual[i] = right[i] - value;
        (*z)[i] = value;
      }
      const Real scale = largest[static_cast<size_t>(row)];
      moved[static_cast<size_t>(row)] = scale > 0 ? most / scale : Real{0};
    });
    outcome.moved = static_cast<double>(*std::max_element(moved.begin(), moved.end()));
    if (outcome.moved <= tolerance) break;
  }
  // A kept threshold can leave some more or fewer; weights can be equal, too.
  SelectScratch scratch;
  for (const Group& group : groups) {
    const auto first = static_cast<size_t>(group.begin * cols);
    const int64_t count = (group.end - group.begin) * cols;
    const std::vector<double> wide(scores.begin() + group.begin * cols,
                                   scores.begin() + group.end * cols);
    SelectSmallest(wide.data(), count, group.pruned, layer->pruned.data() + first, &scratch.sorted);
    for (size_t i = first; i < first + static_cast<size_t>(count); ++i)
      outcome.by_size += (layer->pruned[i] != 0) != ((*z)[i] == 0);
  }
  return outcome;
}

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
  return layer->cols <= kFloat64Cols ? Solve<double>(target, *spectrum, layer)
                                     : Solve<float>(target, *spectrum, layer);
}

template <class Real>
Status Lasso::Solve(const SparsityTarget& target, const HessianSpectrum& spectrum,
                    LayerWork* layer) const {
  const MaskedLeastSquares least_squares(*layer->statistics, damping_);
  const int64_t rows = layer->rows;
  const auto cols = static_cast<size_t>(layer->cols);
  std::vector<double> x(layer->original.begin(), layer->original.end());
  std::vector<double> c(x.size());
  least_squares.Multiply(x.data(), rows, c.data());
  std::vector<Real> start(x.size());
  std::vector<Real> rhs(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double scale = spectrum.scale[i % cols];
    start[i] = static_cast<Real>(x[i] * scale);
    rhs[i] = static_cast<Real>(c[i] / scale);
  }
  std::vector<Group> groups;
  const int64_t stripe = target.StripeRows(rows);
  for (int64_t begin = 0; begin < rows; begin += stripe) {
    const auto first = layer->pruned.begin() + begin * layer->cols;
    const int64_t count = stripe * layer->cols;
    groups.push_back({begin, begin + stripe,
                      std::max<int64_t>(PrunedCount(count, target.sparsity),
                                        std::count_if(first, first + count,
                                                      [](uint8_t gone) { return gone != 0; }))});
  }
  std::vector<Real> b;
  HARROW_ASSIGN_OR_RETURN(const Outcome outcome,
                          Admm(start, rhs, groups, spectrum, iterations_, tolerance_, layer, &b));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = layer->pruned[i] != 0 ? 0.0 : static_cast<double>(b[i]) / spectrum.scale[i % cols];
  }
  HARROW_ASSIGN_OR_RETURN(const MaskedLeastSquares::Outcome refit,
                          least_squares.Iterate(*layer, c.data(), layer->pruned.data(),
                                                refit_iterations_, tolerance_, x.data()));
  HARROW_RETURN_IF_ERROR(StoreWeights(x, layer));
  layer->notes.push_back(fmt::format("lasso: {} iterations, {} weights chosen by size",
                                     outcome.iterations, outcome.by_size));
  if (!(outcome.moved <= tolerance_)) {
    layer->warnings.push_back(
        fmt::format("lasso: not converged to {} in {} iterations, but to {:.2g}", tolerance_,
                    iterations_, outcome.moved));
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
