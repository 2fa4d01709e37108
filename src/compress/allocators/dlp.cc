// DLP: blocks with lower scores |W_ij| * |X_j| keep more.
// Source: arXiv 2505.23807; get_dlp_ratios of lib/prune.py: importance of a block is 1 - s / sum s
// of the block means s, mapped linearly so that kept fractions span 2 alpha. The sum cancels in the
// mapping, so that -s maps to the same. The paper takes the median where the code takes the mean.
#include <algorithm>

#include "compress/allocators/outlier_scores.h"

namespace harrow {
namespace {

class Dlp final : public Allocator {
 public:
  explicit Dlp(OptionReader* options)
      : alpha_(options->Number("alpha", 0.15, 0, 0.5)),
        median_(options->Choice("statistic", "mean", {"mean", "median"}) == "median") {}
  DenseNeed needs() const override { return DenseNeed::kActivations; }

  Result<double> Score(std::span<const DenseWeight> unit) const override {
    if (median_) {
      HARROW_ASSIGN_OR_RETURN(const double median, Median(unit));
      return -median;
    }
    HARROW_ASSIGN_OR_RETURN(const double mean, MeanScore(unit));
    return -mean;
  }

  Result<std::vector<double>> Allocate(const AllocationProblem& problem) const override {
    return KeepMoreOfHighScores(problem, 2 * alpha_);
  }

 private:
  // Float32, since all scores of a block are held at once; the mean of the two in the middle where
  // their number is even.
  static Result<double> Median(std::span<const DenseWeight> unit) {
    std::vector<float> all;
    size_t weights = 0;
    for (const DenseWeight& dense : unit)
      weights += static_cast<size_t>(dense.weight->rows * dense.weight->cols);
    all.reserve(weights);
    HARROW_RETURN_IF_ERROR(ForScores(unit, [&](const double* scores, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        all.push_back(static_cast<float>(scores[i]));
    }));
    const auto middle = all.begin() + static_cast<int64_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    if (all.size() % 2 == 1) return double{*middle};
    return (double{*middle} + double{*std::max_element(all.begin(), middle)}) / 2;
  }

  double alpha_;
  bool median_;
};

}  // namespace

std::unique_ptr<Allocator> MakeDlp(OptionReader* options, bool) {
  return std::make_unique<Dlp>(options);
}

}  // namespace harrow
