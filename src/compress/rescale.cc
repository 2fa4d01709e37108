#include "compress/rescale.h"

#include <algorithm>
#include <cmath>

namespace harrow {
namespace {

// Linears that share an input, and what makes it: a norm or the rows of another linear.
struct InputSet {
  std::vector<LinearLayer*> consumers;
  LinearLayer* producer = nullptr;
  const std::string* norm_name = nullptr;
  std::vector<float>* norm = nullptr;
  std::vector<double> scales;  // empty: none
};

const RecipeStep* ScalingStep(const CompressionPlan& plan, const std::string& name) {
  const LayerPlan* layer = plan.Find(name);
  if (layer == nullptr) return nullptr;
  for (const RecipeStep* step : layer->steps) {
    if (step->method->scales_inputs()) return step;
  }
  return nullptr;
}

// Why the set cannot be scaled; empty when it can.
std::string Obstacle(const CompressionPlan& plan, const RecipeStep* step, const InputSet& set) {
  std::vector<const LinearLayer*> all(set.consumers.begin(), set.consumers.end());
  if (set.producer != nullptr) all.push_back(set.producer);
  for (const LinearLayer* layer : all) {
    if (ScalingStep(plan, layer->name) != step) return layer->name + " is not in the same step";
    if (layer->weight.spec.format != FormatId::kDense) return layer->name + " is packed already";
  }
  if (set.producer != nullptr && set.producer->rows != set.consumers.front()->cols) {
    return "query heads share the outputs of " + set.producer->name;
  }
  return "";
}

Status FindScales(const RecipeStep& step, const StatisticsObserver& statistics, ThreadPool* pool,
                  const RunControl* control, InputSet* set) {
  std::vector<LayerWork> works;
  for (const LinearLayer* layer : set->consumers) {
    HARROW_ASSIGN_OR_RETURN(LayerWork work, UnpackLayer(*layer));
    work.statistics = statistics.Find(layer->name);
    work.pool = pool;
    work.control = control;
    works.push_back(std::move(work));
  }
  std::vector<const LayerWork*> views;
  for (const LayerWork& work : works)
    views.push_back(&work);
  Result<std::vector<double>> scales = step.method->InputScales(views);
  if (!scales.ok()) {
    return scales.status().At(set->consumers.front()->name + ": " + step.method_name);
  }
  set->scales = std::move(scales).value();
  return OkStatus();
}

// Whether steps come before the one that scales and can be given the weight as it was.
bool StartsUnscaled(const CompressionPlan& plan, const LinearLayer& layer) {
  const std::vector<const RecipeStep*>& steps = plan.Find(layer.name)->steps;
  return !steps.front()->method->scales_inputs() &&
         std::all_of(steps.begin(), steps.end(), [](const RecipeStep* step) {
           return step->method->low_rank() == LowRankUse::kNone ||
                  step->method->low_rank() == LowRankUse::kCorrects;  // comes last
         });
}

// w [r, c] *= row[r] * column[c], as float32; either may be empty.
Status ScaleWeight(const CompressionPlan& plan, const std::vector<double>& row,
                   const std::vector<double>& column, LinearLayer* layer,
                   std::map<std::string, UnscaledLayer>* unscaled) {
  if (StartsUnscaled(plan, *layer)) {
    const auto [known, first] = unscaled->try_emplace(layer->name);
    if (first) known->second.weight = layer->weight;
    if (!row.empty()) known->second.row_scales = row;
    if (!column.empty()) known->second.col_scales = column;
  }
  const WeightSpec spec = {FormatId::kDense, ValueType::kF32};
  Result<LinearWeight> scaled =
      PackWeight(spec, layer->rows, layer->cols, [&](int64_t r, float* out) {
        UnpackRows(layer->weight, r, r + 1, out);
        const double factor = row.empty() ? 1.0 : row[static_cast<size_t>(r)];
        for (int64_t c = 0; c < layer->cols; ++c) {
          const double scale = column.empty() ? factor : factor * column[static_cast<size_t>(c)];
          out[c] = static_cast<float>(out[c] * scale);
        }
      });
  if (!scaled.ok()) return scaled.status().At(layer->name + ": scaled");
  layer->weight = std::move(scaled).value();
  return OkStatus();
}

std::vector<double> Inverse(std::vector<double> scales) {
  for (double& scale : scales)
    scale = 1 / scale;
  return scales;
}

// Divides the norm by the scales as its type allows, and makes the scales what it was divided by. A
// weight that is zero, or would become so, stays.
Result<TensorView> ScaleNorm(const TensorView& stored, InputSet* set) {
  TensorView row = stored;
  row.shape = {1, stored.elements()};
  HARROW_ASSIGN_OR_RETURN(const LinearWeight before, WrapDense(row));
  std::vector<float> divided = *set->norm;
  for (size_t j = 0; j < divided.size(); ++j)
    divided[j] = static_cast<float>(divided[j] / set->scales[j]);
  HARROW_ASSIGN_OR_RETURN(LinearWeight rounded,
                          PackWeight(before.spec, 1, before.cols, divided.data()));
  UnpackRows(rounded, 0, 1, divided.data());
  for (size_t j = 0; j < divided.size(); ++j) {
    if (divided[j] == 0) divided[j] = (*set->norm)[j];
    set->scales[j] = divided[j] == 0 ? 1.0 : static_cast<double>((*set->norm)[j]) / divided[j];
  }
  *set->norm = divided;
  HARROW_ASSIGN_OR_RETURN(rounded, PackWeight(before.spec, 1, before.cols, divided.data()));
  return TensorView{stored.dtype, stored.shape, rounded.data.data(), rounded.owner};
}

}  // namespace

Result<ScaledInputs> ScaleInputs(const CompressionPlan& plan, const TensorSource& source,
                                 const StatisticsObserver& statistics, ThreadPool* pool,
                                 const RunControl* control, Block* block) {
  InputSet sets[] = {
      {{&block->q, &block->k, &block->v},
       nullptr,
       &block->attention_norm_name,
       &block->attention_norm,
       {}},
      {{&block->o}, &block->v, nullptr, nullptr, {}},
      {{&block->gate, &block->up}, nullptr, &block->ffn_norm_name, &block->ffn_norm, {}},
      {{&block->down}, &block->up, nullptr, nullptr, {}},
  };
  ScaledInputs result;
  // All scales are found before any is applied: a linear may be scaled in its inputs and outputs.
  for (InputSet& set : sets) {
    const RecipeStep* step = nullptr;
    for (const LinearLayer* layer : set.consumers)
      step = step != nullptr ? step : ScalingStep(plan, layer->name);
    if (step == nullptr) continue;
    const std::string obstacle = Obstacle(plan, step, set);
    if (obstacle.empty()) {
      HARROW_RETURN_IF_ERROR(FindScales(*step, statistics, pool, control, &set));
    }
    for (const LinearLayer* layer : set.consumers) {
      if (ScalingStep(plan, layer->name) == nullptr) continue;
      std::string& note = result.notes[layer->name];
      if (!obstacle.empty()) {
        note = "inputs not scaled: " + obstacle;
        continue;
      }
      const auto [least, most] = std::minmax_element(set.scales.begin(), set.scales.end());
      note = fmt::format("inputs scaled by {:.3g} to {:.3g}", *least, *most);
    }
  }
  for (InputSet& set : sets) {
    if (set.scales.empty()) continue;
    if (set.norm != nullptr) {
      HARROW_ASSIGN_OR_RETURN(const TensorView stored, source.Find(*set.norm_name));
      Result<TensorView> scaled = ScaleNorm(stored, &set);
      if (!scaled.ok()) return scaled.status().At(*set.norm_name + ": scaled");
      result.norms[*set.norm_name] = std::move(scaled).value();
    } else {
      HARROW_RETURN_IF_ERROR(
          ScaleWeight(plan, Inverse(set.scales), {}, set.producer, &result.unscaled));
    }
    InputStatistics* const seen = statistics.Find(set.consumers.front()->name);
    std::shared_ptr<InputStatistics> before;
    for (LinearLayer* layer : set.consumers) {
      HARROW_RETURN_IF_ERROR(ScaleWeight(plan, {}, set.scales, layer, &result.unscaled));
      if (!StartsUnscaled(plan, *layer)) continue;
      if (before == nullptr) before = std::make_shared<InputStatistics>(*seen);
      result.unscaled.at(layer->name).statistics = before;
    }
    seen->ScaleInputs(Inverse(set.scales));
  }
  return result;
}

}  // namespace harrow
