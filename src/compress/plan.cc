#include "compress/plan.h"

#include "compress/methods/selection.h"

#include <algorithm>

namespace harrow {
namespace {

// Regular expressions and the default select linear weights of blocks; the embedding and the head
// must be named, or be included by the method.
Result<bool> Selected(const RecipeStep& step, const std::string& name, bool in_block) {
  HARROW_ASSIGN_OR_RETURN(const bool ignored, MatchesAny(step.ignore, name, /*regex=*/true));
  if (ignored) return false;
  if (step.targets.empty() && in_block) return true;
  if (!in_block && step.method->includes_embedding()) return true;
  return MatchesAny(step.targets, name, in_block);
}

Status CheckTargetsMatch(const RecipeStep& step, const std::vector<const LinearLayer*>& linears,
                         size_t block_linears, const Model& model) {
  for (const std::string& entry : step.targets) {
    bool found = false;
    for (size_t i = 0; i < linears.size() && !found; ++i) {
      HARROW_ASSIGN_OR_RETURN(found, MatchesAny({entry}, linears[i]->name, i < block_linears));
    }
    if (found) continue;
    std::string hint;
    if (model.config().tied_head && entry.find("lm_head") != std::string::npos) {
      hint = fmt::format("; the head is tied to {}", model.embedding().name);
    }
    return InvalidArgument(
        "{}.targets: \"{}\" matches no linear weight of the model (they look like {}; the "
        "embedding "
        "and the head must be given by their whole name){}",
        step.where, entry, linears.front()->name, hint);
  }
  return OkStatus();
}

// Whether a step may come next on a weight, as far as low-rank products go.
Status CheckLowRankOrder(const RecipeStep& step, const LayerPlan& layer, const std::string& name,
                         bool embedding) {
  const LowRankUse use = step.method->low_rank();
  if (use != LowRankUse::kNone && embedding) {
    return InvalidArgument("{}: {} is an embedding, which cannot be stored low-rank", step.where,
                           name);
  }
  if (use == LowRankUse::kCorrects && layer.steps.empty()) {
    return InvalidArgument("{}: no step before it changes {}, so there is nothing to correct",
                           step.where, name);
  }
  for (const RecipeStep* earlier : layer.steps) {
    const LowRankUse before = earlier->method->low_rank();
    if (before == LowRankUse::kNone) continue;
    if (use != LowRankUse::kNone) {
      return InvalidArgument("{}: {} has a low-rank product already (from {})", step.where, name,
                             earlier->where);
    }
    if (before != LowRankUse::kSplitsOff) {
      return InvalidArgument("{}: {} comes before it ({}) and must be the last step of {}{}",
                             step.where, earlier->method_name, earlier->where, name,
                             before == LowRankUse::kReplaces
                                 ? "; `residual: true` leaves a residual to compress"
                                 : "");
    }
  }
  return OkStatus();
}

}  // namespace

const LayerPlan* CompressionPlan::Find(const std::string& name) const {
  const auto found = layers.find(name);
  return found == layers.end() ? nullptr : &found->second;
}

StatisticsNeed CompressionPlan::NeedOf(const std::string& name) const {
  const LayerPlan* plan = Find(name);
  return plan == nullptr ? StatisticsNeed::kNone : plan->need;
}

bool CompressionPlan::NeedsDenseStream() const {
  return std::any_of(layers.begin(), layers.end(), [](const auto& layer) {
    return Has(layer.second.need, StatisticsNeed::kDenseInputs);
  });
}

bool CompressionPlan::HasBlockSteps(const Block& block) const {
  for (const BlockStep& step : block_steps) {
    for (const LinearLayer* linear : block.linears()) {
      if (step.names.contains(linear->name)) return true;
    }
  }
  return false;
}

std::string CompressionPlan::AllocationText() const {
  std::string text;
  for (const auto& [name, layer] : layers) {
    for (size_t i = 0; i < layer.steps.size(); ++i) {
      const auto given = layer.allocated.find(layer.steps[i]);
      if (given != layer.allocated.end()) {
        text += fmt::format("\n{} {} {}", name, i, given->second);
      }
    }
  }
  return text;
}

// The last of the steps in `plan.block_steps` works on weights that stay free to change, in blocks
// of the sizes that it takes from the model's config.
static Status CheckBlockStep(const CompressionPlan& plan, const Model& model) {
  const BlockStep& step = plan.block_steps.back();
  for (const Block& block : model.blocks()) {
    bool any = false;
    bool free = false;
    for (const LinearLayer* linear : block.linears()) {
      if (!step.names.contains(linear->name)) continue;
      any = true;
      const std::vector<const RecipeStep*>& steps = plan.layers.at(linear->name).steps;
      free = free || std::none_of(steps.begin(), steps.end(), [](const RecipeStep* s) {
               return s->method->quantizes() || s->method->low_rank() != LowRankUse::kNone;
             });
    }
    if (!any) continue;
    if (!free) {
      return InvalidArgument(
          "{}: {} has nothing left to train in the block of {}: its weights are quantized or "
          "low-rank. Leave that step out, and compress the result in a second run",
          step.step->where, step.step->method_name, block.q.name);
    }
    const ModelConfig& config = model.config();
    if (block.heads != config.heads || block.kv_heads != config.kv_heads ||
        block.ffn != config.ffn || !block.o.bias_name.empty() || !block.down.bias_name.empty()) {
      return Unsupported(
          "{}: {} needs blocks of one size and without biases; that of {} has other sizes than "
          "the model's largest, or biases",
          step.step->where, step.step->method_name, block.q.name);
    }
  }
  return OkStatus();
}

Result<CompressionPlan> MakePlan(const Recipe& recipe, const Model& model, bool check_sizes) {
  std::vector<const LinearLayer*> linears;
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears())
      linears.push_back(linear);
  }
  const size_t block_linears = linears.size();
  linears.push_back(&model.embedding());
  if (!model.config().tied_head) linears.push_back(&model.head());

  CompressionPlan plan;
  for (const RecipeStep& step : recipe.steps) {
    HARROW_RETURN_IF_ERROR(CheckTargetsMatch(step, linears, block_linears, model));
    const bool whole_blocks = step.method->block_method() != nullptr;
    if (whole_blocks) {
      plan.block_steps.push_back({&step, {}});
    } else if (!plan.block_steps.empty()) {
      return InvalidArgument("{}: {} comes after {}, which works on whole blocks and must be last",
                             step.where, step.method_name, plan.block_steps.back().step->where);
    }
    bool any = false;
    for (size_t i = 0; i < linears.size(); ++i) {
      const LinearLayer& linear = *linears[i];
      const bool in_block = i < block_linears;
      const Result<bool> selected = Selected(step, linear.name, in_block);
      if (!selected.ok()) return selected.status().At(step.where);
      if (!*selected) continue;
      if (whole_blocks) {
        if (!in_block || !plan.layers.contains(linear.name)) continue;
        any = true;
        plan.block_steps.back().names.insert(linear.name);
        continue;
      }
      any = true;
      if (check_sizes) {
        HARROW_RETURN_IF_ERROR(
            step.method->Check(linear.rows, linear.cols).At(step.where + ": " + linear.name));
      }
      LayerPlan& layer = plan.layers[linear.name];
      HARROW_RETURN_IF_ERROR(
          CheckLowRankOrder(step, layer, linear.name, &linear == &model.embedding()));
      if (!layer.steps.empty() && layer.steps.back()->method->quantizes() &&
          step.method->low_rank() != LowRankUse::kCorrects) {
        return InvalidArgument("{}: {} is quantized by the step before it ({}); quantize last",
                               step.where, linear.name, layer.steps.back()->where);
      }
      if (step.method->refines_mask() && layer.steps.empty()) {
        return InvalidArgument(
            "{}: {} refines the mask of an earlier step, and none prunes {}; put a pruner before "
            "it",
            step.where, step.method_name, linear.name);
      }
      const auto in_blocks = [](const RecipeStep* earlier) {
        const SparsityTarget* target = earlier->method->target();
        return target != nullptr && target->pattern.block.has_value();
      };
      if (step.method->refines_mask() &&
          std::any_of(layer.steps.begin(), layer.steps.end(), in_blocks)) {
        return InvalidArgument("{}: {} moves single weights and cannot keep the blocks of {}",
                               step.where, step.method_name, layer.steps.back()->where);
      }
      // A tied embedding has the head's inputs; an untied one only picks rows.
      const bool has_inputs = &linear != &model.embedding() || model.config().tied_head;
      if (!has_inputs && step.method->needs() != StatisticsNeed::kNone) {
        return InvalidArgument(
            "{}: {} is an embedding and has no inputs to calibrate on, which {} needs; use "
            "magnitude for it",
            step.where, linear.name, step.method_name);
      }
      if (!in_block && Has(step.method->needs(), StatisticsNeed::kDenseInputs)) {
        return InvalidArgument(
            "{}: {} lies outside the blocks, where the dense model's inputs are not gathered; use "
            "`target: layer` for it",
            step.where, linear.name);
      }
      if (step.method->scales_inputs() && layer.steps.size() > 1 &&
          std::any_of(layer.steps.begin(), layer.steps.end(), [](const RecipeStep* earlier) {
            return earlier->method->low_rank() != LowRankUse::kNone;
          })) {
        return InvalidArgument(
            "{}: {} scales the inputs of {}, with which its low-rank product and the other steps "
            "before it cannot go together; give `scale: false`, or use gptq",
            step.where, step.method_name, linear.name);
      }
      layer.steps.push_back(&step);
      layer.need = layer.need | step.method->needs();
      if (recipe.output_error && has_inputs) layer.need = layer.need | StatisticsNeed::kHessian;
    }
    if (!any) {
      return InvalidArgument("{}: no weight is left after `targets` and `ignore`{}", step.where,
                             whole_blocks ? " that a step before it compresses" : "");
    }
    if (whole_blocks) HARROW_RETURN_IF_ERROR(CheckBlockStep(plan, model));
    for (const std::string& entry : step.ignore) {
      bool used = false;
      for (size_t i = 0; i < linears.size() && !used; ++i) {
        HARROW_ASSIGN_OR_RETURN(used, MatchesAny({entry}, linears[i]->name, /*regex=*/true));
      }
      if (!used) {
        plan.warnings.push_back(
            fmt::format("{}.ignore: \"{}\" matches no linear weight of the "
                        "model",
                        step.where, entry));
      }
    }
  }
  return plan;
}

}  // namespace harrow
