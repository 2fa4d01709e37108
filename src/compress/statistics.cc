#include "compress/statistics.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "compress/blas.h"

namespace harrow {
namespace {

// Inputs up to this width are accumulated in float64 throughout. Wider ones are multiplied in
// float32, one call of at most a sequence at a time, and the products summed in float64: float32
// products run twice as fast, and the width is what their cost grows with (docs/decisions/020).
constexpr int64_t kDoubleGramCols = 1024;
constexpr int64_t kConvertRows = 256;
constexpr int64_t kEnergyRows = 256;

// Inputs by falling H_jj, where H_jj = 1 for dead ones.
std::vector<int64_t> ActOrder(const std::vector<double>& hessian, int64_t n) {
  const auto diagonal = [&](int64_t j) {
    const double value = hessian[static_cast<size_t>(j * n + j)];
    return value == 0 ? 1 : value;
  };
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  return order;
}

// `order` may be empty. Errors name inputs, not places in the order.
Result<HessianFactor> TryFactor(const std::vector<double>& hessian, int64_t n, double fraction,
                                const std::vector<int64_t>& order) {
  HessianFactor factor;
  factor.percent_damping = fraction;
  factor.order = order;
  const auto input = [&](int64_t j) { return order.empty() ? j : order[static_cast<size_t>(j)]; };
  std::vector<double>& a = factor.upper;
  a = hessian;
  for (int64_t i = 0; i < n && !order.empty(); ++i) {
    const double* row = hessian.data() + input(i) * n;
    for (int64_t j = 0; j < n; ++j)
      a[static_cast<size_t>(i * n + j)] = row[input(j)];
  }
  double mean = 0;
  for (int64_t j = 0; j < n; ++j) {
    double& diagonal = a[static_cast<size_t>(j * n + j)];
    if (diagonal == 0) diagonal = 1;
    mean += diagonal / static_cast<double>(n);
  }
  for (int64_t j = 0; j < n; ++j)
    a[static_cast<size_t>(j * n + j)] += fraction * mean;

  // With J the reversal of rows and columns and J H J = L L^T, the matrix R = J L J is upper
  // triangular and H = R R^T, hence inverse(H) = U^T U with U = inverse(R). That is the factor
  // that the authors get from cholesky(cholesky_inverse(cholesky(H)), upper), for half the work
  // and without forming the inverse. J A J of a square array is the array reversed.
  // LAPACK is called in its own column-major order: our upper triangle is its lower one.
  std::reverse(a.begin(), a.end());
  const auto size = static_cast<lapack_int>(n);
  lapack_int info = 0;
  const LapackThreads threads(n);
  LAPACK_dpotrf("U", &size, a.data(), &size, &info);
  int64_t failed = info > 0 ? n - info : -1;
  std::reverse(a.begin(), a.end());
  // A pivot within the rounding error of the factorization (n * 2^-53 of the diagonal) is noise:
  // the matrix is singular to working precision even where LAPACK happened to get through.
  for (int64_t j = 0; j < n && info == 0; ++j) {
    const auto at = static_cast<size_t>(j * n + j);
    const double own = hessian[static_cast<size_t>(input(j) * (n + 1))];
    const double diagonal = (own == 0 ? 1 : own) + fraction * mean;
    if (!(a[at] * a[at] > static_cast<double>(n) * 0x1.0p-53 * diagonal)) {
      info = 1;
      failed = j;
    }
  }
  if (info != 0) {
    return Error(StatusCode::kNumerical,
                 "the Hessian of {} inputs is not positive definite with a damping of {} (Cholesky "
                 "failed at input {}); use a larger `damping` or more calibration text",
                 n, fraction, input(failed));
  }
  LAPACK_dtrtri("L", "N", &size, a.data(), &size, &info);
  if (info != 0) {
    return Error(StatusCode::kNumerical, "the Cholesky factor of {} inputs is singular at input {}",
                 n, input(info - 1));
  }
  for (int64_t i = 0; i < n; ++i) {
    std::fill_n(a.begin() + i * n, i, 0.0);
    const double diagonal = a[static_cast<size_t>(i * n + i)];
    if (!(diagonal > 0) || !std::isfinite(diagonal)) {
      return Error(StatusCode::kNumerical,
                   "the inverse Hessian of {} inputs is not finite at input {} with a damping of "
                   "{}",
                   n, input(i), fraction);
    }
  }
  return factor;
}

}  // namespace

InputStatistics::InputStatistics(int64_t cols, StatisticsNeed need) : cols_(cols), need_(need) {
  sum_squares_.assign(static_cast<size_t>(cols), 0.0);
  if (Has(need, StatisticsNeed::kInputSums)) {
    sums_.assign(static_cast<size_t>(cols), 0.0);
    sums_before_ = sums_;
    squared_sums_ = sums_;
  }
  if (Has(need, StatisticsNeed::kInputAbsSums)) abs_sums_.assign(static_cast<size_t>(cols), 0.0);
  if (has_hessian()) gram_.assign(static_cast<size_t>(cols * cols), 0.0);
  if (Has(need, StatisticsNeed::kDenseInputs)) cross_.assign(static_cast<size_t>(cols * cols), 0.0);
}

Status InputStatistics::Add(const float* x, int64_t m) {
  for (int64_t t = 0; t < m; ++t) {
    const float* row = x + t * cols_;
    for (int64_t j = 0; j < cols_; ++j) {
      const double value = row[j];
      sum_squares_[static_cast<size_t>(j)] += value * value;
      if (!std::isfinite(row[j])) {
        return Error(StatusCode::kNumerical,
                     "the input is {} at calibration token {}, column {}; the model or its "
                     "weights are not usable",
                     value, tokens_ + t, j);
      }
    }
  }
  for (int64_t t = 0; t < m && !sums_.empty(); ++t) {
    for (int64_t j = 0; j < cols_; ++j)
      sums_[static_cast<size_t>(j)] += x[t * cols_ + j];
  }
  for (int64_t t = 0; t < m && !abs_sums_.empty(); ++t) {
    for (int64_t j = 0; j < cols_; ++j)
      abs_sums_[static_cast<size_t>(j)] += std::fabs(static_cast<double>(x[t * cols_ + j]));
  }
  tokens_ += m;
  if (!has_hessian()) return OkStatus();

  if (cols_ <= kDoubleGramCols) {
    converted_.resize(static_cast<size_t>(kConvertRows * cols_));
    for (int64_t begin = 0; begin < m; begin += kConvertRows) {
      const int64_t rows = std::min(kConvertRows, m - begin);
      std::copy_n(x + begin * cols_, rows * cols_, converted_.begin());
      Gram(CblasTrans, cols_, rows, converted_.data(), 1.0, gram_.data());
    }
  } else {
    partial_.resize(gram_.size());
    Gram(CblasTrans, cols_, m, x, 0.0f, partial_.data());
    for (int64_t i = 0; i < cols_; ++i) {
      for (int64_t j = i; j < cols_; ++j) {
        gram_[static_cast<size_t>(i * cols_ + j)] += partial_[static_cast<size_t>(i * cols_ + j)];
      }
    }
  }
  return OkStatus();
}

void InputStatistics::AddDense(const float* x, const float* dense, int64_t m) {
  if (cols_ <= kDoubleGramCols) {
    std::vector<double> chunk_x(static_cast<size_t>(kConvertRows * cols_));
    std::vector<double> chunk_dense(chunk_x.size());
    for (int64_t begin = 0; begin < m; begin += kConvertRows) {
      const int64_t rows = std::min(kConvertRows, m - begin);
      std::copy_n(x + begin * cols_, rows * cols_, chunk_x.begin());
      std::copy_n(dense + begin * cols_, rows * cols_, chunk_dense.begin());
      Gemm(CblasTrans, CblasNoTrans, cols_, cols_, rows, 1.0, chunk_x.data(), cols_,
           chunk_dense.data(), cols_, 1.0, cross_.data(), cols_);
    }
    return;
  }
  partial_.resize(cross_.size());
  Gemm(CblasTrans, CblasNoTrans, cols_, cols_, m, 1.0f, x, cols_, dense, cols_, 0.0f,
       partial_.data(), cols_);
  for (size_t i = 0; i < cross_.size(); ++i)
    cross_[i] += partial_[i];
}

void InputStatistics::EndSequence() {
  ++sequences_;
  const auto tokens = static_cast<double>(tokens_ - tokens_before_);
  for (size_t j = 0; j < sums_.size() && tokens > 0; ++j) {
    const double sum = sums_[j] - sums_before_[j];
    squared_sums_[j] += sum * sum / tokens;
  }
  sums_before_ = sums_;
  tokens_before_ = tokens_;
}

void InputStatistics::Finish() {
  partial_ = {};
  converted_ = {};
  if (!has_hessian() || sequences_ == 0) return;
  const double scale = 2.0 / static_cast<double>(sequences_);
  for (double& value : cross_)
    value *= scale;
  for (int64_t i = 0; i < cols_; ++i) {
    for (int64_t j = i; j < cols_; ++j) {
      const double value = gram_[static_cast<size_t>(i * cols_ + j)] * scale;
      gram_[static_cast<size_t>(i * cols_ + j)] = value;
      gram_[static_cast<size_t>(j * cols_ + i)] = value;
    }
  }
}

std::vector<double> InputStatistics::InputNorms() const {
  std::vector<double> norms = sum_squares_;
  for (double& norm : norms)
    norm = std::sqrt(norm / static_cast<double>(sequences_));
  return norms;
}

std::vector<double> InputStatistics::VarianceWithinSequences() const {
  HARROW_CHECK(Has(need_, StatisticsNeed::kInputSums) && tokens_ > 0);
  std::vector<double> variance(static_cast<size_t>(cols_), 0.0);
  for (size_t j = 0; j < variance.size(); ++j) {
    const double squares = sum_squares_[j] - squared_sums_[j];
    // Both are sums of `tokens` terms in float64.
    const double rounding = static_cast<double>(tokens_) * 0x1.0p-52 * sum_squares_[j];
    if (squares > rounding) variance[j] = squares / static_cast<double>(tokens_);
  }
  return variance;
}

void InputStatistics::Reorder(const std::vector<int32_t>& order) {
  HARROW_CHECK(static_cast<int64_t>(order.size()) == cols_ && factor_ == nullptr &&
               spectrum_ == nullptr);
  std::vector<double> row;
  const auto gather = [&](double* values) {
    row.assign(values, values + cols_);
    for (size_t j = 0; j < order.size(); ++j)
      values[j] = row[static_cast<size_t>(order[j])];
  };
  for (std::vector<double>* sums : {&sum_squares_, &sums_, &abs_sums_, &squared_sums_}) {
    if (!sums->empty()) gather(sums->data());
  }
  // In place: a second Hessian would be large. Rows move along the cycles of the order.
  for (std::vector<double>* matrix : {&gram_, &cross_}) {
    if (matrix->empty()) continue;
    for (int64_t i = 0; i < cols_; ++i)
      gather(matrix->data() + i * cols_);
    std::vector<uint8_t> done(order.size(), 0);
    for (int64_t first = 0; first < cols_; ++first) {
      if (done[static_cast<size_t>(first)] != 0) continue;
      const auto begin = matrix->begin();
      row.assign(begin + first * cols_, begin + (first + 1) * cols_);
      for (int64_t to = first;;) {
        done[static_cast<size_t>(to)] = 1;
        const int64_t from = order[static_cast<size_t>(to)];
        if (from == first) {
          std::copy(row.begin(), row.end(), begin + to * cols_);
          break;
        }
        std::copy_n(begin + from * cols_, cols_, begin + to * cols_);
        to = from;
      }
    }
  }
}

void InputStatistics::ScaleInputs(const std::vector<double>& factors) {
  HARROW_CHECK(static_cast<int64_t>(factors.size()) == cols_ && factor_ == nullptr &&
               spectrum_ == nullptr);
  for (size_t j = 0; j < factors.size(); ++j) {
    sum_squares_[j] *= factors[j] * factors[j];
    if (!sums_.empty()) sums_[j] *= factors[j];
    if (!abs_sums_.empty()) abs_sums_[j] *= factors[j];
    if (!squared_sums_.empty()) squared_sums_[j] *= factors[j] * factors[j];
    for (std::vector<double>* matrix : {&gram_, &cross_}) {
      for (size_t k = 0; k < factors.size() && !matrix->empty(); ++k)
        (*matrix)[j * factors.size() + k] *= factors[j] * factors[k];
    }
  }
}

int64_t InputStatistics::DeadColumns() const {
  return std::count(sum_squares_.begin(), sum_squares_.end(), 0.0);
}

Result<std::shared_ptr<const HessianFactor>> InputStatistics::Factor(double fraction, bool escalate,
                                                                     bool act_order) {
  if (factor_ != nullptr && requested_fraction_ == fraction &&
      factor_->order.empty() != act_order && (escalate || factor_->percent_damping == fraction)) {
    return factor_;
  }
  factor_ = nullptr;
  const std::vector<int64_t> order = act_order ? ActOrder(gram_, cols_) : std::vector<int64_t>();
  constexpr int kRetries = 4;
  Status failure;
  for (int attempt = 0; attempt <= (escalate ? kRetries : 0); ++attempt) {
    Result<HessianFactor> factor =
        TryFactor(gram_, cols_, fraction * std::pow(10.0, attempt), order);
    if (factor.ok()) {
      factor_ = std::make_shared<const HessianFactor>(std::move(factor).value());
      requested_fraction_ = fraction;
      return factor_;
    }
    failure = factor.status();
  }
  return failure;
}

Status InputStatistics::CheckDefinite(double fraction) {
  // No eigenvalue is below the damping, and no diagonal above n times its mean, so that this much
  // exceeds the rounding errors that TryFactor() looks for.
  const auto n = static_cast<double>(cols_);
  if (fraction > n * (n + fraction) * 0x1.0p-53) return OkStatus();
  return Factor(fraction, /*escalate=*/false).status();
}

Result<std::shared_ptr<const HessianSpectrum>> InputStatistics::Spectrum(double fraction) {
  if (spectrum_ != nullptr && spectrum_->percent_damping == fraction) return spectrum_;
  spectrum_ = nullptr;
  const auto n = static_cast<size_t>(cols_);
  HessianSpectrum spectrum;
  spectrum.percent_damping = fraction;
  double mean = 0;
  for (size_t j = 0; j < n; ++j)
    mean += gram_[j * n + j] / static_cast<double>(cols_);
  spectrum.ridge = fraction * mean;
  for (size_t j = 0; j < n; ++j) {
    const double diagonal = gram_[j * n + j] + spectrum.ridge;
    spectrum.scale.push_back(diagonal > 0 ? std::sqrt(diagonal) : 1.0);
  }
  std::vector<double>& a = spectrum.vectors;
  a.resize(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double value = gram_[i * n + j] + (i == j ? spectrum.ridge : 0.0);
      a[i * n + j] = value / (spectrum.scale[i] * spectrum.scale[j]);
    }
  }
  // LAPACK's columns are our rows, so its eigenvectors come out as rows.
  spectrum.values.resize(n);
  const auto order = static_cast<lapack_int>(cols_);
  lapack_int info = 0;
  double work_size = 0;
  lapack_int index_size = 0;
  lapack_int query = -1;
  const LapackThreads threads(cols_);
  LAPACK_dsyevd("V", "L", &order, a.data(), &order, spectrum.values.data(), &work_size, &query,
                &index_size, &query, &info);
  std::vector<double> work(static_cast<size_t>(work_size));
  std::vector<lapack_int> index(static_cast<size_t>(index_size));
  const auto work_count = static_cast<lapack_int>(work.size());
  LAPACK_dsyevd("V", "L", &order, a.data(), &order, spectrum.values.data(), work.data(),
                &work_count, index.data(), &index_size, &info);
  if (info != 0) {
    return Error(StatusCode::kNumerical,
                 "the eigenvalues of the Hessian of {} inputs do not converge", cols_);
  }
  // The matrix is positive semidefinite; what is below 0 is rounding.
  for (double& value : spectrum.values)
    value = std::max(value, 0.0);
  spectrum_ = std::make_shared<const HessianSpectrum>(std::move(spectrum));
  return spectrum_;
}

double InputStatistics::Energy(const double* a, int64_t rows, double* product) const {
  TimesSymmetric(rows, cols_, a, gram_.data(), product);
  return cblas_ddot(static_cast<blasint>(rows * cols_), a, 1, product, 1);
}

double InputStatistics::OutputEnergy(const float* d, int64_t rows) const {
  std::vector<double> a(static_cast<size_t>(kEnergyRows * cols_));
  std::vector<double> product(a.size());
  double energy = 0;
  for (int64_t begin = 0; begin < rows; begin += kEnergyRows) {
    const int64_t count = std::min(kEnergyRows, rows - begin);
    std::copy_n(d + begin * cols_, count * cols_, a.begin());
    energy += Energy(a.data(), count, product.data());
  }
  return energy;
}

double InputStatistics::RelativeOutputError(const float* w, const float* changed,
                                            int64_t rows) const {
  std::vector<double> a(static_cast<size_t>(kEnergyRows * cols_));
  std::vector<double> product(a.size());
  double error = 0;
  for (int64_t begin = 0; begin < rows; begin += kEnergyRows) {
    const int64_t count = std::min(kEnergyRows, rows - begin);
    const float* w_rows = w + begin * cols_;
    const float* changed_rows = changed + begin * cols_;
    for (int64_t i = 0; i < count * cols_; ++i)
      a[static_cast<size_t>(i)] = changed_rows[i] - w_rows[i];
    error += Energy(a.data(), count, product.data());
  }
  const double reference = OutputEnergy(w, rows);
  // Rounding can leave a tiny negative energy where the true one is zero.
  error = std::max(error, 0.0);
  if (reference > 0) return error / reference;
  return error > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

}  // namespace harrow
