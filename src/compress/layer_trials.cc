#include "compress/layer_trials.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "text/tokenizer.h"

namespace harrow {
namespace {

constexpr int64_t kDefaultSequenceLength = 2048;

Result<YAML::Node> LoadMapping(const std::string& text) {
  try {
    YAML::Node node = YAML::Load(text);
    if (!node.IsMap()) {
      return InvalidArgument("expected a step like {{method: wanda}}, found \"{}\"", text);
    }
    return node;
  } catch (const YAML::Exception& error) {
    return InvalidArgument("not YAML: {}", error.msg);
  }
}

// Of the recipe that was made of the parts, in terms of them.
std::string InParts(const std::string& message) {
  const auto [part, key, text] = SplitRecipeMessage(message);
  if (part == "calibration") {
    if (key.empty()) {
      return "--calibration: missing; the method needs text to calibrate on (.jsonl, .txt)";
    }
    if (key == "file") return fmt::format("--calibration: {}", text);
    return fmt::format("--{}: {}", key == "sequence_length" ? "calibration-length" : key, text);
  }
  return key.empty() || key == "method" ? text : key + ": " + text;
}

Result<std::unique_ptr<const Trial>> ReadTrial(const TrialRecipe& parts, const Model& model) {
  std::string text;
  try {
    YAML::Node root;
    if (parts.calibration) {
      YAML::Node calibration;
      calibration["file"] = parts.calibration->file;
      calibration["mode"] =
          parts.calibration->mode == CalibrationMode::kConcat ? "concat" : "papers";
      calibration["samples"] = parts.calibration->samples;
      calibration["sequence_length"] = parts.calibration->sequence_length;
      calibration["seed"] = parts.calibration->seed;
      root["calibration"] = calibration;
    }
    HARROW_ASSIGN_OR_RETURN(YAML::Node step, LoadMapping(parts.step));
    const auto method = step["method"].as<std::string>("");
    const std::vector<std::string> able = SparsityMethods();
    if (parts.sparsity && FindMethod(method) != nullptr &&
        std::find(able.begin(), able.end(), method) == able.end()) {
      return InvalidArgument("{} takes no sparsity; expected one of {}", method,
                             fmt::join(able, ", "));
    }
    // The shortest text that reads back as the same number.
    if (parts.sparsity) step["sparsity"] = fmt::format("{}", *parts.sparsity);
    if (!parts.pattern.empty()) step["pattern"] = parts.pattern;
    root["steps"].push_back(step);
    if (!parts.then.empty()) {
      HARROW_ASSIGN_OR_RETURN(const YAML::Node then, LoadMapping(parts.then));
      root["steps"].push_back(then);
    }
    if (parts.output_error) root["output_error"] = true;
    YAML::Emitter out;
    out << root;
    text = out.c_str();
  } catch (const YAML::Exception& error) {
    return InvalidArgument("not a step: {}", error.msg);
  }
  auto trial = std::make_unique<Trial>();
  HARROW_ASSIGN_OR_RETURN(trial->recipe, ParseRecipe(text, kUnnamedRecipe));
  HARROW_ASSIGN_OR_RETURN(trial->plan, MakePlan(trial->recipe, model));
  if (trial->plan.NeedsDenseStream() || !trial->plan.block_steps.empty()) {
    return Unsupported("works on more than one layer at a time, which a trial does not");
  }
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears()) {
      const LayerPlan* plan = trial->plan.Find(linear->name);
      if (plan == nullptr) continue;
      if (IsQuantized(linear->weight.spec.values) || linear->weight.low_rank != nullptr) {
        return InvalidArgument("{}: is stored as {} already; give the original model", linear->name,
                               FormatText(linear->weight));
      }
      for (const RecipeStep* step : plan->steps) {
        if (!step->method->orders_inputs() && !step->method->scales_inputs()) continue;
        return Unsupported(
            "{} changes the weights that make its inputs, which a trial does not; give "
            "`permute: none` or `scale: false`",
            step->method_name);
      }
    }
  }
  return std::unique_ptr<const Trial>(std::move(trial));
}

}  // namespace

std::vector<std::string> SparsityMethods() {
  std::vector<std::string> names;
  for (const MethodInfo& info : AllMethods()) {
    OptionReader options(YAML::Load("{sparsity: 0.5}"), "", "");
    const std::unique_ptr<Method> method = info.make(&options);
    if (options.Finish().ok() && method->target() != nullptr) names.emplace_back(info.name);
  }
  return names;
}

Result<std::unique_ptr<const Trial>> MakeTrial(const TrialRecipe& recipe, const Model& model) {
  Result<std::unique_ptr<const Trial>> trial = ReadTrial(recipe, model);
  if (trial.ok()) return trial;
  return Status(trial.status().code(), InParts(trial.status().message()));
}

LayerTrials::LayerTrials(const Model* model, ThreadPool* pool, const RunControl* control)
    : model_(model),
      pool_(pool),
      control_(control),
      blas_threads_(pool),
      state_(NewForwardState(pool, kDefaultSequenceLength)) {}

Result<std::unique_ptr<LayerTrials>> LayerTrials::Start(const Model* model,
                                                        const std::string& directory,
                                                        const std::optional<CalibrationSpec>& spec,
                                                        ThreadPool* pool,
                                                        const RunControl* control) {
  std::unique_ptr<LayerTrials> trials(new LayerTrials(model, pool, control));
  if (!spec) return trials;
  const int64_t context = model->config().max_context;
  if (spec->sequence_length > context) {
    return InvalidArgument("calibration: {} tokens a sequence exceed the model's context of {}",
                           spec->sequence_length, context);
  }
  const int64_t length =
      spec->sequence_length > 0 ? spec->sequence_length : std::min(context, kDefaultSequenceLength);
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer,
                          LoadTokenizer(directory));
  Result<Calibration> taken = TakeCalibration(*spec, length, *tokenizer, control);
  if (!taken.ok()) return taken.status().At("calibration");
  trials->calibration_ = std::move(taken).value();
  std::error_code ignored;
  HARROW_ASSIGN_OR_RETURN(
      trials->run_, CalibrationRun::Start(*model, *trials->calibration_,
                                          std::filesystem::temp_directory_path(ignored).string()));
  return trials;
}

Status LayerTrials::Observe(int32_t b, const NeedOf& need_of, const OnSequence& on_sequence) {
  HARROW_CHECK(b >= next_);
  statistics_.clear();
  if (run_ == nullptr) {
    next_ = b + 1;
    return OkStatus();
  }
  for (; next_ < b; ++next_) {
    HARROW_RETURN_IF_ERROR(
        run_->RunBlock(next_, state_.get(), nullptr, nullptr, /*advance=*/true, on_sequence));
  }
  const Block& block = model_->blocks()[static_cast<size_t>(b)];
  StatisticsObserver observer;
  for (const std::vector<const LinearLayer*>& group : block.input_groups()) {
    StatisticsNeed need = StatisticsNeed::kNone;
    for (const LinearLayer* linear : group)
      need = need | need_of(linear->name);
    if (need != StatisticsNeed::kNone) observer.Watch(group, need);
  }
  HARROW_RETURN_IF_ERROR(
      run_->RunBlock(b, state_.get(), &observer, nullptr, /*advance=*/true, on_sequence));
  next_ = b + 1;
  for (const LinearLayer* linear : block.linears()) {
    statistics_[linear->name] = observer.Take(linear->name);
  }
  return OkStatus();
}

Result<CompressedLayer> LayerTrials::Compress(const Trial& trial, const LinearLayer& layer) {
  const LayerPlan* plan = trial.plan.Find(layer.name);
  HARROW_CHECK(plan != nullptr);
  const auto found = statistics_.find(layer.name);
  return CompressLayer(layer, *plan, trial.recipe.store,
                       found == statistics_.end() ? nullptr : found->second.get(), pool_, control_);
}

}  // namespace harrow
