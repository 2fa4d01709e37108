#include "compress/methods/low_rank_fit.h"

#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"
#include "compress/blas.h"

namespace harrow {
namespace {

float RoundToBf16(double value) {
  return Bf16ToF32(F32ToBf16(static_cast<float>(value)));
}

// The eigenvectors of the `count` largest eigenvalues of a symmetric matrix [n, n] whose upper
// triangle (row-major) is given and destroyed: rows of the result [count, n], largest first.
Result<std::vector<double>> TopEigenvectors(std::vector<double> a, int64_t n, int64_t count) {
  const auto order = static_cast<lapack_int>(n);
  const auto first = static_cast<lapack_int>(n - count + 1);
  const double bound = 0;  // unused: the range is given by index
  const double tolerance = 0;
  std::vector<double> values(static_cast<size_t>(n));
  std::vector<double> vectors(static_cast<size_t>(count * n));
  std::vector<lapack_int> support(static_cast<size_t>(2 * count));
  lapack_int found = 0;
  const LapackThreads threads(n);
  lapack_int info = 0;
  double best_work = 0;
  lapack_int best_integers = 0;
  const lapack_int query = -1;
  // LAPACK is column-major: our upper triangle is its lower one, its columns are our rows.
  LAPACK_dsyevr("V", "I", "L", &order, a.data(), &order, &bound, &bound, &first, &order, &tolerance,
                &found, values.data(), vectors.data(), &order, support.data(), &best_work, &query,
                &best_integers, &query, &info);
  const auto work_size = static_cast<lapack_int>(best_work);
  std::vector<double> work(static_cast<size_t>(work_size));
  std::vector<lapack_int> integers(static_cast<size_t>(best_integers));
  LAPACK_dsyevr("V", "I", "L", &order, a.data(), &order, &bound, &bound, &first, &order, &tolerance,
                &found, values.data(), vectors.data(), &order, support.data(), work.data(),
                &work_size, integers.data(), &best_integers, &info);
  if (info != 0 || found != count) {
    return Error(
        StatusCode::kNumerical,
        "the eigenvalues of a Gram matrix of order {} did not converge (LAPACK dsyevr: {})", n,
        info);
  }
  for (int64_t k = 0; k < count / 2; ++k) {
    std::swap_ranges(vectors.begin() + k * n, vectors.begin() + (k + 1) * n,
                     vectors.begin() + (count - 1 - k) * n);
  }
  for (int64_t k = 0; k < count; ++k) {
    const auto row = vectors.begin() + k * n;
    const auto largest = std::max_element(
        row, row + n, [](double x, double y) { return std::fabs(x) < std::fabs(y); });
    if (*largest >= 0) continue;
    std::transform(row, row + n, row, [](double x) { return -x; });
  }
  return vectors;
}

// m = m S.
void ScaleInputs(const InputScaling& scaling, int64_t rows, int64_t cols, std::vector<double>* m) {
  if (scaling.hessian != nullptr) {
    ForBlasRows(rows, static_cast<double>(cols * cols), [&](int64_t begin, int64_t count) {
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit,
                  static_cast<blasint>(count), static_cast<blasint>(cols), 1.0,
                  scaling.hessian->upper.data(), static_cast<blasint>(cols),
                  m->data() + begin * cols, static_cast<blasint>(cols));
    });
    return;
  }
  for (int64_t i = 0; i < rows * cols; ++i)
    (*m)[static_cast<size_t>(i)] *= scaling.diagonal[static_cast<size_t>(i % cols)];
}

// m = m S^-1.
void UnscaleInputs(const InputScaling& scaling, int64_t rows, int64_t cols,
                   std::vector<double>* m) {
  if (scaling.hessian != nullptr) {
    ForBlasRows(rows, static_cast<double>(cols * cols), [&](int64_t begin, int64_t count) {
      cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit,
                  static_cast<blasint>(count), static_cast<blasint>(cols), 1.0,
                  scaling.hessian->upper.data(), static_cast<blasint>(cols),
                  m->data() + begin * cols, static_cast<blasint>(cols));
    });
    return;
  }
  for (int64_t i = 0; i < rows * cols; ++i)
    (*m)[static_cast<size_t>(i)] /= scaling.diagonal[static_cast<size_t>(i % cols)];
}

}  // namespace

Result<LowRankProduct> FitLowRank(std::vector<double> m, int64_t rows, int64_t cols, int64_t rank,
                                  const InputScaling& scaling) {
  HARROW_CHECK(rank >= 1 && rank <= std::min(rows, cols));
  HARROW_CHECK(static_cast<int64_t>(m.size()) == rows * cols);
  ScaleInputs(scaling, rows, cols, &m);
  const bool wide = rows <= cols;
  const int64_t order = std::min(rows, cols);
  std::vector<double> gram(static_cast<size_t>(order * order));
  Gram(wide ? CblasNoTrans : CblasTrans, order, wide ? cols : rows, m.data(), 0.0, gram.data());
  HARROW_ASSIGN_OR_RETURN(const std::vector<double> vectors,
                          TopEigenvectors(std::move(gram), order, rank));

  // M S = sum of s_k u_k v_k^T. From u: B = U, A = U^T M S S^-1. From v: B = M S V, A = V^T S^-1.
  LowRankProduct product;
  product.rank = rank;
  std::vector<double> a(static_cast<size_t>(rank * cols));
  std::vector<double> b(static_cast<size_t>(rows * rank));
  if (wide) {
    Gemm(CblasNoTrans, CblasNoTrans, rank, cols, rows, 1.0, vectors.data(), rows, m.data(), cols,
         0.0, a.data(), cols);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = 0; k < rank; ++k)
        b[static_cast<size_t>(row * rank + k)] = vectors[static_cast<size_t>(k * rows + row)];
    }
  } else {
    Gemm(CblasNoTrans, CblasTrans, rows, rank, cols, 1.0, m.data(), cols, vectors.data(), cols, 0.0,
         b.data(), rank);
    a = vectors;
  }
  UnscaleInputs(scaling, rank, cols, &a);
  for (const std::vector<double>* values : {&a, &b}) {
    if (std::all_of(values->begin(), values->end(),
                    [](double v) { return std::isfinite(RoundToBf16(v)); })) {
      continue;
    }
    return Error(StatusCode::kNumerical, "the low-rank factors are not finite");
  }
  product.a.resize(a.size());
  product.b.resize(b.size());
  std::transform(a.begin(), a.end(), product.a.begin(), RoundToBf16);
  std::transform(b.begin(), b.end(), product.b.begin(), RoundToBf16);
  return product;
}

void Multiply(const LowRankProduct& product, int64_t rows, int64_t cols, double* out) {
  const std::vector<double> a(product.a.begin(), product.a.end());
  const std::vector<double> b(product.b.begin(), product.b.end());
  Gemm(CblasNoTrans, CblasNoTrans, rows, cols, product.rank, 1.0, b.data(), product.rank, a.data(),
       cols, 0.0, out, cols);
}

RankTarget RankTarget::Read(OptionReader* options) {
  RankTarget target;
  const bool by_rank = options->Has("rank");
  if (by_rank == options->Has("ratio")) {
    options->Fail(by_rank ? "ratio" : "rank",
                  "expected one of `rank` and `ratio` (parameters of the factors as a fraction of "
                  "the weight's)");
  }
  if (by_rank) {
    target.rank = options->Integer("rank", 1, 1, 1 << 24);
  } else {
    target.ratio = options->Number("ratio", 0.5, 0, 2);
  }
  return target;
}

int64_t RankTarget::RankOf(int64_t rows, int64_t cols) const {
  if (rank > 0) return rank;
  return static_cast<int64_t>(static_cast<double>(rows) * static_cast<double>(cols) * ratio /
                              static_cast<double>(rows + cols));
}

Status RankTarget::Check(int64_t rows, int64_t cols, bool alone) const {
  const int64_t asked = RankOf(rows, cols);
  const int64_t most = std::min(rows, cols);
  if (asked < 1) {
    return InvalidArgument("ratio: {} of [{}, {}] is a rank of 0, expected at least 1", ratio, rows,
                           cols);
  }
  if (asked > most) {
    return InvalidArgument("rank {} of a weight [{}, {}], expected at most {}", asked, rows, cols,
                           most);
  }
  if (alone && asked * (rows + cols) >= rows * cols) {
    return InvalidArgument(
        "factors of rank {} have {} parameters, the weight [{}, {}] they replace has {}; expected "
        "a rank of at most {}",
        asked, asked * (rows + cols), rows, cols, rows * cols, (rows * cols - 1) / (rows + cols));
  }
  return OkStatus();
}

}  // namespace harrow
