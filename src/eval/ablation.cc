#include "eval/ablation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/statistics.h"
#include "eval/loaded_model.h"
#include "eval/page.h"
#include "eval/perplexity.h"
#include "eval/recipe_run.h"
#include "eval/sensitivity.h"
#include "harrow/compress.h"

namespace harrow {
namespace {

struct Variant {
  std::string name;
  std::string kind;
  std::string recipe;
  std::string methods;
};

std::vector<double> Difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<double>());
  return difference;
}

// For std::regex: punctuation of a name taken literally.
std::string QuoteRegex(const std::string& name) {
  std::string quoted;
  for (const char c : name) {
    if (std::string_view(".[]{}()*+?^$|\\/").find(c) != std::string_view::npos) quoted += '\\';
    quoted += c;
  }
  return quoted;
}

class Run {
 public:
  Run(const AblationOptions& options, std::shared_ptr<ThreadPool> pool, const RunControl* control)
      : options_(options), pool_(std::move(pool)), control_(control) {}

  Result<AblationReport> Measure();

 private:
  Status Prepare();
  void ListVariants();
  Status RunVariant(const Variant& variant, const std::string& prefix);
  std::string Methods(const std::function<bool(size_t)>& keep) const;
  bool Quantizes(size_t step) const { return recipe_.steps[step].method->quantizes(); }

  const AblationOptions& options_;
  std::shared_ptr<ThreadPool> pool_;
  const RunControl* control_;
  Recipe recipe_;
  LoadedModel dense_;
  std::vector<int32_t> ids_;
  std::vector<Variant> variants_;
  std::optional<TemporaryFolder> folder_;
  std::optional<DivergenceReport> whole_, sparsity_, quantization_;
  AblationReport report_;
};

Status Run::Prepare() {
  if (options_.text.empty()) return InvalidArgument("--text: give a text to measure the loss on");
  HARROW_ASSIGN_OR_RETURN(recipe_, LoadRecipe(options_.recipe));
  if (!recipe_.structure.empty()) {
    return InvalidArgument(
        "{}: structure: cannot be left out step by step; compress with the structure alone, and "
        "ablate the steps on its output",
        options_.recipe);
  }
  HARROW_ASSIGN_OR_RETURN(dense_, LoadModel(options_.model, pool_));
  HARROW_ASSIGN_OR_RETURN(report_.seqlen, ResolveSeqlen(options_.seqlen, "gptq", dense_));
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options_.text));
  HARROW_ASSIGN_OR_RETURN(ids_, Tokenize(dense_, text, SpecialTokens::kModelDefault));
  PerplexityProblem problem;
  problem.seqlen = report_.seqlen;
  if (const auto windows = CountWindows(static_cast<int64_t>(ids_.size()), problem);
      !windows.ok()) {
    return windows.status().At(options_.text);
  }
  HARROW_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::Create(options_.work));
  folder_.emplace(std::move(folder));
  report_.model = options_.model;
  report_.recipe = options_.recipe;
  report_.text_hash = TextHash(text);
  report_.threads = pool_->size();
  return OkStatus();
}

std::string Run::Methods(const std::function<bool(size_t)>& keep) const {
  std::string names;
  for (size_t i = 0; i < recipe_.steps.size(); ++i) {
    if (keep(i)) names += (names.empty() ? "" : "+") + recipe_.steps[i].method_name;
  }
  return names;
}

void Run::ListVariants() {
  const size_t steps = recipe_.steps.size();
  const auto add = [&](std::string name, std::string kind, const std::function<bool(size_t)>& keep,
                       const std::string& ignore) {
    std::string recipe = RecipeVariant(recipe_, keep, ignore);
    for (Variant& variant : variants_) {
      if (variant.recipe != recipe) continue;  // of two steps, one left out is the other alone
      variant.name += " = " + name;
      return;
    }
    variants_.push_back({std::move(name), std::move(kind), std::move(recipe), Methods(keep)});
  };
  const auto all = [](size_t) { return true; };
  add("whole recipe", "whole", all, "");
  if (std::string obstacle = WhyNotSplit(recipe_); obstacle.empty()) {
    add(
        "sparsity alone", "sparsity alone", [this](size_t i) { return !Quantizes(i); }, "");
    add(
        "quantization alone", "quantization alone", [this](size_t i) { return Quantizes(i); }, "");
  } else {
    report_.notes.push_back(std::move(obstacle));
  }
  if (options_.steps && steps > 1) {
    for (size_t left_out = 0; left_out < steps; ++left_out) {
      add(
          fmt::format("without step {} ({})", left_out, recipe_.steps[left_out].method_name),
          "without step", [left_out](size_t i) { return i != left_out; }, "");
    }
  }
  if (options_.blocks) {
    const std::vector<Block>& blocks = std::as_const(*dense_.model).blocks();
    for (size_t b = 0; b < blocks.size(); ++b) {
      const std::string prefix = BlockPrefix(blocks[b].q.name, static_cast<int32_t>(b));
      add(fmt::format("without block {}", b), "without block", all, "re:^" + QuoteRegex(prefix));
    }
  }
}

Status Run::RunVariant(const Variant& variant, const std::string& prefix) {
  const RunControl control = PrefixedControl(control_, prefix);
  CompressOptions compress;
  compress.model = options_.model;
  compress.recipe_text = variant.recipe;
  compress.output = folder_->path() + "/model";
  compress.overwrite = true;
  compress.restart = true;
  compress.threads = pool_->size();
  const Result<CompressReport> compressed = Compress(compress, &control);
  if (!compressed.ok()) {
    // What is left after leaving something out need not be a recipe: a step for that block alone.
    if (compressed.status().code() == StatusCode::kInvalidArgument && variant.kind != "whole") {
      report_.notes.push_back(fmt::format("{}: {}", variant.name, compressed.status().message()));
      return OkStatus();
    }
    return compressed.status();
  }
  HARROW_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(compress.output, pool_));
  Result<DivergenceReport> measured =
      MeasureDivergence(dense_, model, ids_, report_.seqlen, options_.limit, &control);
  if (!measured.ok()) return AtText(measured.status(), options_.text);
  if (variant.kind == "whole") {
    whole_ = *measured;
    report_.windows = measured->windows;
    report_.dense_ppl = std::exp(Mean(measured->nll_p));
  }
  if (variant.kind == "sparsity alone") sparsity_ = *measured;
  if (variant.kind == "quantization alone") quantization_ = *measured;

  AblationRow row;
  row.variant = variant.name;
  row.kind = variant.kind;
  row.methods = variant.methods;
  row.sparsity = compressed->sparsity;
  row.bits_per_weight = BitsPerWeight(*dense_.model, *model.model);
  row.disk_bytes = model.DiskBytes();
  const std::vector<double> increase = Difference(measured->nll_q, measured->nll_p);
  row.loss_increase = Mean(increase);
  row.loss_increase_stderr = StandardError(increase);
  const std::vector<double> saved = Difference(whole_->nll_q, measured->nll_q);
  row.saved = Mean(saved);
  row.saved_stderr = StandardError(saved);
  row.kl = Mean(measured->kl);
  row.kl_stderr = StandardError(measured->kl);
  row.top1_agreement = Mean(measured->agreement);
  report_.rows.push_back(std::move(row));
  return OkStatus();
}

Result<AblationReport> Run::Measure() {
  const auto start = std::chrono::steady_clock::now();
  HARROW_RETURN_IF_ERROR(Prepare());
  ListVariants();
  for (size_t i = 0; i < variants_.size(); ++i) {
    const std::string prefix =
        fmt::format("{}/{} {}: ", i + 1, variants_.size(), variants_[i].name);
    const Status status = RunVariant(variants_[i], prefix);
    if (!status.ok()) {
      return status.At(fmt::format("{} ({})", options_.recipe, variants_[i].name));
    }
  }
  if (sparsity_ && quantization_) {
    report_.additivity = JudgeAdditivity(*sparsity_, *quantization_, *whole_);
  }
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options_.html.empty()) {
    HARROW_RETURN_IF_ERROR(WriteFileAtomically(options_.html, AblationPage(report_)));
  }
  return std::move(report_);
}

}  // namespace

std::string WhyNotSplit(const Recipe& recipe) {
  constexpr char kEnd[] = "sparsity and quantization cannot be told apart";
  size_t quantizing = 0;
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const RecipeStep& step = recipe.steps[i];
    if (!step.method->quantizes()) continue;
    ++quantizing;
    if (step.method->target() == nullptr) continue;
    return fmt::format("step {} ({}) prunes and quantizes in one pass: {}", i, step.method_name,
                       kEnd);
  }
  if (quantizing == 0) return fmt::format("no step quantizes: {}", kEnd);
  if (quantizing == recipe.steps.size()) return fmt::format("every step quantizes: {}", kEnd);
  return "";
}

std::string RecipeVariant(const Recipe& recipe, const std::function<bool(size_t)>& keep,
                          const std::string& ignore) {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(recipe.canonical);
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  for (size_t i = 0; i < json["steps"].size(); ++i) {
    if (!keep(i)) continue;
    nlohmann::ordered_json step = json["steps"][i];
    if (!ignore.empty()) {
      nlohmann::ordered_json entries = nlohmann::ordered_json::array();
      for (const std::string& entry : recipe.steps[i].ignore)
        entries.push_back(entry);
      entries.push_back(ignore);
      step["ignore"] = entries;
    }
    steps.push_back(step);
  }
  json["steps"] = steps;
  if (recipe.allocation) {
    // The allocated steps by their new numbers; none is left when only others are kept.
    nlohmann::ordered_json allocated = nlohmann::ordered_json::array();
    for (size_t i = 0, number = 0; i < recipe.steps.size(); ++i) {
      if (!keep(i)) continue;
      const std::vector<size_t>& chosen = recipe.allocation->steps;
      if (std::find(chosen.begin(), chosen.end(), i) != chosen.end())
        allocated.push_back(std::to_string(number));
      ++number;
    }
    json["allocation"]["steps"] = allocated;
    if (allocated.empty()) json.erase("allocation");
  }
  return json.dump(1);
}

Additivity JudgeAdditivity(const DivergenceReport& sparsity, const DivergenceReport& quantization,
                           const DivergenceReport& both) {
  const std::vector<double> s = Difference(sparsity.nll_q, sparsity.nll_p);
  const std::vector<double> q = Difference(quantization.nll_q, quantization.nll_p);
  const std::vector<double> b = Difference(both.nll_q, both.nll_p);
  const std::vector<double> excess = Difference(Difference(b, s), q);
  Additivity result;
  result.sparsity_loss = Mean(s);
  result.quantization_loss = Mean(q);
  result.both_loss = Mean(b);
  result.excess = Mean(excess);
  result.excess_stderr = StandardError(excess);
  result.sparsity_kl = Mean(sparsity.kl);
  result.quantization_kl = Mean(quantization.kl);
  result.both_kl = Mean(both.kl);
  const double sum = result.sparsity_loss + result.quantization_loss;
  const std::string figures = fmt::format(
      "both cost {:.5f} nats a token, the sum is {:.5f}, the "
      "difference {:+.5f}",
      result.both_loss, sum, result.excess);
  if (!result.excess_stderr) {
    result.verdict = fmt::format("cannot be told from one window: {}", figures);
  } else {
    const double error = *result.excess_stderr;
    const bool clear = std::abs(result.excess) > 2 * error;
    result.verdict = fmt::format("{}: {} (standard error {:.5f})",
                                 !clear              ? "errors add, as far as this text can tell"
                                 : result.excess > 0 ? "errors more than add"
                                                     : "errors less than add",
                                 figures, error);
  }
  return result;
}

std::string AblationPage(const AblationReport& report) {
  Page page;
  page.title = fmt::format("Ablation of {}", report.recipe);
  page.paragraphs.push_back(
      fmt::format("{}: dense perplexity {:.4f} over {} windows of {} tokens (text {}).",
                  report.model, report.dense_ppl, report.windows, report.seqlen, report.text_hash));
  if (report.additivity) page.paragraphs.push_back("Do errors add? " + report.additivity->verdict);
  for (const std::string& note : report.notes)
    page.paragraphs.push_back(note);
  HeatMap map;
  map.title = "Nats a token";
  map.columns = {"loss increase", "KL", "saved"};
  PageTable table{"All variants",
                  {{"variant", "methods", "sparsity", "bits/weight", "loss increase", "±", "saved",
                    "±", "KL", "top-1"}}};
  const auto error = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.5f}", *value) : std::string("-");
  };
  for (const AblationRow& row : report.rows) {
    map.rows.push_back(row.variant);
    map.cells.push_back(
        {{row.loss_increase, "loss increase"}, {row.kl, "KL"}, {row.saved, "saved"}});
    table.rows.push_back({row.variant, row.methods, fmt::format("{:.4f}", row.sparsity),
                          fmt::format("{:.3f}", row.bits_per_weight),
                          fmt::format("{:+.5f}", row.loss_increase),
                          error(row.loss_increase_stderr), fmt::format("{:+.5f}", row.saved),
                          error(row.saved_stderr), fmt::format("{:.5f}", row.kl),
                          fmt::format("{:.4f}", row.top1_agreement)});
  }
  page.heat_maps.push_back(std::move(map));
  page.tables.push_back(std::move(table));
  return RenderPage(page);
}

Result<AblationReport> MeasureAblation(const AblationOptions& options,
                                       std::shared_ptr<ThreadPool> pool,
                                       const RunControl* control) {
  Run run(options, std::move(pool), control);
  return run.Measure();
}

}  // namespace harrow
