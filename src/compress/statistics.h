// Statistics of the inputs of linear layers, gathered during calibration, and what is derived from
// them.
#ifndef HARROW_COMPRESS_STATISTICS_H_
#define HARROW_COMPRESS_STATISTICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace harrow {

// A set of flags.
enum class StatisticsNeed : uint8_t {
  kNone = 0,
  kInputNorms = 1,    // sums of squares per input
  kHessian = 2,       // X^T X
  kInputSums = 4,     // sums per input
  kInputAbsSums = 8,  // sums of absolute values per input
  kDenseInputs = 64,  // X^T X_dense, with the dense model's inputs of the same tokens
};
inline StatisticsNeed operator|(StatisticsNeed a, StatisticsNeed b) {
  return static_cast<StatisticsNeed>(static_cast<int>(a) | static_cast<int>(b));
}
inline bool Has(StatisticsNeed set, StatisticsNeed flag) {
  return (static_cast<int>(set) & static_cast<int>(flag)) != 0;
}

// U, upper triangular [cols, cols] row-major, with inverse(H + damping) = U^T U.
struct HessianFactor {
  double percent_damping = 0;  // the fraction that succeeded
  std::vector<int64_t> order;  // input of each row and column of U; empty: input order
  std::vector<double> upper;
};

// Of N = S^-1 (H + damping) S^-1 with S = diag(scale), which has a unit diagonal.
struct HessianSpectrum {
  double percent_damping = 0;
  double ridge = 0;             // the damping: percent_damping * mean(diag H)
  std::vector<double> scale;    // [cols], root of the diagonal of H + damping; 1 where that is 0
  std::vector<double> values;   // [cols], ascending, not below 0
  std::vector<double> vectors;  // [cols, cols] row-major, row i is the eigenvector of values[i]
};

// Statistics of one distinct input (q, k and v share theirs) over all calibration sequences.
// Averages are per sequence, not per token, as SparseGPT and Wanda define them.
// Not thread safe.
class InputStatistics {
 public:
  InputStatistics(int64_t cols, StatisticsNeed need);

  // Adds rows x [m, cols] float32. NaN and infinity are an error that names token and column.
  Status Add(const float* x, int64_t m);
  // Adds the same rows' inputs in the dense model, [m, cols]; where kDenseInputs is asked for.
  void AddDense(const float* x, const float* dense, int64_t m);
  // To be called after each sequence.
  void EndSequence();
  // To be called once after the last Add.
  void Finish();

  int64_t cols() const { return cols_; }
  int64_t sequences() const { return sequences_; }
  int64_t tokens() const { return tokens_; }
  bool has_hessian() const { return Has(need_, StatisticsNeed::kHessian); }
  bool has_dense() const { return Has(need_, StatisticsNeed::kDenseInputs); }
  // sum over tokens of x_j^2, [cols].
  const std::vector<double>& sum_squares() const { return sum_squares_; }
  // sqrt(sum over tokens of x_j^2 / sequences), [cols]: |X_j| as Wanda defines it.
  std::vector<double> InputNorms() const;
  // sum over tokens of x_j, [cols]; empty unless kInputSums was asked for.
  const std::vector<double>& sums() const { return sums_; }
  // sum over tokens of |x_j|, [cols]; empty unless kInputAbsSums was asked for.
  const std::vector<double>& abs_sums() const { return abs_sums_; }
  // Mean over tokens of the squared distance of x_j to its mean in the token's own sequence,
  // [cols]; 0 where that is no more than rounding. Needs kInputSums.
  std::vector<double> VarianceWithinSequences() const;
  // H = (2 / sequences) X^T X, [cols, cols], both triangles. After Finish().
  const std::vector<double>& hessian() const { return gram_; }
  // (2 / sequences) X^T X_dense, [cols, cols]; empty unless kDenseInputs was asked for. After
  // Finish().
  const std::vector<double>& dense_cross() const { return cross_; }
  // Input j becomes what input order[j] was. After Finish(), before Factor().
  void Reorder(const std::vector<int32_t>& order);
  // Input j becomes factors[j] > 0 times what it was. After Finish(), before Factor().
  void ScaleInputs(const std::vector<double>& factors);
  // Columns with H_jj = 0.
  int64_t DeadColumns() const;

  // The factor for a damping of `fraction` * mean(diag H), where H_jj = 1 for dead columns first.
  // A failed factorization is kNumerical; with `escalate`, it is tried again with 10 times the
  // damping, up to 4 times. With `act_order` the inputs are taken by falling H_jj, ties to the
  // lower index. Kept for the next layer with the same input. Source: SparseGPT (arXiv 2301.00774),
  // sparsegpt.py fasterprune; GPTQ, gptq.py fasterquant.
  Result<std::shared_ptr<const HessianFactor>> Factor(double fraction, bool escalate,
                                                      bool act_order = false);

  // kNumerical where H with a damping of `fraction` * mean(diag H) is singular to working
  // precision, dead columns aside. Costs a factorization only where the damping cannot rule that
  // out.
  Status CheckDefinite(double fraction);

  // The spectrum for a damping of `fraction` * mean(diag H). Kept for the next layer with the same
  // input. kNumerical when the eigenvalues do not converge.
  Result<std::shared_ptr<const HessianSpectrum>> Spectrum(double fraction);

  // |X D^T|^2 over |X W^T|^2 for D = changed - w, both [rows, cols] float32: the relative error of
  // the layer's output over the calibration. 0 when both are 0; infinity when only |X W^T| is.
  double RelativeOutputError(const float* w, const float* changed, int64_t rows) const;
  // |X D^T|^2 for D [rows, cols], averaged over sequences and doubled as H is.
  double OutputEnergy(const float* d, int64_t rows) const;

 private:
  // sum over rows of a_r H a_r^T for a [rows, cols], which `product` has room for.
  double Energy(const double* a, int64_t rows, double* product) const;

  int64_t cols_;
  StatisticsNeed need_;
  int64_t sequences_ = 0;
  int64_t tokens_ = 0;
  std::vector<double> sum_squares_;
  std::vector<double> sums_;
  std::vector<double> sums_before_;  // of the sequences that have ended
  int64_t tokens_before_ = 0;
  std::vector<double> squared_sums_;  // sum over sequences of (their sum of x_j)^2 / tokens
  std::vector<double> abs_sums_;
  std::vector<double> gram_;        // upper triangle until Finish()
  std::vector<double> cross_;       // X^T X_dense
  std::vector<float> partial_;      // float32 gram of one call, for wide inputs
  std::vector<double> converted_;   // a chunk of x in float64
  double requested_fraction_ = -1;  // what factor_ was asked for with
  std::shared_ptr<const HessianFactor> factor_;
  std::shared_ptr<const HessianSpectrum> spectrum_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_STATISTICS_H_
