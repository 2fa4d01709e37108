// SparseGPT: the mask by w^2 / U_jj^2, and an update of the weights that are still to come for the
// error that pruning made (optimal brain surgeon, column by column).
// Source: Frantar and Alistarh, arXiv 2301.00774, algorithm 1; sparsegpt.py fasterprune.
//
// As the authors' code: H = (2 / sequences) X^T X, dead columns zeroed, damping relative to the
// mean diagonal, one threshold for a whole block of columns (all rows), N:M groups chosen with all
// updates applied so far. Differences: float64 throughout; exactly int(block * s) weights of a
// block are pruned, ties to the lower index, where their `<= sort(score)[int(block * s)]` takes at
// least one more.
#include <cblas.h>

#include <algorithm>

#include "base/check.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

class SparseGpt final : public Method {
 public:
  explicit SparseGpt(OptionReader* options)
      : target_(SparsityTarget::Read(options, std::nullopt)),
        damping_(options->Number("damping", 0.01, 0, 100)),
        escalate_(options->Boolean("allow_damping_escalation", false)),
        block_size_(options->Integer("block_size", 128, 1, 1 << 20)) {
    const int32_t width = target_.pattern.nm      ? target_.pattern.nm->of
                          : target_.pattern.block ? target_.pattern.block->cols
                                                  : 1;
    if (block_size_ % width != 0) {
      options->Fail("block_size", fmt::format("{} needs a block_size that {} divides; it is {}",
                                              PatternText(target_.pattern), width, block_size_));
    }
    if (escalate_ && damping_ <= 0) {
      options->Fail("damping", "allow_damping_escalation multiplies it, so it must not be 0");
    }
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kHessian; }
  bool quantizes() const override { return false; }
  const SparsityTarget* target() const override { return &target_; }
  Status Check(int64_t rows, int64_t cols) const override { return target_.Check(rows, cols); }
  Status Apply(LayerWork* layer) const override;

 private:
  void PruneBlock(const LayerWork& layer, const SparsityTarget& target, const double* upper,
                  int64_t begin, int64_t count, std::vector<double>* w, std::vector<double>* errors,
                  std::vector<uint8_t>* mask) const;

  SparsityTarget target_;
  double damping_;
  bool escalate_;
  int64_t block_size_;
};

// Chooses and applies the mask of columns [begin, begin + count) of w [rows, cols], updating these
// columns. errors [rows, count] receives (w - q) / U_jj, mask [rows, count] what was pruned.
void SparseGpt::PruneBlock(const LayerWork& layer, const SparsityTarget& target,
                           const double* upper, int64_t begin, int64_t count,
                           std::vector<double>* w, std::vector<double>* errors,
                           std::vector<uint8_t>* mask) const {
  const int64_t rows = layer.rows;
  const int64_t cols = layer.cols;
  const auto score = [&](int64_t row, int64_t j) {
    if (layer.pruned[static_cast<size_t>(row * cols + j)] != 0) return kPrunedScore;
    const double ratio = (*w)[static_cast<size_t>(row * cols + j)] / upper[j * cols + j];
    return ratio * ratio;
  };
  if (!target.pattern.nm) {
    std::vector<double> scores(static_cast<size_t>(rows * count));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < count; ++j) {
        scores[static_cast<size_t>(row * count + j)] = score(row, begin + j);
      }
    }
    SelectScratch scratch;
    SelectMask(target, rows, count, scores.data(), mask->data(), &scratch);
  }
  // Rows do not see each other once a block's threshold is known.
  layer.pool->ParallelFor(rows, 8, [&](int64_t row_begin, int64_t row_end) {
    std::vector<double> scores;
    std::vector<double> scratch;
    for (int64_t row = row_begin; row < row_end; ++row) {
      double* w_row = w->data() + row * cols + begin;
      double* error_row = errors->data() + row * count;
      uint8_t* mask_row = mask->data() + row * count;
      for (int64_t j = 0; j < count; ++j) {
        if (target.pattern.nm && j % target.pattern.nm->of == 0) {
          const int64_t of = target.pattern.nm->of;
          scores.resize(static_cast<size_t>(of));
          for (int64_t k = 0; k < of; ++k) {
            scores[static_cast<size_t>(k)] = score(row, begin + j + k);
          }
          SelectSmallest(scores.data(), of, of - target.pattern.nm->keep, mask_row + j, &scratch);
        }
        const double* u = upper + (begin + j) * cols + begin;
        const double error = mask_row[j] != 0 ? w_row[j] / u[j] : 0.0;
        error_row[j] = error;
        if (mask_row[j] == 0) continue;
        for (int64_t k = j + 1; k < count; ++k)
          w_row[k] -= error * u[k];
        w_row[j] = 0;
      }
    }
  });
}

Status SparseGpt::Apply(LayerWork* layer) const {
  InputStatistics* statistics = layer->statistics;
  HARROW_CHECK(statistics != nullptr && statistics->cols() == layer->cols);
  const SparsityTarget target = target_.For(*layer);
  target.Record(layer);
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const HessianFactor> factor,
                          statistics->Factor(damping_, escalate_));
  layer->damping = factor->percent_damping;
  if (factor->percent_damping != damping_) {
    layer->warnings.push_back(
        fmt::format("the damping was raised from {} to {} because the Hessian would not factorize",
                    damping_, factor->percent_damping));
  }
  const int64_t rows = layer->rows;
  const int64_t cols = layer->cols;
  const double* upper = factor->upper.data();

  std::vector<double> w(layer->w.begin(), layer->w.end());
  const std::vector<double>& hessian = statistics->hessian();
  for (int64_t j = 0; j < cols; ++j) {
    if (hessian[static_cast<size_t>(j * cols + j)] != 0) continue;
    ++layer->dead_columns;
    for (int64_t row = 0; row < rows; ++row)
      w[static_cast<size_t>(row * cols + j)] = 0;
  }

  const int64_t block = std::min(block_size_, cols);
  std::vector<double> errors(static_cast<size_t>(rows * block));
  std::vector<uint8_t> mask(static_cast<size_t>(rows * block));
  for (int64_t begin = 0; begin < cols; begin += block) {
    if (layer->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    const int64_t count = std::min(block, cols - begin);
    PruneBlock(*layer, target, upper, begin, count, &w, &errors, &mask);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < count; ++j) {
        if (mask[static_cast<size_t>(row * count + j)] != 0) {
          layer->pruned[static_cast<size_t>(row * cols + begin + j)] = 1;
        }
      }
    }
    const int64_t end = begin + count;
    if (end == cols) break;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(rows),
                static_cast<blasint>(cols - end), static_cast<blasint>(count), -1.0, errors.data(),
                static_cast<blasint>(count), upper + begin * cols + end, static_cast<blasint>(cols),
                1.0, w.data() + end, static_cast<blasint>(cols));
  }
  for (size_t i = 0; i < w.size(); ++i) {
    layer->w[i] = layer->pruned[i] != 0 ? 0.0f : static_cast<float>(w[i]);
  }
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeSparseGpt(OptionReader* options) {
  return std::make_unique<SparseGpt>(options);
}

}  // namespace harrow
