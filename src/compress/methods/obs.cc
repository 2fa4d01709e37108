#include "compress/methods/obs.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "compress/blas.h"
#include "compress/methods/grid.h"
#include "compress/methods/refine_codes.h"

namespace harrow {
namespace {

// One run over a layer. Arrays of [rows, cols] are in the order of processing.
class ObsRun {
 public:
  ObsRun(const ObsDecisions& decisions, const LayerWork& layer,
         std::shared_ptr<const HessianFactor> factor)
      : quantization_(decisions.quantization),
        layer_(layer),
        factor_(std::move(factor)),
        rows_(layer.rows),
        cols_(layer.cols) {
    if (decisions.target) target_ = decisions.target->For(layer);
    const auto size = static_cast<size_t>(rows_ * cols_);
    w_.resize(size);
    pruned_.resize(size);
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t j = 0; j < cols_; ++j) {
        const auto from = static_cast<size_t>(row * cols_ + InputOf(j));
        w_[static_cast<size_t>(row * cols_ + j)] = layer.w[from];
        pruned_[static_cast<size_t>(row * cols_ + j)] = layer.pruned[from];
      }
    }
    const std::vector<double>& hessian = layer.statistics->hessian();
    for (int64_t j = 0; j < cols_; ++j) {
      if (hessian[static_cast<size_t>(InputOf(j) * (cols_ + 1))] != 0) continue;
      ++dead_columns_;
      for (int64_t row = 0; row < rows_; ++row)
        w_[static_cast<size_t>(row * cols_ + j)] = 0;
    }
    if (quantization_) {
      grid_.emplace(*quantization_, rows_, cols_);
      if (!factor_->order.empty()) FitAllGroups();
    }
  }

  Status Run(int64_t block_size) {
    const int64_t block = std::min(block_size, cols_);
    errors_.resize(static_cast<size_t>(rows_ * block));
    for (int64_t begin = 0; begin < cols_; begin += block) {
      if (layer_.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
      const int64_t count = std::min(block, cols_ - begin);
      if (target_ && !target_->pattern.nm) SelectBlock(begin, count);
      // Rows do not see each other once a block's threshold is known.
      layer_.pool->ParallelFor(rows_, 8, [&](int64_t row_begin, int64_t row_end) {
        RowScratch scratch;
        for (int64_t row = row_begin; row < row_end; ++row)
          RunRow(row, begin, count, &scratch);
      });
      const int64_t end = begin + count;
      if (end == cols_) break;
      const double* upper = factor_->upper.data();
      Gemm(CblasNoTrans, CblasNoTrans, rows_, cols_ - end, count, -1.0, errors_.data(), count,
           upper + begin * cols_ + end, cols_, 1.0, w_.data() + end, cols_);
    }
    return OkStatus();
  }

  void Store(LayerWork* layer) {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t j = 0; j < cols_; ++j) {
        const auto from = static_cast<size_t>(row * cols_ + j);
        const auto to = static_cast<size_t>(row * cols_ + InputOf(j));
        layer->pruned[to] = pruned_[from];
        layer->w[to] = pruned_[from] != 0 ? 0.0f : static_cast<float>(w_[from]);
      }
    }
    layer->dead_columns = dead_columns_;
    if (grid_) layer->quantization = grid_->Finish();
  }

 private:
  struct RowScratch {
    std::vector<double> scores;
    std::vector<double> sorted;
  };

  int64_t InputOf(int64_t j) const {
    return factor_->order.empty() ? j : factor_->order[static_cast<size_t>(j)];
  }
  double Score(int64_t row, int64_t j) const {
    const auto i = static_cast<size_t>(row * cols_ + j);
    if (pruned_[i] != 0) return kPrunedScore;
    const double ratio = w_[i] / factor_->upper[static_cast<size_t>(j * cols_ + j)];
    return ratio * ratio;
  }

  // The mask of all rows of columns [begin, begin + count).
  void SelectBlock(int64_t begin, int64_t count) {
    std::vector<double> scores(static_cast<size_t>(rows_ * count));
    std::vector<uint8_t> mask(scores.size());
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t j = 0; j < count; ++j)
        scores[static_cast<size_t>(row * count + j)] = Score(row, begin + j);
    }
    SelectScratch scratch;
    SelectMask(*target_, rows_, count, scores.data(), mask.data(), &scratch);
    for (int64_t row = 0; row < rows_; ++row)
      std::copy_n(mask.begin() + row * count, count, pruned_.begin() + row * cols_ + begin);
  }

  // The mask of the N:M group that begins at column j of a row.
  void SelectGroup(int64_t row, int64_t j, RowScratch* scratch) {
    const int64_t of = target_->pattern.nm->of;
    scratch->scores.resize(static_cast<size_t>(of));
    for (int64_t k = 0; k < of; ++k)
      scratch->scores[static_cast<size_t>(k)] = Score(row, j + k);
    SelectSmallest(scratch->scores.data(), of, of - target_->pattern.nm->keep,
                   pruned_.data() + row * cols_ + j, &scratch->sorted);
  }

  // The grid of the group whose first column is j, in input order.
  void FitGroup(int64_t row, int64_t j) {
    GroupRange range;
    for (int64_t k = j; k < std::min<int64_t>(cols_, j + quantization_->group); ++k) {
      const auto i = static_cast<size_t>(row * cols_ + k);
      if (pruned_[i] == 0) range.Add(w_[i]);
    }
    grid_->Set(row, j / quantization_->group, range.Grid(quantization_->values));
  }

  // The grids of all groups on the weights as they are, in any order.
  void FitAllGroups() {
    std::vector<GroupRange> ranges(static_cast<size_t>(grid_->groups()));
    for (int64_t row = 0; row < rows_; ++row) {
      std::fill(ranges.begin(), ranges.end(), GroupRange());
      for (int64_t j = 0; j < cols_; ++j) {
        const auto i = static_cast<size_t>(row * cols_ + j);
        if (pruned_[i] == 0)
          ranges[static_cast<size_t>(InputOf(j) / quantization_->group)].Add(w_[i]);
      }
      for (int64_t g = 0; g < grid_->groups(); ++g)
        grid_->Set(row, g, ranges[static_cast<size_t>(g)].Grid(quantization_->values));
    }
  }

  // Decides on columns [begin, begin + count) of a row and updates these columns. The row of
  // errors_ [rows, count] receives (w - q) / U_jj.
  void RunRow(int64_t row, int64_t begin, int64_t count, RowScratch* scratch) {
    double* w = w_.data() + row * cols_ + begin;
    const uint8_t* pruned = pruned_.data() + row * cols_ + begin;
    double* errors = errors_.data() + row * count;
    for (int64_t j = 0; j < count; ++j) {
      if (target_ && target_->pattern.nm && j % target_->pattern.nm->of == 0) {
        SelectGroup(row, begin + j, scratch);
      }
      if (grid_ && factor_->order.empty() && (begin + j) % quantization_->group == 0) {
        FitGroup(row, begin + j);
      }
      double q = w[j];
      if (pruned[j] != 0) {
        q = 0;
      } else if (grid_) {
        q = grid_->Round(row, InputOf(begin + j), w[j]);
      }
      const double* u = factor_->upper.data() + (begin + j) * cols_ + begin;
      const double error = (w[j] - q) / u[j];
      errors[j] = error;
      w[j] = q;
      if (error == 0) continue;
      for (int64_t k = j + 1; k < count; ++k)
        w[k] -= error * u[k];
    }
  }

  std::optional<SparsityTarget> target_;
  const std::optional<Quantization> quantization_;
  const LayerWork& layer_;
  const std::shared_ptr<const HessianFactor> factor_;
  const int64_t rows_;
  const int64_t cols_;
  int64_t dead_columns_ = 0;
  std::vector<double> w_;
  std::vector<uint8_t> pruned_;
  std::vector<double> errors_;
  std::optional<GridBuilder> grid_;
};

}  // namespace

ObsOptions ObsOptions::Read(OptionReader* options) {
  ObsOptions read;
  read.damping = options->Number("damping", 0.01, 0, 100);
  read.escalate = options->Boolean("allow_damping_escalation", false);
  read.block_size = options->Integer("block_size", 128, 1, 1 << 20);
  if (read.escalate && read.damping <= 0) {
    options->Fail("damping", "allow_damping_escalation multiplies it, so it must not be 0");
  }
  return read;
}

int64_t ObsOptions::ReadSweeps(OptionReader* options, int64_t default_sweeps) {
  return options->Integer("sweeps", default_sweeps, 0, 1000);
}

void ObsOptions::CheckPattern(const Pattern& pattern, OptionReader* options) const {
  const int32_t width = pattern.nm ? pattern.nm->of : pattern.block ? pattern.block->cols : 1;
  if (block_size % width != 0) {
    options->Fail("block_size", fmt::format("{} needs a block_size that {} divides; it is {}",
                                            PatternText(pattern), width, block_size));
  }
}

void ObsOptions::CheckGroup(int32_t group, OptionReader* options) const {
  if (block_size % group != 0 && group % block_size != 0) {
    options->Fail("block_size", fmt::format("one of block_size and group must be a multiple of the "
                                            "other; they are {} and {}",
                                            block_size, group));
  }
}

Status RunObs(const ObsOptions& options, const ObsDecisions& decisions, LayerWork* layer) {
  InputStatistics* statistics = layer->statistics;
  HARROW_CHECK(statistics != nullptr && statistics->cols() == layer->cols);
  HARROW_CHECK(!(decisions.act_order && decisions.target));
  if (decisions.target) decisions.target->For(*layer).Record(layer);
  HARROW_ASSIGN_OR_RETURN(
      const std::shared_ptr<const HessianFactor> factor,
      statistics->Factor(options.damping, options.escalate, decisions.act_order));
  layer->damping = factor->percent_damping;
  if (factor->percent_damping != options.damping) {
    layer->warnings.push_back(
        fmt::format("the damping was raised from {} to {} because the Hessian would not factorize",
                    options.damping, factor->percent_damping));
  }
  ObsRun run(decisions, *layer, factor);
  const bool exchanges = decisions.target && decisions.sweeps > 0;
  const std::vector<uint8_t> fixed = exchanges ? layer->pruned : std::vector<uint8_t>();
  HARROW_RETURN_IF_ERROR(run.Run(options.block_size));
  run.Store(layer);
  if (decisions.sweeps == 0) return OkStatus();
  return RefineCodes(decisions.sweeps, factor->percent_damping, exchanges ? &fixed : nullptr,
                     layer);
}

}  // namespace harrow
