// DSnoT: refines the mask that an earlier step left. In each row, pruned weights come back and kept
// ones go, one for one, so that the expected error of the row's output,
//   e = sum_j (original_ij - w_ij) * s_j,  s_j: the sum of x_j over a sequence, averaged,
// comes close to 0. A weight that comes back has its original value.
//
// Source: Zhang et al., "Dynamic Sparse No Training", ICLR 2024, arXiv 2310.08915; lib/prune.py
// prune_DSnoT, lib/layerwrapper.py. Theirs always starts from the original weights; with those, e
// is their reconstruction_error. Differences, of which a wide layer meets the last two only:
// - A row is done when no weight of the sign it needs is left. Theirs goes on with weights that are
//   not candidates, which changes the density.
// - Inputs that are zero in all of the calibration are never candidates; theirs divides 0 by 0.
// - A weight whose group of M has nothing left to give for it is passed over; theirs brings it back
//   all the same.
// - A row ends before its error would change sign unless `without_same_sign` says otherwise, which
//   their code defaults to for unstructured masks (docs/decisions/023).
// - In groups of M theirs takes the score of the method that made the mask; here `score` says.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/methods/prune_by_score.h"

namespace harrow {
namespace {

int Sign(double value) {
  return (value > 0) - (value < 0);
}

// |X D^T|^2 over |X W^T|^2 for W = layer.original and D = layer.w - W. Without a Hessian as if
// inputs were uncorrelated: E[(d x)^2] = (d mean)^2 + sum_j d_j^2 Var(x_j), which has both what a
// swap is made for and what it costs.
double OutputError(const LayerWork& layer) {
  const InputStatistics& statistics = *layer.statistics;
  if (statistics.has_hessian()) {
    return statistics.RelativeOutputError(layer.original.data(), layer.w.data(), layer.rows);
  }
  const auto cols = static_cast<size_t>(layer.cols);
  const auto tokens = static_cast<double>(statistics.tokens());
  std::vector<double> mean(cols);
  std::vector<double> variance(cols);
  for (size_t j = 0; j < cols; ++j) {
    mean[j] = statistics.sums()[j] / tokens;
    variance[j] = std::max(0.0, statistics.sum_squares()[j] / tokens - mean[j] * mean[j]);
  }
  double lost = 0;
  double all = 0;
  for (size_t begin = 0; begin < layer.w.size(); begin += cols) {
    double lost_mean = 0;
    double all_mean = 0;
    for (size_t j = 0; j < cols; ++j) {
      const double w = layer.original[begin + j];
      const double d = layer.w[begin + j] - w;
      lost_mean += d * mean[j];
      all_mean += w * mean[j];
      lost += d * d * variance[j];
      all += w * w * variance[j];
    }
    lost += lost_mean * lost_mean;
    all += all_mean * all_mean;
  }
  return all > 0 ? lost / all : 0.0;
}

class Dsnot final : public Method {
 public:
  explicit Dsnot(OptionReader* options)
      : max_cycles_(options->Integer("max_cycle_time", 50, 1, 1'000'000)),
        threshold_(options->Number("update_threshold", 0.1, 0, 1e30)),
        power_(options->Number("pow_of_var_regrowing", 1, 0, 10)),
        same_sign_(!options->Boolean("without_same_sign", false)),
        by_magnitude_(options->Choice("score", "wanda", {"wanda", "magnitude"}) == "magnitude") {}
  StatisticsNeed needs() const override {
    return StatisticsNeed::kInputNorms | StatisticsNeed::kInputSums;
  }
  bool quantizes() const override { return false; }
  bool needs_original() const override { return true; }
  bool refines_mask() const override { return true; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }

  Status Apply(LayerWork* layer) const override {
    HARROW_CHECK(layer->statistics != nullptr && layer->statistics->cols() == layer->cols);
    HARROW_CHECK(layer->original.size() == layer->w.size());
    if (layer->pattern.block) {
      return InvalidArgument(
          "the mask has {}, which single weights that come and go would break; refine unstructured "
          "or N:M masks",
          PatternText(layer->pattern));
    }
    if (std::find(layer->pruned.begin(), layer->pruned.end(), 1) == layer->pruned.end()) {
      layer->warnings.push_back("dsnot: no weight is pruned, so there is no mask to refine");
    }
    layer->dead_columns = layer->statistics->DeadColumns();
    const double output_before = OutputError(*layer);
    const Inputs inputs = Prepare(*layer->statistics);
    std::vector<RowResult> results(static_cast<size_t>(layer->rows));
    layer->pool->ParallelFor(layer->rows, 4, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t row = begin; row < end; ++row)
        results[static_cast<size_t>(row)] = RefineRow(inputs, row, layer, &scratch);
    });
    RowResult total;
    for (const RowResult& result : results) {
      total.swaps += result.swaps;
      total.error_before += std::fabs(result.error_before);
      total.error_after += std::fabs(result.error_after);
    }
    const int64_t kept = std::count(layer->pruned.begin(), layer->pruned.end(), 0);
    if (total.swaps > kept / 10) {
      layer->warnings.push_back(
          fmt::format("dsnot: {} of {} kept weights changed places, far more than a refinement: "
                      "rows of {} inputs "
                      "need a smaller max_cycle_time or without_same_sign: false",
                      total.swaps, kept, layer->cols));
    }
    const double output_after = OutputError(*layer);
    const char* const how = layer->statistics->has_hessian()
                                ? "measured"
                                : "estimated from each input's mean and variance; `output_error: "
                                  "true` measures it";
    if (output_after > output_before) {
      layer->warnings.push_back(
          fmt::format("dsnot: raised the layer's relative output error from {:.4g} to {:.4g} ({})",
                      output_before, output_after, how));
    }
    const auto rows = static_cast<double>(layer->rows);
    layer->notes.push_back(
        fmt::format("dsnot: {} weights changed places; mean expected error of an output, summed "
                    "over a sequence, {:.4g} before and {:.4g} after; relative output error {:.4g} "
                    "before and {:.4g} after ({})",
                    total.swaps, total.error_before / rows, total.error_after / rows, output_before,
                    output_after, how));
    return OkStatus();
  }

 private:
  struct Inputs {
    std::vector<double> sums;    // s_j
    std::vector<double> spread;  // Var(x_j)^power
    std::vector<double> norms;   // of the score
  };
  struct RowResult {
    int64_t swaps = 0;
    double error_before = 0;
    double error_after = 0;
  };
  struct Scratch {
    std::vector<double> contribution;  // w_ij * s_j, of the original weight where it is pruned
    std::vector<double> key;           // contribution / spread of pruned weights
    std::vector<double> score;
    std::vector<int64_t> grow;      // pruned, ascending key
    std::vector<int64_t> prune[2];  // kept, ascending score: negative and positive contribution
    std::vector<uint8_t> fixed;     // kept weights that came back
  };

  Inputs Prepare(const InputStatistics& statistics) const {
    Inputs inputs;
    inputs.sums = statistics.sums();
    for (double& sum : inputs.sums)
      sum /= static_cast<double>(statistics.sequences());
    inputs.spread = statistics.VarianceWithinSequences();
    for (double& spread : inputs.spread)
      spread = std::pow(spread, power_);
    inputs.norms =
        by_magnitude_ ? std::vector<double>(inputs.sums.size(), 1.0) : statistics.InputNorms();
    return inputs;
  }

  RowResult RefineRow(const Inputs& inputs, int64_t row, LayerWork* layer, Scratch* scratch) const {
    const int64_t cols = layer->cols;
    float* w = layer->w.data() + row * cols;
    uint8_t* pruned = layer->pruned.data() + row * cols;
    const float* original = layer->original.data() + row * cols;
    RowResult result;
    result.error_before = Rank(inputs, w, pruned, original, cols, scratch);

    double error = result.error_before;
    const int sign = Sign(error);
    size_t lowest = 0;                      // next candidate of a negative contribution
    size_t highest = scratch->grow.size();  // one past the next of a positive one
    size_t next_prune[2] = {0, 0};
    for (int64_t cycle = 0; cycle < max_cycles_ && std::fabs(error) > threshold_; ++cycle) {
      const bool too_low = error > 0;  // the output lacks what the pruned weights gave
      if (lowest == highest) break;
      const int64_t grow = too_low ? scratch->grow[highest - 1] : scratch->grow[lowest];
      const double gain = scratch->contribution[static_cast<size_t>(grow)];
      if (too_low != (gain > 0)) break;
      if (too_low) {
        --highest;
      } else {
        ++lowest;
      }
      int64_t prune = -1;
      if (layer->pattern.nm) {
        prune = LowestOfGroup(grow, layer->pattern.nm->of, pruned, *scratch);
        if (prune < 0) continue;
      } else {
        const int side = error < 0 ? 1 : 0;
        if (next_prune[side] == scratch->prune[side].size()) break;
        prune = scratch->prune[side][next_prune[side]++];
      }
      const double after = error + scratch->contribution[static_cast<size_t>(prune)] - gain;
      if ((same_sign_ || layer->pattern.nm) && Sign(after) != sign) break;
      error = after;
      w[grow] = original[grow];
      pruned[grow] = 0;
      scratch->fixed[static_cast<size_t>(grow)] = 1;
      w[prune] = 0;
      pruned[prune] = 1;
      ++result.swaps;
    }
    result.error_after = error;
    return result;
  }

  // Orders the candidates of a row and returns its error.
  static double Rank(const Inputs& inputs, const float* w, const uint8_t* pruned,
                     const float* original, int64_t cols, Scratch* scratch) {
    const auto size = static_cast<size_t>(cols);
    scratch->contribution.resize(size);
    scratch->key.resize(size);
    scratch->score.resize(size);
    scratch->fixed.assign(size, 0);
    scratch->grow.clear();
    scratch->prune[0].clear();
    scratch->prune[1].clear();
    double error = 0;
    for (int64_t i = 0; i < cols; ++i) {
      const auto j = static_cast<size_t>(i);
      const double value = pruned[j] != 0 ? original[j] : w[j];
      error += (static_cast<double>(original[j]) - w[j]) * inputs.sums[j];
      const double contribution = value * inputs.sums[j];
      scratch->contribution[j] = contribution;
      scratch->score[j] = std::fabs(value) * inputs.norms[j];
      if (contribution == 0) continue;
      if (pruned[j] != 0) {
        scratch->key[j] = contribution / inputs.spread[j];  // infinite where the input is constant
        scratch->grow.push_back(i);
      } else {
        scratch->prune[contribution > 0].push_back(i);
      }
    }
    const auto ascending = [](const std::vector<double>& by, std::vector<int64_t>* indices) {
      std::stable_sort(indices->begin(), indices->end(), [&by](int64_t a, int64_t b) {
        return by[static_cast<size_t>(a)] < by[static_cast<size_t>(b)];
      });
    };
    ascending(scratch->key, &scratch->grow);
    ascending(scratch->score, &scratch->prune[0]);
    ascending(scratch->score, &scratch->prune[1]);
    return error;
  }

  // The kept weight of the lowest score in the group of `grow`, none that came back; -1: none.
  static int64_t LowestOfGroup(int64_t grow, int64_t of, const uint8_t* pruned,
                               const Scratch& scratch) {
    int64_t lowest = -1;
    const int64_t begin = grow - grow % of;
    for (int64_t i = begin; i < begin + of; ++i) {
      if (pruned[i] != 0 || scratch.fixed[static_cast<size_t>(i)] != 0) continue;
      if (lowest < 0 ||
          scratch.score[static_cast<size_t>(i)] < scratch.score[static_cast<size_t>(lowest)]) {
        lowest = i;
      }
    }
    return lowest;
  }

  int64_t max_cycles_;
  double threshold_;
  double power_;
  bool same_sign_;
  bool by_magnitude_;
};

}  // namespace

std::unique_ptr<Method> MakeDsnot(OptionReader* options) {
  return std::make_unique<Dsnot>(options);
}

}  // namespace harrow
