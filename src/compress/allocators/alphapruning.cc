// AlphaPruning: blocks whose weight spectra have heavier tails (a lower exponent) are pruned less.
// Source: Lu et al., arXiv 2410.10912; net_esd_estimator of lib/esd_utils.py (alpha_peak) and
// ww_sparsity of lib/prune.py (mapping_type block_wise). Their lower bound of xmin compares an
// eigenvalue with the logarithm of another one; it is kept, as their results were made with it.
// They take singular values in float32 and keep all; here eigenvalues of the Gram matrix in float64
// and without those that are zero to working precision, whose logarithm means nothing.
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compress/allocators/allocator.h"
#include "compress/blas.h"
#include "compress/row_slices.h"

namespace harrow {
namespace {

// Eigenvalues of W^T W, ascending, as many as the smaller side of W.
Result<std::vector<double>> Eigenvalues(const DenseWeight& dense) {
  const int64_t rows = dense.weight->rows;
  const int64_t cols = dense.weight->cols;
  const int64_t n = std::min(rows, cols);
  std::vector<double> gram(static_cast<size_t>(n * n));
  // W W^T needs all of W at once, W^T W a slice of rows at a time.
  std::vector<double> w;
  HARROW_RETURN_IF_ERROR(
      ForRowSlices(dense.name, *dense.weight, [&](int64_t, const float* values, int64_t count) {
        if (cols > rows) {
          w.insert(w.end(), values, values + count);
          return;
        }
        w.assign(values, values + count);
        Gram(CblasTrans, n, count / cols, w.data(), 1.0, gram.data());
      }));
  if (cols > rows) {
    Gram(CblasNoTrans, n, cols, w.data(), 0.0, gram.data());
  }
  // Our upper triangle is the lower one of LAPACK's column-major order.
  std::vector<double> values(static_cast<size_t>(n));
  const auto order = static_cast<lapack_int>(n);
  lapack_int info = 0;
  lapack_int int_size = 0;
  double size = 0;
  const lapack_int query = -1;
  const LapackThreads threads(n);
  LAPACK_dsyevd("N", "L", &order, gram.data(), &order, values.data(), &size, &query, &int_size,
                &query, &info);
  std::vector<double> work(static_cast<size_t>(std::max(size, 1.0)));
  std::vector<lapack_int> int_work(static_cast<size_t>(std::max<lapack_int>(int_size, 1)));
  const auto work_size = static_cast<lapack_int>(work.size());
  const auto int_work_size = static_cast<lapack_int>(int_work.size());
  LAPACK_dsyevd("N", "L", &order, gram.data(), &order, values.data(), work.data(), &work_size,
                int_work.data(), &int_work_size, &info);
  if (info != 0) {
    return Error(StatusCode::kNumerical, "{}: its spectrum did not converge", dense.name);
  }
  const double floor = static_cast<double>(n) * std::numeric_limits<double>::epsilon() *
                       std::max(values.back(), 0.0);
  values.erase(values.begin(), std::upper_bound(values.begin(), values.end(), floor));
  return values;
}

// The lower edge of the fullest of 100 equal bins of log10, the first where several are.
double PeakEdge(const std::vector<double>& eigenvalues) {
  constexpr int kBins = 100;
  const double low = std::log10(eigenvalues.front());
  const double high = std::log10(eigenvalues.back());
  int counts[kBins] = {};
  for (const double value : eigenvalues) {
    const auto bin = static_cast<int>((std::log10(value) - low) / (high - low) * kBins);
    ++counts[std::clamp(bin, 0, kBins - 1)];
  }
  const auto peak = std::max_element(counts, counts + kBins) - counts;
  return std::pow(10.0, low + (high - low) * static_cast<double>(peak) / kBins);
}

// Hill's estimate from the tail above the xmin (near the peak of the histogram) at which a power
// law fits best in Kolmogorov and Smirnov's distance.
Result<double> TailExponent(const DenseWeight& dense) {
  HARROW_ASSIGN_OR_RETURN(const std::vector<double> values, Eigenvalues(dense));
  const size_t count = values.size();
  double best = std::numeric_limits<double>::infinity();
  double exponent = 0;
  if (count >= 2 && values.front() < values.back()) {
    std::vector<double> logs(count);
    std::transform(values.begin(), values.end(), logs.begin(),
                   [](double v) { return std::log(v); });
    double log_sum = std::accumulate(logs.begin(), logs.end(), 0.0);
    const double peak = PeakEdge(values);
    for (size_t i = 0; i + 1 < count; log_sum -= logs[i], ++i) {
      if (values[i] < std::log10(0.95 * peak)) continue;
      if (values[i] > 1.5 * peak) break;
      const auto n = static_cast<double>(count - i);
      const double alpha = 1 + n / (log_sum - n * logs[i]);
      if (!std::isfinite(alpha) || alpha <= 1) continue;
      double distance = 0;
      for (size_t k = i; k < count; ++k) {
        const double tail = std::exp((1 - alpha) * (logs[k] - logs[i]));
        distance = std::max(distance, std::fabs(1 - tail - static_cast<double>(k - i) / n));
      }
      if (distance < best) {
        best = distance;
        exponent = alpha;
      }
    }
  }
  if (exponent == 0) {
    return Error(StatusCode::kNumerical,
                 "{}: no power law fits its {} eigenvalues that are not zero; leave it out of the "
                 "step, or use another allocation",
                 dense.name, count);
  }
  return exponent;
}

class AlphaPruning final : public Allocator {
 public:
  explicit AlphaPruning(OptionReader* options) : epsilon_(options->Number("epsilon", 0.3, 0, 1)) {}
  DenseNeed needs() const override { return DenseNeed::kWeights; }

  Result<double> Score(std::span<const DenseWeight> unit) const override {
    double sum = 0;
    for (const DenseWeight& dense : unit) {
      HARROW_ASSIGN_OR_RETURN(const double exponent, TailExponent(dense));
      sum += exponent;
    }
    return sum / static_cast<double>(unit.size());
  }

  // Linear from 1 - epsilon at the lowest exponent to 1 + epsilon at the highest, then scaled to
  // the mean.
  Result<std::vector<double>> Allocate(const AllocationProblem& problem) const override {
    const auto [low, high] = std::minmax_element(problem.scores.begin(), problem.scores.end());
    std::vector<double> values;
    for (const AllocationLayer& layer : problem.layers) {
      const double place =
          *high > *low ? (problem.scores[layer.unit] - *low) / (*high - *low) : 0.5;
      values.push_back(1 - epsilon_ + 2 * epsilon_ * place);
    }
    const double scale = problem.sparsity / MeanOverWeights(problem, values);
    for (double& value : values)
      value *= scale;
    return values;
  }

 private:
  double epsilon_;
};

}  // namespace

std::unique_ptr<Allocator> MakeAlphaPruning(OptionReader* options, bool) {
  return std::make_unique<AlphaPruning>(options);
}

}  // namespace harrow
