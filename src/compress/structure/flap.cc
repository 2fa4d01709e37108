// FLAP: removes the attention heads and feed-forward neurons whose outputs vary least, and puts the
// mean of what they added into biases.
// Source: An et al., arXiv 2312.11983; lib/prune.py prune_flap with metrics WIFV and structure
// AL-AM.
//
// WIFV of input j of o_proj and down_proj: Var(x_j) * sum_i W_ij^2 (squared once more for o_proj,
// as their code does), standardized within the layer (mean 0, unbiased deviation 1), averaged over
// the channels of a head. One threshold for all heads and neurons of the model: sorted descending,
// what comes before the element where the cumulated cost is nearest to (1 - ratio) of the total
// stays. A neuron costs 1, a head what its rows and columns weigh against a neuron's: 512 / 3 in
// their code, 4 * 128 / 3. Differences: with grouped queries whole KV groups leave, scored by the
// mean of their query heads; the variance is over all calibration tokens; every layer keeps at
// least one group and `round` neurons, and neuron counts are rounded up to a multiple of `round`.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/structure/structure.h"

namespace harrow {
namespace {

// Zero mean and unit (unbiased) deviation. An error when all values are the same.
Status Standardize(std::vector<double>* values) {
  const auto count = static_cast<double>(values->size());
  double mean = 0;
  for (const double value : *values)
    mean += value / count;
  double variance = 0;
  for (const double value : *values)
    variance += (value - mean) * (value - mean) / (count - 1);
  const double deviation = std::sqrt(variance);
  if (!(deviation > 0) || !std::isfinite(deviation)) {
    return Error(StatusCode::kNumerical,
                 "the scores of its {} channels have a standard deviation of {}; use more or other "
                 "calibration text",
                 values->size(), deviation);
  }
  for (double& value : *values)
    value = (value - mean) / deviation;
  return OkStatus();
}

// Sums over the tokens of one block's inputs of o_proj or down_proj, relative to the first token so
// that the variance keeps its digits.
struct InputMoments {
  std::vector<double> shift, sums, squares;
  int64_t tokens = 0;

  Status Add(const float* x, int64_t m, int64_t k) {
    const auto width = static_cast<size_t>(k);
    if (tokens == 0) {
      shift.assign(x, x + k);
      sums.assign(width, 0.0);
      squares.assign(width, 0.0);
    }
    for (int64_t t = 0; t < m; ++t) {
      for (size_t j = 0; j < width; ++j) {
        const double value = x[static_cast<size_t>(t) * width + j];
        if (!std::isfinite(value)) {
          return Error(StatusCode::kNumerical, "the input is {} at calibration token {}, column {}",
                       value, tokens + t, j);
        }
        const double shifted = value - shift[j];
        sums[j] += shifted;
        squares[j] += shifted * shifted;
      }
    }
    tokens += m;
    return OkStatus();
  }
  std::vector<double> Means() const {
    std::vector<double> means = shift;
    for (size_t j = 0; j < means.size(); ++j)
      means[j] += sums[j] / static_cast<double>(tokens);
    return means;
  }
  // Inputs that were zero in all tokens.
  int64_t Dead() const {
    int64_t dead = 0;
    for (size_t j = 0; j < shift.size(); ++j)
      dead += shift[j] == 0 && squares[j] == 0;
    return dead;
  }
  double Variance(size_t j) const {
    const double mean = sums[j] / static_cast<double>(tokens);
    return std::max(0.0, squares[j] / static_cast<double>(tokens) - mean * mean);
  }
};

class FlapRun final : public StructureRun {
 public:
  FlapRun(const Model& model, double ratio, bool bias, int64_t round)
      : model_(model), ratio_(ratio), bias_(bias), round_(round), scores_(model.blocks().size()) {}

  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override {
    if (!status_.ok()) return;
    if (name.ends_with("o_proj.weight")) status_ = o_.Add(x, m, k).At(name);
    if (name.ends_with("down_proj.weight")) status_ = down_.Add(x, m, k).At(name);
  }
  Status EndSequence(int32_t, const float*, const float*, int64_t) override { return status_; }
  Status EndBlock(int32_t index, const Block& block) override;
  Result<std::vector<BlockDecision>> Decide() override;

 private:
  struct BlockScores {
    std::vector<double> groups, neurons;
    std::vector<double> o_means, down_means;
    std::vector<std::string> warnings;
  };
  Status ScoreLinear(const LinearLayer& layer, const InputMoments& moments, bool squared,
                     int64_t unit, std::vector<double>* scores) const;
  std::vector<int32_t> Keep(const std::vector<double>& scores, double threshold, int64_t multiple,
                            const char* what, BlockDecision* decision) const;

  const Model& model_;
  double ratio_;
  bool bias_;
  int64_t round_;
  InputMoments o_, down_;  // of the present block
  std::vector<BlockScores> scores_;
  Status status_;
};

// Scores of units of `unit` consecutive inputs.
Status FlapRun::ScoreLinear(const LinearLayer& layer, const InputMoments& moments, bool squared,
                            int64_t unit, std::vector<double>* scores) const {
  const int64_t cols = layer.cols;
  const int64_t units = cols / unit;
  std::vector<double> metric(static_cast<size_t>(cols));
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t i = 0; i < layer.rows; ++i) {
    UnpackRows(layer.weight, i, i + 1, row.data());
    for (size_t j = 0; j < row.size(); ++j)
      metric[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
  }
  for (size_t j = 0; j < metric.size(); ++j) {
    metric[j] *= moments.Variance(j);
    if (squared) metric[j] *= metric[j];
  }
  HARROW_RETURN_IF_ERROR(Standardize(&metric).At(layer.name));
  for (int64_t u = 0; u < units; ++u) {
    const auto first = metric.begin() + u * unit;
    scores->push_back(std::accumulate(first, first + unit, 0.0) / static_cast<double>(unit));
  }
  return OkStatus();
}

Status FlapRun::EndBlock(int32_t index, const Block& block) {
  BlockScores& scores = scores_[static_cast<size_t>(index)];
  const int64_t group = block.o.cols / block.kv_heads;
  HARROW_RETURN_IF_ERROR(ScoreLinear(block.o, o_, /*squared=*/true, group, &scores.groups));
  HARROW_RETURN_IF_ERROR(ScoreLinear(block.down, down_, /*squared=*/false, 1, &scores.neurons));
  for (const auto& [layer, moments] : {std::pair(&block.o, &o_), std::pair(&block.down, &down_)}) {
    if (const int64_t dead = moments->Dead(); dead > 0) {
      scores.warnings.push_back(
          fmt::format("flap: {}: {} of {} inputs were zero in all of the calibration text",
                      layer->name, dead, layer->cols));
    }
  }
  if (bias_) {
    scores.o_means = o_.Means();
    scores.down_means = down_.Means();
  }
  o_ = InputMoments();
  down_ = InputMoments();
  return OkStatus();
}

// Units above the threshold, and the best of the others until their number is a multiple and not 0.
std::vector<int32_t> FlapRun::Keep(const std::vector<double>& scores, double threshold,
                                   int64_t multiple, const char* what,
                                   BlockDecision* decision) const {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&scores](int32_t x, int32_t y) {
    return scores[static_cast<size_t>(x)] > scores[static_cast<size_t>(y)];
  });
  const int64_t above = std::count_if(scores.begin(), scores.end(),
                                      [threshold](double score) { return score > threshold; });
  if (above == 0) {
    decision->warnings.push_back(
        fmt::format("flap: all {} fell below the threshold; the best are kept all the same", what));
  }
  const int64_t wanted = (std::max<int64_t>(above, 1) + multiple - 1) / multiple * multiple;
  order.resize(std::min(order.size(), static_cast<size_t>(wanted)));
  std::sort(order.begin(), order.end());
  return order;
}

Result<std::vector<BlockDecision>> FlapRun::Decide() {
  struct Unit {
    double score;
    double cost;  // in neurons
  };
  std::vector<Unit> units;
  const double head_dim = model_.config().head_dim;
  for (size_t b = 0; b < scores_.size(); ++b) {
    const Block& block = model_.blocks()[b];
    const double queries = block.heads / block.kv_heads;
    for (const double score : scores_[b].groups)
      units.push_back({score, (2 * queries + 2) * head_dim / 3});
    for (const double score : scores_[b].neurons)
      units.push_back({score, 1});
  }
  std::stable_sort(units.begin(), units.end(),
                   [](const Unit& x, const Unit& y) { return x.score > y.score; });
  double total = 0;
  for (const Unit& unit : units)
    total += unit.cost;
  double kept = 0;
  double nearest = total;
  double threshold = units.front().score;
  for (const Unit& unit : units) {
    kept += unit.cost;
    const double distance = std::fabs(kept - total * (1 - ratio_));
    if (distance >= nearest) continue;
    nearest = distance;
    threshold = unit.score;
  }
  std::vector<BlockDecision> decisions(scores_.size());
  for (size_t b = 0; b < scores_.size(); ++b) {
    BlockDecision& decision = decisions[b];
    decision.warnings = std::move(scores_[b].warnings);
    decision.kv_groups = Keep(scores_[b].groups, threshold, 1, "heads", &decision);
    decision.neurons = Keep(scores_[b].neurons, threshold, round_, "neurons", &decision);
    decision.o_means = std::move(scores_[b].o_means);
    decision.down_means = std::move(scores_[b].down_means);
  }
  return decisions;
}

class Flap final : public StructureMethod {
 public:
  explicit Flap(OptionReader* options)
      : ratio_(options->Number("ratio", 0.2, 0, 1)),
        bias_(options->Boolean("bias", true)),
        round_(options->Integer("round", 32, 1, 1 << 16)) {
    if (!options->Has("ratio") || ratio_ <= 0 || ratio_ >= 1) {
      options->Fail("ratio", fmt::format("expected the fraction of the blocks' weights to remove, "
                                         "0 < ratio < 1{}",
                                         options->Has("ratio") ? fmt::format(", found {}", ratio_)
                                                               : "; it is missing"));
    }
  }
  Status Check(const Model& model) const override {
    for (const Block& block : model.blocks()) {
      if (block.ffn < round_) {
        return InvalidArgument("round: {} neurons, but {} has {} outputs", round_, block.up.name,
                               block.ffn);
      }
    }
    return OkStatus();
  }
  std::optional<double> ratio() const override { return ratio_; }
  std::unique_ptr<StructureRun> Start(const Model& model) const override {
    return std::make_unique<FlapRun>(model, ratio_, bias_, round_);
  }

 private:
  double ratio_;
  bool bias_;
  int64_t round_;
};

}  // namespace

std::unique_ptr<StructureMethod> MakeFlap(OptionReader* options) {
  return std::make_unique<Flap>(options);
}

}  // namespace harrow
