// AWQ: inputs that carry large activations are scaled up before rounding and down where they are
// made, so that their weights lose less; then the range of each group is clipped where that lowers
// the error. Rounding itself is to nearest.
// Source: Lin et al., arXiv 2306.00978; llm-awq auto_scale.py, auto_clip.py.
//
// As the authors' code: scales mean|x|^r / sqrt(max * min) for r = 0, 0.05 .. 0.95, one r for the
// weights that share an input; clips of 1, 0.95 .. 0.55 of a group's largest weight, not for q_proj
// and k_proj, whose errors multiply. Differences: the error of a scale is that of the weights'
// outputs over all calibration tokens (theirs: of the attention or the feed-forward block), that of
// a clip also over all tokens (theirs: 512); inputs that were always zero keep their scale; the
// grids are those of the weight formats (docs/decisions/026).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "compress/methods/grid.h"

namespace harrow {
namespace {

constexpr int kRatios = 20;
constexpr int kClips = 10;
constexpr double kClipStep = 0.05;
constexpr double kSmallestScale = 1e-4;

class Awq final : public Method {
 public:
  explicit Awq(OptionReader* options)
      : quantization_(ReadQuantization(options)),
        scale_(options->Boolean("scale", true)),
        clip_(options->Boolean("clip", true)) {}
  StatisticsNeed needs() const override {
    return StatisticsNeed::kHessian | StatisticsNeed::kInputAbsSums;
  }
  bool quantizes() const override { return true; }
  bool scales_inputs() const override { return scale_; }
  Result<std::vector<double>> InputScales(
      const std::vector<const LayerWork*>& layers) const override;
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override;

 private:
  double ScaledError(const LayerWork& layer, const std::vector<double>& scales) const;
  GroupRange ClipGroup(const LayerWork& layer, int64_t row, int64_t begin, int64_t end) const;

  Quantization quantization_;
  bool scale_;
  bool clip_;
};

// sum over tokens and outputs of the squared error that rounding W * scales makes.
double Awq::ScaledError(const LayerWork& layer, const std::vector<double>& scales) const {
  std::vector<float> error(layer.w.size());
  layer.pool->ParallelFor(layer.rows, 8, [&](int64_t row_begin, int64_t row_end) {
    std::vector<float> scaled(static_cast<size_t>(quantization_.group));
    for (int64_t row = row_begin; row < row_end; ++row) {
      for (int64_t begin = 0; begin < layer.cols; begin += quantization_.group) {
        const int64_t count = std::min<int64_t>(quantization_.group, layer.cols - begin);
        const float* w = layer.w.data() + row * layer.cols + begin;
        for (int64_t j = 0; j < count; ++j) {
          scaled[static_cast<size_t>(j)] =
              static_cast<float>(w[j] * scales[static_cast<size_t>(begin + j)]);
        }
        const GroupGrid grid = RtnGroupGrid(quantization_.values, scaled.data(), count);
        for (int64_t j = 0; j < count; ++j) {
          const double rounded =
              RoundToGrid(quantization_.values, grid, scaled[static_cast<size_t>(j)]) /
              scales[static_cast<size_t>(begin + j)];
          error[static_cast<size_t>(row * layer.cols + begin + j)] =
              static_cast<float>(rounded - w[j]);
        }
      }
    }
  });
  return layer.statistics->OutputEnergy(error.data(), layer.rows);
}

Result<std::vector<double>> Awq::InputScales(const std::vector<const LayerWork*>& layers) const {
  HARROW_CHECK(!layers.empty() && layers.front()->statistics != nullptr);
  const InputStatistics& statistics = *layers.front()->statistics;
  const std::vector<double>& sums = statistics.abs_sums();
  std::vector<double> best;
  double lowest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRatios; ++i) {
    if (layers.front()->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    std::vector<double> scales(sums.size(), 1.0);
    double smallest = std::numeric_limits<double>::infinity();
    double largest = 0;
    for (size_t j = 0; j < sums.size(); ++j) {
      if (sums[j] == 0) continue;
      const double mean = sums[j] / static_cast<double>(statistics.tokens());
      scales[j] = std::max(std::pow(mean, static_cast<double>(i) / kRatios), kSmallestScale);
      smallest = std::min(smallest, scales[j]);
      largest = std::max(largest, scales[j]);
    }
    for (size_t j = 0; j < sums.size(); ++j) {
      if (sums[j] != 0) scales[j] /= std::sqrt(largest * smallest);
    }
    double error = 0;
    for (const LayerWork* layer : layers)
      error += ScaledError(*layer, scales);
    if (error < lowest) {
      lowest = error;
      best = std::move(scales);
    }
  }
  if (best.empty()) {
    return Error(StatusCode::kNumerical, "no scale of the inputs gives a finite error");
  }
  return best;
}

// The range of weights [begin, end) of a row that rounds with the least error.
GroupRange Awq::ClipGroup(const LayerWork& layer, int64_t row, int64_t begin, int64_t end) const {
  const float* w = layer.w.data() + row * layer.cols;
  const std::vector<double>& hessian = layer.statistics->hessian();
  double largest = 0;
  for (int64_t j = begin; j < end; ++j)
    largest = std::max(largest, std::fabs(static_cast<double>(w[j])));
  std::vector<double> error(static_cast<size_t>(end - begin));
  GroupRange best;
  double lowest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kClips; ++i) {
    const double limit = largest * (1 - kClipStep * i);
    GroupRange range;
    for (int64_t j = begin; j < end; ++j)
      range.Add(std::clamp<double>(w[j], -limit, limit));
    const GroupGrid grid = range.Grid(quantization_.values);
    for (int64_t j = begin; j < end; ++j) {
      error[static_cast<size_t>(j - begin)] =
          RoundToGrid(quantization_.values, grid, std::clamp<double>(w[j], -limit, limit)) -
          static_cast<double>(w[j]);
    }
    double energy = 0;
    for (int64_t j = begin; j < end; ++j) {
      const double* h = hessian.data() + j * layer.cols + begin;
      double dot = 0;
      for (size_t k = 0; k < error.size(); ++k)
        dot += h[k] * error[k];
      energy += error[static_cast<size_t>(j - begin)] * dot;
    }
    if (energy < lowest) {
      lowest = energy;
      best = range;
    }
  }
  return best;
}

Status Awq::Apply(LayerWork* layer) const {
  HARROW_CHECK(layer->statistics != nullptr && layer->statistics->cols() == layer->cols);
  if (layer->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
  layer->dead_columns = layer->statistics->DeadColumns();
  const bool clip =
      clip_ && !layer->name.ends_with("q_proj.weight") && !layer->name.ends_with("k_proj.weight");
  GridBuilder grids(quantization_, layer->rows, layer->cols);
  std::atomic<int64_t> clipped = 0;
  layer->pool->ParallelFor(layer->rows, 8, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      float* w = layer->w.data() + row * layer->cols;
      for (int64_t begin = 0; begin < layer->cols; begin += quantization_.group) {
        const int64_t end = std::min<int64_t>(layer->cols, begin + quantization_.group);
        GroupRange range;
        for (int64_t j = begin; j < end; ++j)
          range.Add(w[j]);
        const GroupRange all = range;
        if (clip) range = ClipGroup(*layer, row, begin, end);
        if (range.min != all.min || range.max != all.max) ++clipped;
        grids.Set(row, begin / quantization_.group, range.Grid(quantization_.values));
        for (int64_t j = begin; j < end; ++j)
          w[j] = grids.Round(row, j, std::clamp<double>(w[j], range.min, range.max));
      }
    }
  });
  layer->quantization = grids.Finish();
  if (clip) {
    layer->notes.push_back(
        fmt::format("awq: {} of {} groups clipped", clipped.load(),
                    layer->rows * ((layer->cols + quantization_.group - 1) / quantization_.group)));
  }
  return OkStatus();
}

}  // namespace

std::unique_ptr<Method> MakeAwq(OptionReader* options) {
  return std::make_unique<Awq>(options);
}

}  // namespace harrow
