#include "compress/allocation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "compress/calibration_run.h"
#include "compress/methods/selection.h"

namespace harrow {
namespace {

bool HasStep(const CompressionPlan& plan, const std::string& name, const RecipeStep& step) {
  const LayerPlan* layer = plan.Find(name);
  return layer != nullptr &&
         std::find(layer->steps.begin(), layer->steps.end(), &step) != layer->steps.end();
}

// Takes caps to the nearest sparsity within them that N:M can express.
Status RoundCaps(const NmPattern& nm, AllocationLayer* layer) {
  constexpr double kSlack = 1e-9;  // 0.375 * 8 is exact, 0.3 * 10 may not be
  if (layer->min) layer->min->value = std::ceil(layer->min->value * nm.of - kSlack) / nm.of;
  if (layer->max) layer->max->value = std::floor(layer->max->value * nm.of + kSlack) / nm.of;
  if (layer->Low() < 1 && layer->High() > 0) return OkStatus();
  return InvalidArgument(
      "N:M prunes from 1/{} to {}/{} of {}, which {} does not allow; leave it out by `ignore`",
      nm.of, nm.of - 1, nm.of, layer->name, layer->Low() < 1 ? layer->max->text : layer->min->text);
}

// What the step does when it is given `sparsity`.
double Expressed(const SparsityTarget& target, double sparsity) {
  LayerWork layer;
  layer.allocated_sparsity = sparsity;
  return target.For(layer).Requested();
}

}  // namespace

Result<Allocation> Allocation::Make(const Recipe& recipe, const Model& model,
                                    const CompressionPlan& plan) {
  Allocation allocation;
  const AllocationSpec& spec = *recipe.allocation;
  allocation.spec_ = &spec;
  allocation.blocks_ = model.config().layers;
  for (const size_t index : spec.steps) {
    Step step;
    step.step = &recipe.steps[index];
    const SparsityTarget& target = *step.step->method->target();
    HARROW_ASSIGN_OR_RETURN(step.units, allocation.UnitsOf(*step.step, model, plan));
    if (step.units.empty()) {
      return InvalidArgument("{}: {} prunes no weight in the blocks; set `embed: true`", spec.where,
                             step.step->where);
    }
    AllocationProblem& problem = step.problem;
    problem.sparsity = target.Requested();
    problem.nm = target.pattern.nm;
    for (size_t unit = 0; unit < step.units.size(); ++unit) {
      for (const LinearLayer* layer : step.units[unit].layers)
        problem.layers.push_back({layer->name, layer->rows * layer->cols, unit});
    }
    allocation.steps_.push_back(std::move(step));
  }
  HARROW_RETURN_IF_ERROR(allocation.SetCaps(model));
  for (const Step& step : allocation.steps_) {  // caps that cannot meet the mean show now
    std::vector<double> uniform(step.problem.layers.size(), step.problem.sparsity);
    if (Status status = ApplyCaps(step.problem, &uniform); !status.ok()) {
      return status.At(spec.where + ": " + step.step->where);
    }
  }
  return allocation;
}

Status Allocation::SetCaps(const Model& model) {
  for (const SparsityCaps& caps : spec_->caps) {
    const auto means = [this, &caps, &model](const std::string& name) -> Result<bool> {
      if (caps.match.empty()) return true;
      const bool in_block = name != model.embedding().name && name != model.head().name;
      Result<bool> meant = MatchesAny(caps.match, name, in_block);
      if (!meant.ok()) return meant.status().At(spec_->where);
      return meant;
    };
    bool used = false;
    for (Step& step : steps_) {
      for (AllocationLayer& layer : step.problem.layers) {
        HARROW_ASSIGN_OR_RETURN(const bool meant, means(layer.name));
        if (!meant) continue;
        used = true;
        if (caps.min) layer.min = {*caps.min, fmt::format("{}min {}", caps.key, *caps.min)};
        if (caps.max) layer.max = {*caps.max, fmt::format("{}max {}", caps.key, *caps.max)};
      }
    }
    if (used) continue;
    std::vector<const LinearLayer*> linears = {&model.embedding(), &model.head()};
    for (const Block& block : model.blocks()) {
      for (const LinearLayer* linear : block.linears())
        linears.push_back(linear);
    }
    bool exists = false;
    for (size_t i = 0; i < linears.size() && !exists; ++i) {
      HARROW_ASSIGN_OR_RETURN(exists, means(linears[i]->name));
    }
    const std::string text =
        fmt::format("{}: {}match: \"{}\"{}", spec_->where, caps.key, caps.match.front(),
                    caps.match.size() > 1 ? " and others" : "");
    if (!exists) {
      return InvalidArgument(
          "{} matches no linear weight of the model (they look like {}; the embedding and the head "
          "must be given by their whole name)",
          text, linears.back()->name);
    }
    warnings_.push_back(text +
                        " matches no weight that the allocation is for; the cap does nothing");
  }
  for (Step& step : steps_) {
    if (!step.problem.nm) continue;
    const std::string where = spec_->where + ": " + step.step->where;
    for (AllocationLayer& layer : step.problem.layers)
      HARROW_RETURN_IF_ERROR(RoundCaps(*step.problem.nm, &layer).At(where));
  }
  return OkStatus();
}

Result<std::vector<Allocation::Unit>> Allocation::UnitsOf(const RecipeStep& step,
                                                          const Model& model,
                                                          const CompressionPlan& plan) const {
  std::vector<Unit> units;
  for (int32_t b = 0; b < blocks_; ++b) {
    Unit unit = {b, {}};
    for (const LinearLayer* linear : model.blocks()[static_cast<size_t>(b)].linears()) {
      if (HasStep(plan, linear->name, step)) unit.layers.push_back(linear);
    }
    if (!unit.layers.empty()) units.push_back(std::move(unit));
  }
  if (!spec_->embed) return units;
  if (HasStep(plan, model.embedding().name, step)) {
    if (needs() == DenseNeed::kActivations && !model.config().tied_head) {
      return InvalidArgument(
          "{}: {} is an embedding and has no inputs, which {} needs; leave `embed` out, or use "
          "another allocation",
          spec_->where, model.embedding().name, spec_->method_name);
    }
    units.push_back({blocks_, {&model.embedding()}});
  }
  if (!model.config().tied_head && HasStep(plan, model.head().name, step)) {
    units.push_back({blocks_, {&model.head()}});
  }
  return units;
}

bool Allocation::HasUnitIn(int32_t block) const {
  return std::any_of(steps_.begin(), steps_.end(), [block](const Step& step) {
    return std::any_of(step.units.begin(), step.units.end(),
                       [block](const Unit& unit) { return unit.block == block; });
  });
}

int64_t Allocation::units(int64_t samples) const {
  int64_t units = 0;
  bool later = false;  // whether hidden states are needed behind the block
  for (int32_t b = blocks_; b >= 0; --b) {
    later = later || HasUnitIn(b);
    if (needs() == DenseNeed::kActivations) {
      if (later) units += samples;
    } else if (needs() == DenseNeed::kWeights && HasUnitIn(b)) {
      ++units;
    }
  }
  return units;
}

Status Allocation::ScoreDense(Model* model, const Calibration* calibration,
                              const std::string& folder, ForwardState* state,
                              const OnProgress& progress) {
  const bool activations = needs() == DenseNeed::kActivations;
  HARROW_CHECK(!activations || calibration != nullptr);
  for (Step& step : steps_)
    step.problem.scores.assign(step.units.size(), 0.0);
  std::unique_ptr<CalibrationRun> run;
  if (activations) {
    HARROW_ASSIGN_OR_RETURN(run, CalibrationRun::Start(*model, *calibration, folder));
  }
  int32_t last = blocks_;
  while (last >= 0 && !HasUnitIn(last))
    --last;
  for (int32_t b = 0; b <= last; ++b) {
    if (!activations && !HasUnitIn(b)) continue;
    const std::string what =
        b < blocks_
            ? fmt::format("dense block {}/{}: score for {}", b + 1, blocks_, spec_->method_name)
            : fmt::format("dense embedding and head: score for {}", spec_->method_name);
    const auto on_sequence = [&] { return progress(what, 1); };
    StatisticsObserver observer;
    if (b == blocks_) {
      if (activations) {
        observer.Watch({&model->head()}, StatisticsNeed::kInputNorms);
        HARROW_RETURN_IF_ERROR(run->ObserveHead(&observer, on_sequence));
      }
      HARROW_RETURN_IF_ERROR(ScoreBlock(b, &observer));
    } else {
      HARROW_RETURN_IF_ERROR(model->LoadBlock(b));
      if (activations) {
        Watch(model->blocks()[static_cast<size_t>(b)], &observer);
        HARROW_RETURN_IF_ERROR(run->RunBlock(b, state, &observer, nullptr, b < last, on_sequence));
      }
      HARROW_RETURN_IF_ERROR(ScoreBlock(b, &observer));
      model->ReleaseBlock(b);
    }
    if (!activations) HARROW_RETURN_IF_ERROR(progress(what, 1));
  }
  return OkStatus();
}

void Allocation::Watch(const Block& block, StatisticsObserver* observer) const {
  for (const std::vector<const LinearLayer*>& group : block.input_groups()) {
    const auto in_group = [&group](const AllocationLayer& layer) {
      return std::any_of(group.begin(), group.end(),
                         [&layer](const LinearLayer* l) { return l->name == layer.name; });
    };
    const bool needed = std::any_of(steps_.begin(), steps_.end(), [&in_group](const Step& step) {
      return std::any_of(step.problem.layers.begin(), step.problem.layers.end(), in_group);
    });
    if (needed) observer->Watch(group, StatisticsNeed::kInputNorms);
  }
}

Status Allocation::ScoreBlock(int32_t block, StatisticsObserver* observer) {
  std::map<std::string, std::vector<double>> norms;
  for (Step& step : steps_) {
    for (size_t u = 0; u < step.units.size(); ++u) {
      if (step.units[u].block != block) continue;
      std::vector<DenseWeight> unit;
      for (const LinearLayer* layer : step.units[u].layers) {
        if (const auto statistics = observer->Take(layer->name); statistics != nullptr) {
          norms[layer->name] = statistics->InputNorms();
        }
        unit.push_back({layer->name, &layer->weight, norms[layer->name]});
      }
      Result<double> score = spec_->allocator->Score(unit);
      if (!score.ok()) return score.status().At(spec_->where);
      if (!std::isfinite(*score)) {
        return Error(StatusCode::kNumerical, "{}: the score of block {} ({} and others) is {}",
                     spec_->where, block, unit.front().name, *score);
      }
      step.problem.scores[u] = *score;
    }
  }
  return OkStatus();
}

std::string Allocation::SaveScores() const {
  nlohmann::json scores = nlohmann::json::array();
  for (const Step& step : steps_)
    scores.push_back(step.problem.scores);
  return scores.dump();
}

bool Allocation::LoadScores(const std::string& text) {
  const nlohmann::json scores = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!scores.is_array() || scores.size() != steps_.size()) return false;
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (!scores[i].is_array() || scores[i].size() != steps_[i].units.size()) return false;
    for (const nlohmann::json& score : scores[i]) {
      if (!score.is_number()) return false;
    }
  }
  for (size_t i = 0; i < steps_.size(); ++i)
    steps_[i].problem.scores = scores[i].get<std::vector<double>>();
  return true;
}

Status Allocation::Apply(CompressionPlan* plan) const {
  plan->warnings.insert(plan->warnings.end(), warnings_.begin(), warnings_.end());
  for (const Step& step : steps_) {
    const std::string where = spec_->where + ": " + step.step->where;
    Result<std::vector<double>> allocated = spec_->allocator->Allocate(step.problem);
    if (!allocated.ok()) return allocated.status().At(where);
    std::vector<double> values = std::move(allocated).value();
    HARROW_RETURN_IF_ERROR(ApplyCaps(step.problem, &values).At(where));
    const SparsityTarget& target = *step.step->method->target();
    std::vector<double> expressed;
    int64_t changed = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      plan->layers.at(step.problem.layers[i].name).allocated[step.step] = values[i];
      expressed.push_back(Expressed(target, values[i]));
      changed += std::fabs(expressed.back() - values[i]) > 1e-9;
    }
    if (changed > 0) {
      plan->warnings.push_back(fmt::format(
          "{}: N:M can express the allocated sparsity of {} of {} weights only by rounding to "
          "1/{}; their mean is {:.4f} instead of {:.4f}",
          step.step->where, changed, values.size(), step.problem.nm->of,
          MeanOverWeights(step.problem, expressed), step.problem.sparsity));
    }
  }
  return OkStatus();
}

}  // namespace harrow
