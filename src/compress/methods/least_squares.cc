#include "compress/methods/least_squares.h"

#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "compress/blas.h"

namespace harrow {
namespace {

// Rows that are iterated together: enough for BLAS, few enough that the rows which are done do not
// wait for the slowest of the layer.
constexpr int64_t kRows = 256;

double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += a[i] * b[i];
  return sum;
}

}  // namespace

MaskedLeastSquares::MaskedLeastSquares(const InputStatistics& statistics, double damping)
    : hessian_(statistics.hessian()), cols_(statistics.cols()) {
  double mean = 0;
  for (int64_t j = 0; j < cols_; ++j)
    mean += hessian_[static_cast<size_t>(j * cols_ + j)] / static_cast<double>(cols_);
  ridge_ = damping * mean;
  for (int64_t j = 0; j < cols_; ++j) {
    const double diagonal = hessian_[static_cast<size_t>(j * cols_ + j)] + ridge_;
    inverse_diagonal_.push_back(diagonal > 0 ? 1.0 / diagonal : 0.0);
  }
}

void MaskedLeastSquares::Multiply(const double* x, int64_t rows, double* out) const {
  TimesSymmetric(rows, cols_, x, hessian_.data(), out);
  for (int64_t i = 0; i < rows * cols_; ++i)
    out[i] += ridge_ * x[i];
}

double MaskedLeastSquares::Objective(const double* x, const double* c, int64_t rows) const {
  std::vector<double> product(static_cast<size_t>(std::min(rows, kRows) * cols_));
  double total = 0;
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const int64_t count = std::min(kRows, rows - begin);
    const double* rows_x = x + begin * cols_;
    Multiply(rows_x, count, product.data());
    total += Dot(rows_x, product.data(), count * cols_) -
             2 * Dot(rows_x, c + begin * cols_, count * cols_);
  }
  return total;
}

Result<MaskedLeastSquares::Outcome> MaskedLeastSquares::Iterate(const LayerWork& layer,
                                                                const double* c,
                                                                const uint8_t* pruned,
                                                                int64_t max_iterations,
                                                                double tolerance, double* x) const {
  const int64_t n = cols_;
  const int64_t most = std::min(kRows, layer.rows);
  std::vector<double> residual(static_cast<size_t>(most * n));
  std::vector<double> direction(residual.size());
  std::vector<double> product(residual.size());
  std::vector<double> energy(static_cast<size_t>(most));  // r M^-1 r
  std::vector<double> enough(energy.size());              // the energy to reach
  Outcome outcome;
  for (int64_t begin = 0; begin < layer.rows; begin += kRows) {
    const int64_t count = std::min(kRows, layer.rows - begin);
    double* const chunk = x + begin * n;
    const uint8_t* const mask = pruned + begin * n;
    Multiply(chunk, count, product.data());
    layer.pool->ParallelFor(count, 8, [&](int64_t from, int64_t to) {
      for (int64_t row = from; row < to; ++row) {
        double goal = 0;
        double start = 0;
        for (int64_t j = 0; j < n; ++j) {
          const auto i = static_cast<size_t>(row * n + j);
          const double wanted = mask[i] != 0 ? 0.0 : c[begin * n + row * n + j];
          const double r = mask[i] != 0 ? 0.0 : wanted - product[i];
          const double inverse = inverse_diagonal_[static_cast<size_t>(j)];
          residual[i] = r;
          direction[i] = inverse * r;
          goal += wanted * inverse * wanted;
          start += r * direction[i];
        }
        energy[static_cast<size_t>(row)] = start;
        enough[static_cast<size_t>(row)] = tolerance * tolerance * goal;
      }
    });
    const auto unfinished = [&] {
      int64_t rows = 0;
      for (int64_t row = 0; row < count; ++row)
        rows += energy[static_cast<size_t>(row)] > enough[static_cast<size_t>(row)];
      return rows;
    };
    int64_t iteration = 0;
    for (; iteration < max_iterations && unfinished() > 0; ++iteration) {
      if (layer.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
      Multiply(direction.data(), count, product.data());
      layer.pool->ParallelFor(count, 8, [&](int64_t from, int64_t to) {
        for (int64_t row = from; row < to; ++row) {
          double& before = energy[static_cast<size_t>(row)];
          if (before <= enough[static_cast<size_t>(row)]) continue;
          double* const p = direction.data() + row * n;
          double* const r = residual.data() + row * n;
          const double* const ap = product.data() + row * n;
          const double curvature = Dot(p, ap, n);
          // Only rounding leaves no curvature: the row cannot get better.
          if (!(curvature > 0)) {
            before = 0;
            continue;
          }
          const double step = before / curvature;
          double after = 0;
          for (int64_t j = 0; j < n; ++j) {
            chunk[row * n + j] += step * p[j];
            r[j] = mask[row * n + j] != 0 ? 0.0 : r[j] - step * ap[j];
            after += r[j] * inverse_diagonal_[static_cast<size_t>(j)] * r[j];
          }
          for (int64_t j = 0; j < n; ++j)
            p[j] = inverse_diagonal_[static_cast<size_t>(j)] * r[j] + after / before * p[j];
          before = after;
        }
      });
    }
    outcome.iterations = std::max(outcome.iterations, iteration);
    outcome.unfinished_rows += unfinished();
  }
  return outcome;
}

Status MaskedLeastSquares::Solve(const LayerWork& layer, const double* c, const uint8_t* pruned,
                                 double* x) const {
  std::vector<double> a(static_cast<size_t>(cols_ * cols_));
  std::vector<double> b(static_cast<size_t>(cols_));
  std::vector<int64_t> support;
  for (int64_t row = 0; row < layer.rows; ++row) {
    if (layer.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    support.clear();
    // An input that never varied has nothing to say about its weight, which keeps its value.
    for (int64_t j = 0; j < cols_; ++j) {
      if (pruned[row * cols_ + j] == 0 && inverse_diagonal_[static_cast<size_t>(j)] > 0)
        support.push_back(j);
    }
    if (support.empty()) continue;
    const size_t k = support.size();
    for (size_t i = 0; i < k; ++i) {
      const double* from = hessian_.data() + support[i] * cols_;
      for (size_t j = 0; j <= i; ++j)
        a[i * k + j] = from[support[j]];
      a[i * k + i] += ridge_;
      b[i] = c[row * cols_ + support[i]];
    }
    const auto order = static_cast<lapack_int>(k);
    const lapack_int one = 1;
    lapack_int info = 0;
    LAPACK_dposv("U", &order, &one, a.data(), &order, b.data(), &order, &info);
    if (info != 0) {
      return Error(
          StatusCode::kNumerical,
          "the Hessian of the {} weights that row {} keeps is not positive definite with a "
          "ridge of {}; use a larger `damping` or more calibration text",
          k, row, ridge_);
    }
    for (size_t i = 0; i < k; ++i)
      x[row * cols_ + support[i]] = b[i];
  }
  return OkStatus();
}

Status StoreWeights(const std::vector<double>& x, LayerWork* layer) {
  for (size_t i = 0; i < x.size(); ++i) {
    layer->w[i] = layer->pruned[i] != 0 ? 0.0f : static_cast<float>(x[i]);
    if (!std::isfinite(layer->w[i])) {
      return Error(StatusCode::kNumerical, "the weight became {} at row {}, column {}", x[i],
                   static_cast<int64_t>(i) / layer->cols, static_cast<int64_t>(i) % layer->cols);
    }
  }
  return OkStatus();
}

}  // namespace harrow
