#include "eval/study.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/atomic_file.h"
#include "base/machine.h"
#include "base/mapped_file.h"
#include "compress/output_path.h"
#include "compress/plan.h"
#include "compress/report_json.h"
#include "compress/resume_key.h"
#include "eval/compare.h"
#include "eval/frontier.h"
#include "eval/perplexity.h"
#include "eval/recipe_run.h"
#include "eval/study_store.h"
#include "eval/tasks.h"
#include "harrow/compress.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

// Changes with anything that makes the same settings give other figures.
constexpr int kStudyVersion = 2;

constexpr uint64_t kMaxReportBytes = uint64_t{256} << 20;

// A point to measure.
struct Job {
  std::string name;
  std::string kind;
  std::string file;  // of the recipe
  std::string text;  // canonical recipe; empty: the model as it is
  std::string key;
};

// A point to beat that the study makes itself, where this program has its method.
struct Baseline {
  const char* name;
  const char* recipe;
};
constexpr Baseline kBaselines[] = {
    // Embedding and head are left alone, as pruners and published INT4 models leave them.
    {"dense-int8", "{steps: [{method: rtn, format: int8, embed: false}], store: dense}"},
    {"dense-int4", "{steps: [{method: rtn, format: int4, embed: false}], store: dense}"},
    {"dense-int4-g32",
     "{steps: [{method: rtn, format: int4, group: 32, embed: false}], store: dense}"},
};

class Run {
 public:
  Run(const StudyOptions& options, std::shared_ptr<ThreadPool> pool, const RunControl* control)
      : options_(options), pool_(std::move(pool)), control_(control) {}

  Result<StudyReport> Measure();

 private:
  Status Prepare();
  Status ListJobs();
  Status AddJob(const std::string& name, const std::string& kind, const std::string& file,
                const Recipe* recipe);
  Result<std::string> Settings() const;
  Result<StudyPoint> Finish(const Job& job, const RunControl* control);
  Result<StudyPoint> MeasurePoint(const Job& job, const LoadedModel& model,
                                  const RunControl* control);
  Result<std::optional<StudyPoint>> Recall(const Job& job);
  Result<CompressReport> CompressOnce(const Job& job, const RunControl* control);
  Status Write();
  // With part of the key, so that what an interrupted run left is continued or not touched.
  std::string ModelFolder(const Job& job) const {
    return fmt::format("{}/models/{}-{}", options_.output, job.name, job.key.substr(0, 8));
  }

  const StudyOptions& options_;
  std::shared_ptr<ThreadPool> pool_;
  const RunControl* control_;
  LoadedModel dense_;
  std::string settings_;
  std::vector<std::string> task_files_;
  std::vector<Job> jobs_;
  std::unique_ptr<StudyStore> store_;
  StudyReport report_;
};

// Everything besides model and recipe that a point's figures depend on.
Result<std::string> Run::Settings() const {
  nlohmann::ordered_json settings = {{"version", kStudyVersion},
                                     {"text", report_.text_hash},
                                     {"seqlen", report_.seqlen},
                                     {"limit", options_.limit},
                                     {"tasks", nlohmann::json::array()},
                                     {"tasks_limit", options_.tasks_limit},
                                     {"n_prompt", report_.n_prompt},
                                     {"n_gen", report_.n_gen},
                                     {"repetitions", options_.repetitions},
                                     {"min_seconds", options_.min_seconds},
                                     {"cpu", report_.cpu}};
  for (const std::string& file : task_files_) {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(file));
    settings["tasks"].push_back(TextHash(text));
  }
  return settings.dump();
}

Status Run::AddJob(const std::string& name, const std::string& kind, const std::string& file,
                   const Recipe* recipe) {
  std::string calibration;
  if (recipe != nullptr && recipe->calibration) {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(recipe->calibration->file));
    calibration = TextHash(text);
  }
  if (recipe != nullptr && recipe->allocation && !recipe->allocation->allocator->file().empty()) {
    HARROW_ASSIGN_OR_RETURN(const std::string text,
                            ReadText(recipe->allocation->allocator->file()));
    calibration += ' ';
    calibration += TextHash(text);
  }
  const std::string canonical = recipe != nullptr ? recipe->canonical : "";
  HARROW_ASSIGN_OR_RETURN(
      const std::string source,
      ResumeKey(*dense_.checkpoint, canonical, pool_->size(), std::span<const int32_t>()));
  const std::string identity = source + "\n" + calibration + "\n" + settings_;
  const XXH128_hash_t hash = XXH3_128bits(identity.data(), identity.size());
  jobs_.push_back(
      {name, kind, file, canonical, fmt::format("{:016x}{:016x}", hash.high64, hash.low64)});
  return OkStatus();
}

// All recipes are read and checked against the model before the first one runs.
Status Run::ListJobs() {
  std::error_code error;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(options_.recipes, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".yaml" || extension == ".yml") files.push_back(entry.path().string());
  }
  if (error) return NotFound("{}: {}", options_.recipes, error.message());
  if (files.empty()) return NotFound("{}: holds no recipe (*.yaml)", options_.recipes);
  std::sort(files.begin(), files.end());

  HARROW_RETURN_IF_ERROR(AddJob("dense", "dense", "", nullptr));
  if (options_.baselines) {
    for (const Baseline& baseline : kBaselines) {
      const Result<Recipe> recipe = ParseRecipe(baseline.recipe, baseline.name);
      const Status status =
          recipe.ok() ? MakePlan(*recipe, *dense_.model).status() : recipe.status();
      if (status.ok()) {
        HARROW_RETURN_IF_ERROR(AddJob(baseline.name, "baseline", "", &*recipe));
      } else {
        report_.notes.push_back(
            fmt::format("{} is not among the points: {}", baseline.name, status.message()));
      }
    }
  }
  std::set<std::string> names;
  for (const Job& job : jobs_)
    names.insert(job.name);
  for (const std::string& file : files) {
    HARROW_ASSIGN_OR_RETURN(const Recipe recipe, LoadRecipe(file));
    if (const auto plan = MakePlan(recipe, *dense_.model); !plan.ok()) return plan.status();
    std::string name = fs::path(file).stem().string();
    if (!names.insert(name).second) {
      return InvalidArgument("{}: there is another point called \"{}\"; rename the file", file,
                             name);
    }
    const Status added = AddJob(name, "recipe", file, &recipe);
    if (!added.ok()) return added.At(file);
  }
  return OkStatus();
}

Status Run::Prepare() {
  if (options_.text.empty()) return InvalidArgument("--text: give a text to measure accuracy on");
  HARROW_RETURN_IF_ERROR(CheckOutputSparesSource(options_.output, options_.model));
  HARROW_ASSIGN_OR_RETURN(dense_, LoadModel(options_.model, pool_));
  report_.model = options_.model;
  report_.output = options_.output;
  report_.text = options_.text;
  report_.cpu = CpuModelName();
  report_.threads = pool_->size();
  HARROW_ASSIGN_OR_RETURN(report_.seqlen, ResolveSeqlen(options_.seqlen, "gptq", dense_));
  const int64_t context = dense_.model->config().max_context;
  report_.n_prompt = std::min(options_.n_prompt, context);
  report_.n_gen = std::min(options_.n_gen, context);
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options_.text));
  report_.text_hash = TextHash(text);
  HARROW_ASSIGN_OR_RETURN(task_files_, TaskFiles(options_.tasks));
  HARROW_ASSIGN_OR_RETURN(settings_, Settings());
  HARROW_RETURN_IF_ERROR(ListJobs());
  std::error_code error;
  fs::create_directories(options_.output + "/models", error);
  if (error) return Error(StatusCode::kIoError, "{}: {}", options_.output, error.message());
  HARROW_ASSIGN_OR_RETURN(store_, StudyStore::Open(options_.output + "/study.db"));
  return OkStatus();
}

Result<std::optional<StudyPoint>> Run::Recall(const Job& job) {
  HARROW_ASSIGN_OR_RETURN(const std::optional<std::string> kept, store_->Find(job.key));
  if (!kept) return std::optional<StudyPoint>();
  const nlohmann::json json = nlohmann::json::parse(*kept, nullptr, /*allow_exceptions=*/false);
  Result<StudyPoint> point = ReportFromJson<StudyPoint>(json);
  if (!point.ok()) {
    return point.status().At(fmt::format("{}/study.db: point {}", options_.output, job.name));
  }
  point->resumed = true;
  return std::optional<StudyPoint>(std::move(point).value());
}

// What the linear weights of the blocks are stored as.
void AddForm(const Model& model, StudyPoint* point) {
  for (const Block& block : model.blocks()) {
    for (const LinearLayer* linear : block.linears()) {
      const LinearWeight& weight = linear->weight;
      if (!weight.has_residual()) {
        point->smaller = true;
        continue;
      }
      const WeightSpec& spec = weight.spec;
      point->quantized = point->quantized || IsQuantized(spec.values);
      point->sparse = point->sparse ||
                      (spec.format != FormatId::kDense && spec.format != FormatId::kDensePanel);
    }
  }
}

Result<StudyPoint> Run::MeasurePoint(const Job& job, const LoadedModel& model,
                                     const RunControl* control) {
  CompareOptions compare;
  compare.text = options_.text;
  compare.seqlen = report_.seqlen;
  compare.limit = options_.limit;
  compare.n_prompt = options_.n_prompt;
  compare.n_gen = options_.n_gen;
  compare.repetitions = options_.repetitions;
  compare.min_seconds = options_.min_seconds;
  HARROW_ASSIGN_OR_RETURN(const CompareReport measured,
                          CompareModels(dense_, model, compare, control));
  StudyPoint point;
  point.kind = job.kind;
  point.formats = measured.sparse.formats;
  point.bits_per_weight = BitsPerWeight(*dense_.model, *model.model);
  point.disk_bytes = measured.sparse.disk_bytes;
  point.resident_bytes = measured.sparse.resident_bytes;
  point.bytes_per_token = model.model->WeightBytesPerToken();
  point.ppl = measured.sparse.ppl.value_or(0);
  point.ppl_stderr = measured.sparse.ppl_stderr;
  point.dense_ppl = measured.dense.ppl.value_or(0);
  point.ppl_increase = point.ppl / point.dense_ppl - 1;
  point.delta_nll = measured.delta_nll.value_or(0);
  point.delta_nll_stderr = measured.delta_nll_stderr;
  point.kl = measured.kl.value_or(0);
  point.kl_stderr = measured.kl_stderr;
  point.top1_agreement = measured.top1_agreement.value_or(0);
  point.top1_agreement_stderr = measured.top1_agreement_stderr;
  point.decode_tps = measured.sparse.decode_tps.value_or(0);
  point.decode_time_ratio = 1 / measured.decode_speedup.value_or(1);
  if (measured.decode_speedup) {
    point.decode_time_low = 1 / *measured.decode_speedup_high;
    point.decode_time_high = 1 / *measured.decode_speedup_low;
  }
  point.prefill_tps = measured.sparse.prefill_tps.value_or(0);
  point.prefill_time_ratio = 1 / measured.prefill_speedup.value_or(1);
  if (measured.prefill_speedup) {
    point.prefill_time_low = 1 / *measured.prefill_speedup_high;
    point.prefill_time_high = 1 / *measured.prefill_speedup_low;
  }
  if (!task_files_.empty()) {
    TaskOptions tasks;
    tasks.tasks = task_files_;
    tasks.limit = options_.tasks_limit;
    HARROW_ASSIGN_OR_RETURN(const TaskReport scored, MeasureTasks(model, tasks, control));
    point.task_accuracy = scored.rows.front().acc;
    point.task_accuracy_stderr = scored.rows.front().acc_stderr;
  }
  return point;
}

// Compresses, unless an earlier run of the study has done so and was interrupted while it measured.
Result<CompressReport> Run::CompressOnce(const Job& job, const RunControl* control) {
  const std::string folder = ModelFolder(job);
  if (const auto text = ReadFile(folder + "/" + kReportFile, kMaxReportBytes); text.ok()) {
    const nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    Result<CompressReport> kept = ReportFromJson<CompressReport>(json);
    if (kept.ok() && kept->recipe == job.text) return kept;
  }
  CompressOptions compress;
  compress.model = options_.model;
  compress.recipe_text = job.text;
  compress.output = folder;
  compress.overwrite = true;
  compress.threads = pool_->size();
  return Compress(compress, control);
}

// The model that is to be measured, if it is not the model as it is, the measurement, and keeping
// the result.
Result<StudyPoint> Run::Finish(const Job& job, const RunControl* control) {
  const auto start = std::chrono::steady_clock::now();
  StudyPoint point;
  if (job.text.empty()) {
    HARROW_ASSIGN_OR_RETURN(point, MeasurePoint(job, dense_, control));
    HARROW_ASSIGN_OR_RETURN(point.sparsity, LinearSparsity(*dense_.model));
  } else {
    HARROW_ASSIGN_OR_RETURN(const CompressReport compressed, CompressOnce(job, control));
    HARROW_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(ModelFolder(job), pool_));
    HARROW_ASSIGN_OR_RETURN(point, MeasurePoint(job, model, control));
    point.sparsity = compressed.sparsity;
    point.compress_seconds = compressed.seconds;
    point.warnings = compressed.warnings;
    point.smaller = !compressed.structure.empty();
    std::set<std::string> methods;
    for (const StructureReport& step : compressed.structure)
      methods.insert(step.method);
    for (const LayerReport& layer : compressed.layers) {
      methods.insert(layer.method);
      point.sparse = point.sparse || layer.requested_sparsity.has_value();
    }
    AddForm(*model.model, &point);
    point.methods = {methods.begin(), methods.end()};
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  HARROW_RETURN_IF_ERROR(store_->Put(
      job.key, job.name, job.text,
      ReportToJson(point).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), seconds));
  return point;
}

Status Run::Write() {
  HARROW_RETURN_IF_ERROR(WriteFileAtomically(
      options_.output + "/study.json",
      ReportToJson(report_).dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
          "\n"));
  return WriteFileAtomically(options_.output + "/study.html", StudyPage(report_));
}

Result<StudyReport> Run::Measure() {
  const auto start = std::chrono::steady_clock::now();
  HARROW_RETURN_IF_ERROR(Prepare());
  for (size_t i = 0; i < jobs_.size(); ++i) {
    const Job& job = jobs_[i];
    HARROW_ASSIGN_OR_RETURN(std::optional<StudyPoint> point, Recall(job));
    if (!point) {
      const RunControl control =
          PrefixedControl(control_, fmt::format("{}/{} {}: ", i + 1, jobs_.size(), job.name));
      Result<StudyPoint> measured = Finish(job, &control);
      // A model that could not be measured to the end is what the next run begins with.
      if (!options_.keep_models && measured.status().code() != StatusCode::kCancelled) {
        std::error_code ignored;
        fs::remove_all(ModelFolder(job), ignored);
      }
      if (measured.ok()) {
        point = std::move(measured).value();
      } else if (measured.status().code() == StatusCode::kCancelled) {
        return Status(StatusCode::kCancelled,
                      fmt::format("interrupted in {}; the same command continues", job.name));
      } else {
        const std::string name = job.file.empty() ? job.name : job.file;
        if (job.kind == "dense") return measured.status().At(name);
        control.Warn(measured.status().message());
        report_.failures.push_back({name, measured.status().message()});
        continue;
      }
    }
    // The same recipe may go by another name now.
    point->name = job.name;
    point->kind = job.kind;
    point->recipe = job.file;
    report_.points.push_back(std::move(*point));
  }
  MarkDominated(&report_.points);
  const StudyPoint& dense = report_.points.front();
  report_.notes.push_back(
      fmt::format("the model as it is, timed against itself, gave {:.3f} in decode and {:.3f} in "
                  "prefill; differences of that size are noise",
                  dense.decode_time_ratio, dense.prefill_time_ratio));
  std::vector<std::string> noisy;
  for (const StudyPoint& point : report_.points) {
    if ((point.decode_time_low && TooNoisy(*point.decode_time_low, *point.decode_time_high)) ||
        (point.prefill_time_low && TooNoisy(*point.prefill_time_low, *point.prefill_time_high))) {
      noisy.push_back(point.name);
    }
  }
  if (!noisy.empty()) {
    report_.notes.push_back(
        fmt::format("the time of {} is too noisy to tell: do not believe verdicts about it, and "
                    "measure again on an idle machine or with more --min-seconds",
                    fmt::join(noisy, ", ")));
  }
  report_.verdicts = JudgeSparse(report_.points);
  PerplexityProblem problem;
  problem.seqlen = report_.seqlen;
  problem.max_windows = options_.limit;
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options_.text));
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          Tokenize(dense_, text, SpecialTokens::kModelDefault));
  HARROW_ASSIGN_OR_RETURN(report_.windows, CountWindows(static_cast<int64_t>(ids.size()), problem));
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  HARROW_RETURN_IF_ERROR(Write());
  return std::move(report_);
}

}  // namespace

std::string TimeText(double ratio, const std::optional<double>& low,
                     const std::optional<double>& high) {
  return low && high && TooNoisy(*low, *high) ? "noisy" : fmt::format("{:.3f}", ratio);
}

Result<StudyReport> RunStudy(const StudyOptions& options, std::shared_ptr<ThreadPool> pool,
                             const RunControl* control) {
  Run run(options, std::move(pool), control);
  return run.Measure();
}

}  // namespace harrow
