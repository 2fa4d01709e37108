#include "compress/plan.h"

#include <algorithm>

namespace harrow {
namespace {

// Whether an entry means the weight; regular expressions count only where `regex` is set.
Result<bool> AnyMatches(const std::vector<std::string>& entries, const std::string& name,
                        bool regex) {
  for (const std::string& entry : entries) {
    if (MatchesExactly(entry, name)) return true;
    if (!regex) continue;
    HARROW_ASSIGN_OR_RETURN(const bool matches, MatchesRegex(entry, name));
    if (matches) return true;
  }
  return false;
}

// Regular expressions and the default select linear weights of blocks; the embedding and the head
// must be named, or be included by the method.
Result<bool> Selected(const RecipeStep& step, const std::string& name, bool in_block) {
  HARROW_ASSIGN_OR_RETURN(const bool ignored, AnyMatches(step.ignore, name, /*regex=*/true));
  if (ignored) return false;
  if (step.targets.empty() && in_block) return true;
  if (!in_block && step.method->includes_embedding()) return true;
  return AnyMatches(step.targets, name, in_block);
}

Status CheckTargetsMatch(const RecipeStep& step, const std::vector<const LinearLayer*>& linears,
                         size_t block_linears, const Model& model) {
  for (const std::string& entry : step.targets) {
    bool found = false;
    for (size_t i = 0; i < linears.size() && !found; ++i) {
      HARROW_ASSIGN_OR_RETURN(found, AnyMatches({entry}, linears[i]->name, i < block_linears));
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

}  // namespace

const LayerPlan* CompressionPlan::Find(const std::string& name) const {
  const auto found = layers.find(name);
  return found == layers.end() ? nullptr : &found->second;
}

StatisticsNeed CompressionPlan::NeedOf(const std::string& name) const {
  const LayerPlan* plan = Find(name);
  return plan == nullptr ? StatisticsNeed::kNone : plan->need;
}

Result<CompressionPlan> MakePlan(const Recipe& recipe, const Model& model) {
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
    bool any = false;
    for (size_t i = 0; i < linears.size(); ++i) {
      const LinearLayer& linear = *linears[i];
      const bool in_block = i < block_linears;
      const Result<bool> selected = Selected(step, linear.name, in_block);
      if (!selected.ok()) return selected.status().At(step.where);
      if (!*selected) continue;
      any = true;
      if (Status status = step.method->Check(linear.rows, linear.cols); !status.ok()) {
        return status.At(step.where + ": " + linear.name);
      }
      LayerPlan& layer = plan.layers[linear.name];
      if (!layer.steps.empty() && layer.steps.back()->method->quantizes()) {
        return InvalidArgument("{}: {} is quantized by the step before it ({}); quantize last",
                               step.where, linear.name, layer.steps.back()->where);
      }
      if (step.method->refines_mask() && layer.steps.empty()) {
        return InvalidArgument(
            "{}: {} refines the mask of an earlier step, and none prunes {}; put a pruner before "
            "it",
            step.where, step.method_name, linear.name);
      }
      // A tied embedding has the head's inputs; an untied one only picks rows.
      const bool has_inputs = &linear != &model.embedding() || model.config().tied_head;
      if (!has_inputs && step.method->needs() != StatisticsNeed::kNone) {
        return InvalidArgument(
            "{}: {} is an embedding and has no inputs to calibrate on, which {} needs; use "
            "magnitude for it",
            step.where, linear.name, step.method_name);
      }
      layer.steps.push_back(&step);
      layer.need = layer.need | step.method->needs();
      if (recipe.output_error && has_inputs) layer.need = layer.need | StatisticsNeed::kHessian;
    }
    if (!any) {
      return InvalidArgument("{}: no weight is left after `targets` and `ignore`", step.where);
    }
    for (const std::string& entry : step.ignore) {
      bool used = false;
      for (size_t i = 0; i < linears.size() && !used; ++i) {
        HARROW_ASSIGN_OR_RETURN(used, AnyMatches({entry}, linears[i]->name, /*regex=*/true));
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
