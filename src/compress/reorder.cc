#include "compress/reorder.h"

#include <algorithm>
#include <optional>

#include "compress/layer.h"

namespace harrow {
namespace {

// The index of the step that orders the inputs of a weight.
std::optional<size_t> OrderingStep(const LayerPlan* plan) {
  for (size_t i = 0; plan != nullptr && i < plan->steps.size(); ++i) {
    if (plan->steps[i]->method->orders_inputs()) return i;
  }
  return std::nullopt;
}

// Float rows can be moved without loss; quantized ones would be rounded anew, and the pattern of a
// packed weight does not survive another order of its inputs.
bool IsDenseFloat(const LinearLayer& layer) {
  return layer.weight.spec.format == FormatId::kDense;
}

Status MoveColumns(const std::vector<int32_t>& order, LinearLayer* layer) {
  std::vector<float> row(static_cast<size_t>(layer->cols));
  Result<LinearWeight> moved =
      PackWeight(layer->weight.spec, layer->rows, layer->cols, [&](int64_t r, float* out) {
        UnpackRows(layer->weight, r, r + 1, row.data());
        for (size_t j = 0; j < order.size(); ++j)
          out[j] = row[static_cast<size_t>(order[j])];
      });
  if (!moved.ok()) return moved.status().At(layer->name);
  layer->weight = std::move(moved).value();
  return OkStatus();
}

Status MoveRows(const std::vector<int32_t>& order, LinearLayer* layer) {
  Result<LinearWeight> moved =
      PackWeight(layer->weight.spec, layer->rows, layer->cols, [&](int64_t r, float* out) {
        const int64_t from = order[static_cast<size_t>(r)];
        UnpackRows(layer->weight, from, from + 1, out);
      });
  if (!moved.ok()) return moved.status().At(layer->name);
  layer->weight = std::move(moved).value();
  return OkStatus();
}

// Row order of v_proj, [v_rows], given that of the inputs of o_proj, which is the same in all query
// heads of a key-value head.
std::vector<int32_t> ValueRows(const std::vector<int32_t>& order, const InputRuns& heads,
                               int64_t v_rows) {
  std::vector<int32_t> rows;
  for (int64_t row = 0; row < v_rows; ++row) {
    const int64_t head = row / heads.width;
    const int32_t input =
        order[static_cast<size_t>(head * heads.shared * heads.width + row % heads.width)];
    rows.push_back(static_cast<int32_t>(head * heads.width + input % heads.width));
  }
  return rows;
}

}  // namespace

Result<std::map<std::string, std::string>> ReorderInputs(const CompressionPlan& plan,
                                                         int32_t head_dim,
                                                         const StatisticsObserver& statistics,
                                                         ThreadPool* pool,
                                                         const RunControl* control, Block* block) {
  struct Place {
    LinearLayer* layer;
    std::vector<LinearLayer*> producers;
    InputRuns runs;
    std::string_view with;
  };
  const Place places[] = {
      {&block->o, {&block->v}, {head_dim, block->o.cols / block->v.rows}, "v_proj"},
      {&block->down, {&block->gate, &block->up}, {block->down.cols, 1}, "gate_proj and up_proj"}};
  std::map<std::string, std::string> notes;
  for (const LinearLayer* layer : std::as_const(*block).linears()) {
    if (!OrderingStep(plan.Find(layer->name))) continue;
    notes[layer->name] = "inputs not reordered: they are those of the whole model";
  }
  for (const Place& place : places) {
    LinearLayer& layer = *place.layer;
    const LayerPlan* layer_plan = plan.Find(layer.name);
    const std::optional<size_t> index = OrderingStep(layer_plan);
    if (!index) continue;
    const RecipeStep& step = *layer_plan->steps[*index];
    std::string& note = notes[layer.name];
    if (!IsDenseFloat(layer) ||
        !std::all_of(place.producers.begin(), place.producers.end(),
                     [](const LinearLayer* producer) { return IsDenseFloat(*producer); })) {
      note = fmt::format("inputs not reordered: this weight or {} is packed already", place.with);
      continue;
    }
    HARROW_ASSIGN_OR_RETURN(LayerWork work, UnpackLayer(layer));
    work.statistics = statistics.Find(layer.name);
    work.pool = pool;
    work.control = control;
    if (const auto given = layer_plan->allocated.find(&step);
        given != layer_plan->allocated.end()) {
      work.allocated_sparsity = given->second;
    }
    const Result<InputOrder> found = step.method->OrderInputs(work, place.runs);
    if (!found.ok()) return found.status().At(layer.name + ": " + step.method_name);
    if (!found->obstacle.empty()) {
      note = "inputs not reordered: " + found->obstacle;
      continue;
    }
    if (found->order.empty()) {
      note = "inputs not reordered: no order was found whose pattern keeps more";
      continue;
    }
    note =
        fmt::format("inputs reordered, with the rows of {}: the pattern keeps {:.2f} % more score",
                    place.with, (found->kept_after / found->kept_before - 1) * 100);
    HARROW_RETURN_IF_ERROR(MoveColumns(found->order, &layer));
    work.statistics->Reorder(found->order);
    const std::vector<int32_t> rows = place.layer == &block->o
                                          ? ValueRows(found->order, place.runs, block->v.rows)
                                          : found->order;
    for (LinearLayer* producer : place.producers)
      HARROW_RETURN_IF_ERROR(MoveRows(rows, producer));
  }
  return notes;
}

}  // namespace harrow
