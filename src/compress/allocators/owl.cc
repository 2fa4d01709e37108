// OWL: blocks with more outliers among |W_ij| * |X_j| keep more.
// Source: Yin et al., arXiv 2310.05175; lib/prune_all.py. The outlier ratio of a block is the
// percentage of scores above M times their mean over all its linears; kept fractions span 2 lambda
// around the mean. For N:M, prune_wanda_outlier_structure: N spans lambda, then is rounded. The
// authors raise a sparsity that falls to 0 or below to 0.01; here it is an error or the cap `min`.
#include "compress/allocators/outlier_scores.h"

namespace harrow {
namespace {

class Owl final : public Allocator {
 public:
  Owl(OptionReader* options, bool nm)
      : threshold_(options->Number("M", nm ? 6 : 5, 1, 1e6)),
        lambda_(options->Number("lambda", nm ? 2 : 0.08, 0, nm ? 256 : 0.5)) {}
  DenseNeed needs() const override { return DenseNeed::kActivations; }

  Result<double> Score(std::span<const DenseWeight> unit) const override {
    HARROW_ASSIGN_OR_RETURN(const double mean, MeanScore(unit));
    int64_t outliers = 0;
    int64_t weights = 0;
    HARROW_RETURN_IF_ERROR(ForScores(unit, [&](const double* scores, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        outliers += scores[i] > threshold_ * mean;
      weights += count;
    }));
    return 100.0 * static_cast<double>(outliers) / static_cast<double>(weights);
  }

  Result<std::vector<double>> Allocate(const AllocationProblem& problem) const override {
    return KeepMoreOfHighScores(problem, problem.nm ? lambda_ / problem.nm->of : 2 * lambda_);
  }

 private:
  double threshold_;
  double lambda_;
};

}  // namespace

std::unique_ptr<Allocator> MakeOwl(OptionReader* options, bool nm) {
  return std::make_unique<Owl>(options, nm);
}

}  // namespace harrow
