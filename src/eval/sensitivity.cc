#include "eval/sensitivity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/atomic_file.h"
#include "base/statistics.h"
#include "compress/layer_trials.h"
#include "compress/methods/selection.h"
#include "eval/change_scorer.h"
#include "eval/page.h"
#include "eval/perplexity.h"

namespace harrow {
namespace {

constexpr int64_t kDefaultSeqlen = 512;

// One part at one sparsity: the weights to put in, and what they came to.
struct Change {
  std::vector<std::pair<LinearLayer*, LinearWeight>> weights;
  int64_t total = 0;
  int64_t nonzeros = 0;
  uint64_t bytes = 0;
  double sparsity = 0;
  std::vector<std::string> warnings;

  void Add(LinearLayer* layer, CompressedLayer compressed) {
    total += layer->rows * layer->cols;
    nonzeros += compressed.report.nonzeros;
    bytes += compressed.report.bytes;
    sparsity = compressed.report.requested_sparsity.value_or(0);
    for (std::string& warning : compressed.report.warnings)
      warnings.push_back(std::move(warning));
    weights.emplace_back(layer, std::move(compressed.weight));
  }
  void Swap() {
    for (auto& [layer, weight] : weights)
      std::swap(layer->weight, weight);
  }
};

class Run {
 public:
  Run(LoadedModel* loaded, const SensitivityOptions& options, const RunControl* control)
      : loaded_(loaded), model_(loaded->model.get()), options_(options), control_(control) {}

  Result<SensitivityReport> Measure();

 private:
  Status Prepare();
  Status MakeTrials();
  Status InFlags(const Status& error) const;
  Status RunBlock(int32_t b);
  Status Score(const std::string& name, Change* change);
  StatisticsNeed NeedOf(const std::string& name) const {
    StatisticsNeed need = StatisticsNeed::kNone;
    for (const auto& trial : trials_)
      need = need | trial->plan.NeedOf(name);
    return need;
  }
  Status Tick(const std::string& what) {
    if (control_ == nullptr) return OkStatus();
    if (control_->Cancelled()) return Status(StatusCode::kCancelled, "sensitivity interrupted");
    control_->Progress(what, ++done_, total_);
    return OkStatus();
  }

  LoadedModel* loaded_;
  Model* model_;
  const SensitivityOptions& options_;
  const RunControl* control_;
  std::vector<std::unique_ptr<const Trial>> trials_;  // one a sparsity
  std::unique_ptr<LayerTrials> layers_;
  std::unique_ptr<ChangeScorer> scorer_;
  std::map<std::string, std::vector<Change>> projections_;  // [trial]
  SensitivityReport report_;
  std::map<std::string, size_t> index_;  // of report_.layers
  int64_t done_ = 0;
  int64_t total_ = 0;
};

// A trial's error, at the flag that it is about.
Status Run::InFlags(const Status& error) const {
  const std::string& message = error.message();
  if (message.starts_with("--")) return error;
  if (!options_.pattern.empty() && message.starts_with("pattern: ")) {
    return Status(error.code(), fmt::format("--{}", message));
  }
  return error.At(options_.recipe_step.empty() ? "--method" : "--recipe-step");
}

Status Run::MakeTrials() {
  TrialRecipe recipe;
  recipe.step = options_.recipe_step.empty() ? fmt::format("{{method: {}}}", options_.method)
                                             : options_.recipe_step;
  recipe.pattern = options_.pattern;
  HARROW_ASSIGN_OR_RETURN(recipe.calibration, ReadLayerCalibration(options_.calibration));
  bool fixed = false;
  if (!options_.pattern.empty()) {
    const Result<Pattern> pattern = ParsePattern(options_.pattern);
    if (!pattern.ok()) return pattern.status().At("--pattern");
    fixed = pattern->nm.has_value();
  }
  if (!fixed) HARROW_RETURN_IF_ERROR(CheckSparsities(options_.sparsity));
  std::vector<std::optional<double>> sparsities(options_.sparsity.begin(), options_.sparsity.end());
  if (fixed) sparsities = {std::nullopt};
  std::sort(sparsities.begin(), sparsities.end());
  if (std::adjacent_find(sparsities.begin(), sparsities.end()) != sparsities.end()) {
    return InvalidArgument("--sparsity: a value is given twice");
  }
  for (const std::optional<double>& sparsity : sparsities) {
    recipe.sparsity = sparsity;
    Result<std::unique_ptr<const Trial>> trial = MakeTrial(recipe, *model_);
    if (!trial.ok()) return InFlags(trial.status());
    trials_.push_back(std::move(trial).value());
  }
  report_.step = trials_.front()->recipe.canonical;
  return OkStatus();
}

Status Run::Prepare() {
  if (options_.by != "layer" && options_.by != "block" && options_.by != "projection") {
    return InvalidArgument("--by: '{}' is not layer, block or projection", options_.by);
  }
  if (options_.text.empty()) return InvalidArgument("--text: give a text to measure the loss on");
  HARROW_RETURN_IF_ERROR(MakeTrials());
  const int64_t context = model_->config().max_context;
  HARROW_ASSIGN_OR_RETURN(
      report_.seqlen,
      ResolveSeqlen(options_.seqlen > 0 ? options_.seqlen : std::min(context, kDefaultSeqlen),
                    "gptq", *loaded_));
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options_.text));
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          Tokenize(*loaded_, text, SpecialTokens::kModelDefault));
  PerplexityProblem problem;
  problem.seqlen = report_.seqlen;
  problem.max_windows = (options_.tokens + report_.seqlen - 1) / report_.seqlen;
  const Result<int64_t> windows = CountWindows(static_cast<int64_t>(ids.size()), problem);
  if (!windows.ok()) return windows.status().At(options_.text);
  report_.windows = *windows;
  report_.text_hash = TextHash(text);
  report_.model = loaded_->path;
  report_.by = options_.by;
  report_.threads = loaded_->pool->size();
  HARROW_ASSIGN_OR_RETURN(
      layers_, LayerTrials::Start(model_, loaded_->path, trials_.front()->recipe.calibration,
                                  loaded_->pool.get(), control_));
  if (layers_->tokens() > 0)
    report_.calibration_hash = fmt::format("{:016x}", layers_->text_hash());
  report_.calibration_tokens = layers_->tokens();
  HARROW_ASSIGN_OR_RETURN(scorer_, ChangeScorer::Create(model_, loaded_->pool.get(), ids,
                                                        report_.seqlen, report_.windows, control_));

  int64_t linears = 0;
  std::map<std::string, int64_t> parts;
  for (int32_t b = 0; b < model_->config().layers; ++b) {
    for (const LinearLayer* linear : std::as_const(*model_).blocks()[b].linears()) {
      if (trials_.front()->plan.Find(linear->name) == nullptr) continue;
      ++linears;
      ++parts[options_.by == "layer"   ? linear->name
              : options_.by == "block" ? BlockPrefix(linear->name, b)
                                       : ProjectionName(linear->name, b)];
    }
  }
  if (linears == 0) return InvalidArgument("the step is for no linear weight of a block");
  total_ = model_->config().layers * layers_->samples() +
           static_cast<int64_t>(trials_.size()) * (linears + static_cast<int64_t>(parts.size()));
  return OkStatus();
}

Status Run::Score(const std::string& name, Change* change) {
  HARROW_RETURN_IF_ERROR(Tick(fmt::format("{}: score", name)));
  change->Swap();
  Result<DivergenceReport> scored = scorer_->Score();
  change->Swap();
  if (!scored.ok()) return scored.status().At(name);

  const auto [found, added] = index_.emplace(name, report_.layers.size());
  if (added) report_.layers.push_back({name, change->total, {}});
  SensitivityEffect effect;
  std::vector<double> increase(scored->nll_q.size());
  for (size_t w = 0; w < increase.size(); ++w)
    increase[w] = scored->nll_q[w] - scored->nll_p[w];
  effect.sparsity = change->sparsity;
  effect.loss_increase = Mean(increase);
  effect.loss_increase_stderr = StandardError(increase);
  effect.kl = Mean(scored->kl);
  effect.kl_stderr = StandardError(scored->kl);
  effect.top1_agreement = Mean(scored->agreement);
  effect.stored_sparsity =
      1.0 - static_cast<double>(change->nonzeros) / static_cast<double>(change->total);
  effect.bytes = change->bytes;
  effect.warnings = change->warnings;
  report_.layers[found->second].points.push_back(std::move(effect));
  report_.dense_ppl = std::exp(Mean(scored->nll_p));
  return OkStatus();
}

Status Run::RunBlock(int32_t b) {
  const int32_t blocks = model_->config().layers;
  const std::string calibrating = fmt::format("block {}/{}: calibrate", b + 1, blocks);
  HARROW_RETURN_IF_ERROR(layers_->Observe(
      b, [this](const std::string& name) { return NeedOf(name); },
      [&] { return Tick(calibrating); }));
  std::vector<Change> block(trials_.size());
  std::string prefix;
  for (LinearLayer* linear : model_->blocks()[static_cast<size_t>(b)].linears()) {
    if (trials_.front()->plan.Find(linear->name) == nullptr) continue;
    prefix = BlockPrefix(linear->name, b);
    std::vector<Change>& projection = projections_[ProjectionName(linear->name, b)];
    projection.resize(trials_.size());
    for (size_t t = 0; t < trials_.size(); ++t) {
      HARROW_RETURN_IF_ERROR(Tick(fmt::format("block {}/{}: {}", b + 1, blocks, linear->name)));
      HARROW_ASSIGN_OR_RETURN(CompressedLayer compressed, layers_->Compress(*trials_[t], *linear));
      if (options_.by == "layer") {
        Change change;
        change.Add(linear, std::move(compressed));
        HARROW_RETURN_IF_ERROR(Score(linear->name, &change));
      } else {
        (options_.by == "block" ? block[t] : projection[t]).Add(linear, std::move(compressed));
      }
    }
  }
  if (options_.by == "block" && !prefix.empty()) {
    prefix.pop_back();  // the dot
    for (Change& change : block)
      HARROW_RETURN_IF_ERROR(Score(prefix, &change));
  }
  return scorer_->Advance();
}

Result<SensitivityReport> Run::Measure() {
  const auto start = std::chrono::steady_clock::now();
  HARROW_RETURN_IF_ERROR(Prepare());
  for (int32_t b = 0; b < model_->config().layers; ++b)
    HARROW_RETURN_IF_ERROR(RunBlock(b));
  if (options_.by == "projection") {
    HARROW_RETURN_IF_ERROR(scorer_->Rewind());
    for (auto& [name, changes] : projections_) {
      for (Change& change : changes)
        HARROW_RETURN_IF_ERROR(Score(name, &change));
    }
  }
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options_.html.empty()) {
    HARROW_RETURN_IF_ERROR(WriteFileAtomically(options_.html, SensitivityPage(report_)));
  }
  return std::move(report_);
}

}  // namespace

Status CheckSparsities(const std::vector<double>& sparsities) {
  if (sparsities.empty()) return InvalidArgument("--sparsity: give at least one");
  for (const double sparsity : sparsities) {
    if (sparsity > 0 && sparsity < 1) continue;
    return InvalidArgument("--sparsity: expected a fraction, 0 < sparsity < 1, found \"{}\"",
                           sparsity);
  }
  return OkStatus();
}

Result<std::optional<CalibrationSpec>> ReadLayerCalibration(const LayerCalibration& calibration) {
  if (calibration.calibration.empty()) return std::optional<CalibrationSpec>();
  CalibrationSpec spec;
  spec.file = calibration.calibration;
  if (calibration.mode != "papers" && calibration.mode != "concat") {
    return InvalidArgument("--mode: '{}' is not papers or concat", calibration.mode);
  }
  spec.mode = calibration.mode == "concat" ? CalibrationMode::kConcat : CalibrationMode::kPapers;
  spec.samples = calibration.samples;
  spec.sequence_length = calibration.calibration_length;
  spec.seed = calibration.seed;
  return std::optional<CalibrationSpec>(spec);
}

std::string BlockPrefix(const std::string& name, int32_t block) {
  const std::string marker = fmt::format(".{}.", block);
  const size_t at = name.find(marker);
  return at == std::string::npos ? name : name.substr(0, at + marker.size());
}

std::string ProjectionName(const std::string& name, int32_t block) {
  std::string projection = name.substr(BlockPrefix(name, block).size());
  constexpr std::string_view kWeight = ".weight";
  if (projection.ends_with(kWeight)) projection.resize(projection.size() - kWeight.size());
  return projection;
}

std::string SensitivityPage(const SensitivityReport& report) {
  HeatMap map;
  map.title = "KL from the dense model, nats a token, when only this part is compressed";
  for (const SensitivityLayer& layer : report.layers) {
    map.rows.push_back(layer.name);
    map.cells.emplace_back();
    for (const SensitivityEffect& point : layer.points) {
      if (map.rows.size() == 1) map.columns.push_back(fmt::format("{:g}", point.sparsity));
      map.cells.back().push_back(
          {point.kl, fmt::format("loss {:+.5f} ± {:.5f}, KL {:.5f}, top-1 {:.4f}, {} bytes",
                                 point.loss_increase, point.loss_increase_stderr.value_or(NAN),
                                 point.kl, point.top1_agreement, point.bytes)});
    }
  }
  Page page;
  page.title = fmt::format("Sensitivity by {}", report.by);
  page.paragraphs = {
      fmt::format("{}: dense perplexity {:.4f} over {} windows of {} tokens (text {}).",
                  report.model, report.dense_ppl, report.windows, report.seqlen, report.text_hash),
      fmt::format("Calibrated on {} tokens of the dense model's own inputs. Columns: sparsity.",
                  report.calibration_tokens)};
  page.heat_maps.push_back(std::move(map));
  return RenderPage(page);
}

Result<SensitivityReport> MeasureSensitivity(LoadedModel* model, const SensitivityOptions& options,
                                             const RunControl* control) {
  Run run(model, options, control);
  return run.Measure();
}

}  // namespace harrow
