// Least squares on the support that earlier steps left: the kept weights that come closest to the
// outputs of the weight before the first step, without changing the mask. Those outputs are on the
// layer's own inputs, or on the dense model's.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/blas.h"
#include "compress/methods/least_squares.h"

namespace harrow {
namespace {

class Reconstruct final : public Method {
 public:
  explicit Reconstruct(OptionReader* options)
      : damping_(options->Number("damping", 0.01, 0, 100)),
        exact_cols_(options->Integer("exact_up_to", 256, 0, 1 << 20)),
        iterations_(options->Integer("iterations", 200, 1, 100000)),
        tolerance_(options->Number("tolerance", 1e-6, 0, 1)),
        dense_(options->Choice("target", "layer", {"layer", "dense"}) == "dense") {}
  StatisticsNeed needs() const override {
    return dense_ ? StatisticsNeed::kHessian | StatisticsNeed::kDenseInputs
                  : StatisticsNeed::kHessian;
  }
  bool quantizes() const override { return false; }
  bool needs_original() const override { return true; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override;

 private:
  double damping_;
  int64_t exact_cols_;
  int64_t iterations_;
  double tolerance_;
  bool dense_;
};

Status Reconstruct::Apply(LayerWork* layer) const {
  InputStatistics* statistics = layer->statistics;
  HARROW_CHECK(statistics != nullptr && statistics->cols() == layer->cols);
  HARROW_CHECK(layer->original.size() == layer->w.size());
  if (dense_ && layer->low_rank) {
    return Unsupported("`target: dense` does not go with a low-rank product; use `target: layer`");
  }
  layer->damping = damping_;
  layer->dead_columns = statistics->DeadColumns();
  const MaskedLeastSquares least_squares(*statistics, damping_);
  std::vector<double> x(layer->original.begin(), layer->original.end());
  std::vector<double> c(x.size());
  if (dense_) {
    // X W'^T is to come close to X_dense W^T, and W' to W where X does not say.
    const int64_t n = layer->cols;
    c = x;
    Gemm(CblasNoTrans, CblasTrans, layer->rows, n, n, 1.0, x.data(), n,
         statistics->dense_cross().data(), n, least_squares.ridge(), c.data(), n);
  } else {
    least_squares.Multiply(x.data(), layer->rows, c.data());
  }
  const double constant = dense_ ? 0 : -least_squares.Objective(x.data(), c.data(), layer->rows);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = layer->pruned[i] != 0 ? 0.0 : layer->w[i];
  const double before = least_squares.Objective(x.data(), c.data(), layer->rows) + constant;
  std::string how = "Cholesky";
  if (layer->cols <= exact_cols_) {
    HARROW_RETURN_IF_ERROR(least_squares.Solve(*layer, c.data(), layer->pruned.data(), x.data()));
  } else {
    HARROW_RETURN_IF_ERROR(statistics->CheckDefinite(damping_));
    HARROW_ASSIGN_OR_RETURN(const MaskedLeastSquares::Outcome outcome,
                            least_squares.Iterate(*layer, c.data(), layer->pruned.data(),
                                                  iterations_, tolerance_, x.data()));
    how = fmt::format("{} iterations", outcome.iterations);
    if (outcome.unfinished_rows > 0) {
      layer->warnings.push_back(
          fmt::format("reconstruct: {} of {} rows have not reached a residual of {} in {} "
                      "iterations",
                      outcome.unfinished_rows, layer->rows, tolerance_, iterations_));
    }
  }
  const double after = least_squares.Objective(x.data(), c.data(), layer->rows) + constant;
  HARROW_RETURN_IF_ERROR(StoreWeights(x, layer));
  // With the dense target the constant part of the error, |X_dense W^T|^2, is not known.
  layer->notes.push_back(
      dense_ ? fmt::format("reconstruct: {}, damped objective {:.6g} -> {:.6g}", how, before, after)
             : fmt::format("reconstruct: {}, damped error {:.4g} -> {:.4g} of the output", how,
                           before / constant, after / constant));
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeReconstruct(OptionReader* options) {
  return std::make_unique<Reconstruct>(options);
}

}  // namespace harrow
