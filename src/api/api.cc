// include/harrow, forwarded to the folders that do the work.
#include <memory>

#include "advise/diagnose.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "compress/output_path.h"
#include "eval/ablation.h"
#include "eval/bench.h"
#include "eval/compare.h"
#include "eval/generate.h"
#include "eval/inspect.h"
#include "eval/loaded_model.h"
#include "eval/pattern_search.h"
#include "eval/perplexity.h"
#include "eval/sensitivity.h"
#include "eval/study.h"
#include "eval/tasks.h"
#include "harrow/ablation.h"
#include "harrow/bench.h"
#include "harrow/convert.h"
#include "harrow/doctor.h"
#include "harrow/eval.h"
#include "harrow/model.h"
#include "harrow/sensitivity.h"
#include "harrow/study.h"

namespace harrow {
namespace {

Result<std::shared_ptr<ThreadPool>> ConfiguredPool(const MachineOptions& machine,
                                                   const RunControl* control) {
  HARROW_RETURN_IF_ERROR(ApplyMachineOptions(machine, control));
  return std::make_shared<ThreadPool>(machine.threads);
}

}  // namespace

struct LanguageModel::Impl {
  LoadedModel loaded;
};

LanguageModel::LanguageModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LanguageModel::~LanguageModel() = default;

Result<std::unique_ptr<LanguageModel>> LanguageModel::Open(const std::string& model,
                                                           const MachineOptions& machine,
                                                           const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  auto impl = std::make_unique<Impl>();
  HARROW_ASSIGN_OR_RETURN(impl->loaded, LoadModel(model, std::move(pool)));
  return std::unique_ptr<LanguageModel>(new LanguageModel(std::move(impl)));
}

Result<GenerateReport> LanguageModel::Generate(
    const GenerateOptions& options, const std::function<void(std::string_view)>& on_output,
    const RunControl* control) {
  return GenerateText(impl_->loaded, options, on_output, control);
}

Result<ScoreReport> LanguageModel::Score(const ScoreOptions& options) {
  return ScoreText(impl_->loaded, options);
}

Result<PerplexityReport> LanguageModel::Perplexity(const PerplexityOptions& options,
                                                   const RunControl* control) {
  return MeasurePerplexity(impl_->loaded, options, control);
}

Result<TaskReport> LanguageModel::Tasks(const TaskOptions& options, const RunControl* control) {
  return MeasureTasks(impl_->loaded, options, control);
}

Result<InspectReport> Inspect(const std::string& model, const RunControl* control) {
  return InspectModel(model, control);
}

Result<CompareReport> Compare(const std::string& dense, const std::string& sparse,
                              const CompareOptions& options, const MachineOptions& machine,
                              const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  HARROW_ASSIGN_OR_RETURN(const LoadedModel first, LoadModel(dense, pool));
  HARROW_ASSIGN_OR_RETURN(const LoadedModel second, LoadModel(sparse, pool));
  return CompareModels(first, second, options, control);
}

Result<BenchReport> Bench(const BenchOptions& options, const MachineOptions& machine,
                          const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  return MeasureBench(options, std::move(pool), control);
}

Result<SensitivityReport> Sensitivity(const SensitivityOptions& options,
                                      const MachineOptions& machine, const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  HARROW_ASSIGN_OR_RETURN(LoadedModel model, LoadModel(options.model, std::move(pool)));
  return MeasureSensitivity(&model, options, control);
}

Result<PatternReport> SearchPatterns(const PatternOptions& options, const MachineOptions& machine,
                                     const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  HARROW_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(options.model, std::move(pool)));
  return SearchLayerPatterns(model, options, control);
}

Result<AblationReport> Ablate(const AblationOptions& options, const MachineOptions& machine,
                              const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  return MeasureAblation(options, std::move(pool), control);
}

Result<StudyReport> Study(const StudyOptions& options, const MachineOptions& machine,
                          const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ConfiguredPool(machine, control));
  return RunStudy(options, std::move(pool), control);
}

Status ConfigureMachine(const MachineOptions& options, const RunControl* control) {
  return ApplyMachineOptions(options, control);
}

Result<DoctorReport> Diagnose(const MachineOptions& machine) {
  return DiagnoseMachine(machine);
}

Result<DoctorReport> MeasureMachine(const MeasureOptions& options, const MachineOptions& machine,
                                    const RunControl* control) {
  return MeasureAndStore(options, machine, control);
}

Result<ExplainReport> Explain(const ExplainOptions& options, const MachineOptions& machine,
                              const RunControl* control) {
  return ExplainHere(options, machine, control);
}

Status ConvertLlama2c(const ConvertOptions& options) {
  for (const std::string& source : {options.model, options.tokenizer}) {
    if (!source.empty()) {
      HARROW_RETURN_IF_ERROR(CheckOutputSparesSource(options.output, source));
    }
  }
  return ConvertLlama2c(options.model, options.tokenizer, options.output, options.overwrite);
}

}  // namespace harrow
