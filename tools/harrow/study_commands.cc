// sensitivity, ablate, study.
#include <algorithm>
#include <memory>

#include "commands.h"
#include "flags.h"
#include "harrow/ablation.h"
#include "harrow/sensitivity.h"
#include "harrow/study.h"
#include "print.h"

namespace harrow::tools {
namespace {

std::string PlusMinus(double value, const std::optional<double>& error) {
  return error ? fmt::format("{:+.5f} ± {:.5f}", value, *error) : fmt::format("{:+.5f}", value);
}

std::string SensitivityText(SensitivityReport& report) {
  Table table = {{"part", "sparsity", "loss increase", "KL", "top-1", "bytes"}};
  for (SensitivityLayer& layer : report.layers) {
    for (SensitivityEffect& point : layer.points) {
      table.push_back({layer.name, fmt::format("{:.3g}", point.sparsity),
                       PlusMinus(point.loss_increase, point.loss_increase_stderr),
                       fmt::format("{:.6f}", point.kl), fmt::format("{:.4f}", point.top1_agreement),
                       ToText("bytes", point.bytes)});
    }
  }
  return fmt::format("{} by {}, {} windows of {} tokens, dense perplexity {:.4f}\n", report.model,
                     report.by, report.windows, report.seqlen, report.dense_ppl) +
         AlignedTable(table, "");
}

std::string AblationText(AblationReport& report) {
  Table table = {{"variant", "sparsity", "bits/weight", "loss increase", "saved", "KL", "top-1"}};
  for (AblationRow& row : report.rows) {
    table.push_back({row.variant, fmt::format("{:.4f}", row.sparsity),
                     fmt::format("{:.3f}", row.bits_per_weight),
                     PlusMinus(row.loss_increase, row.loss_increase_stderr),
                     PlusMinus(row.saved, row.saved_stderr), fmt::format("{:.6f}", row.kl),
                     fmt::format("{:.4f}", row.top1_agreement)});
  }
  std::string text = AlignedTable(table, "");
  if (report.additivity) text += "do errors add? " + report.additivity->verdict + "\n";
  for (const std::string& note : report.notes)
    text += "note: " + note + "\n";
  return text;
}

std::string StudyText(StudyReport& report) {
  Table table = {{"point", "zeros", "bits/weight", "on disk", "a token", "ppl", "KL", "top-1",
                  "tasks", "decode", "prefill", "dominated in"}};
  for (StudyPoint& point : report.points) {
    std::string dominated;
    for (const auto& [name, list] :
         {std::pair("bytes", &point.dominated_bytes), std::pair("decode", &point.dominated_decode),
          std::pair("prefill", &point.dominated_prefill)}) {
      if (!list->empty()) dominated += (dominated.empty() ? "" : ", ") + std::string(name);
    }
    table.push_back(
        {point.name, fmt::format("{:.3f}", point.sparsity),
         fmt::format("{:.3f}", point.bits_per_weight), ToText("bytes", point.disk_bytes),
         ToText("bytes", point.bytes_per_token), fmt::format("{:.4f}", point.ppl),
         fmt::format("{:.6f}", point.kl), fmt::format("{:.4f}", point.top1_agreement),
         ToText("task_accuracy", point.task_accuracy),
         TimeText(point.decode_time_ratio, point.decode_time_low, point.decode_time_high),
         TimeText(point.prefill_time_ratio, point.prefill_time_low, point.prefill_time_high),
         dominated.empty() ? "-" : dominated});
  }
  std::string text = AlignedTable(table, "");
  text += "decode, prefill: time a token over the dense model's\n";
  for (const std::string& verdict : report.verdicts)
    text += WrappedLines(verdict);
  for (const std::string& note : report.notes)
    text += WrappedLines("note: " + note);
  for (const StudyFailure& failure : report.failures)
    text += WrappedLines(fmt::format("failed: {}: {}", failure.recipe, failure.error));
  return text + fmt::format("page: {}/study.html\n", report.output);
}

// Of each method and pattern the row of equal bytes, or what came last where none has them: not
// every try of the search.
std::string PatternText(PatternReport report) {
  const auto same = [](const PatternPoint& a, const PatternPoint& b) {
    return a.method == b.method && a.pattern == b.pattern;
  };
  std::vector<PatternPoint> points;
  for (size_t i = 0; i < report.points.size(); ++i) {
    const PatternPoint& point = report.points[i];
    const bool last = i + 1 == report.points.size() || !same(point, report.points[i + 1]);
    const bool listed = std::any_of(report.equal_bytes.begin(), report.equal_bytes.end(),
                                    [&](const PatternPoint& other) { return same(point, other); });
    if (last && !listed) points.push_back(point);
  }
  if (points.size() + report.equal_bytes.size() < report.points.size()) {
    report.notes.push_back(fmt::format("-o json lists all {} points", report.points.size()));
  }
  report.points = std::move(points);
  return ToReport(report);
}

}  // namespace

void AddSensitivity(Shell* shell) {
  struct State {
    SensitivityOptions options;
    PatternOptions patterns;
    bool search = false;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add(
      "sensitivity",
      "Loss when only one layer, block or projection is compressed; or, with --patterns, every "
      "pattern and method on one layer",
      "harrow sensitivity models/harrow-tiny --calibration c4.jsonl --text valid.txt --sparsity "
      "0.5,0.7 "
      "--by layer");
  Shell::AddModel(app, &state->options.model);
  state->options.Visit(FlagAdder(app));
  state->options.calibration.Visit(FlagAdder(app));
  app->add_flag("--patterns", state->search,
                "search patterns and methods for one layer (--layer); the flags below are for it");
  state->patterns.Visit(FlagAdder(app, {"sparsity", "html"}));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  const std::string docs =
      FieldDocs<SensitivityReport>() + "| | | **with --patterns** |\n" + FieldDocs<PatternReport>();
  shell->SetRun(app, docs, [shell, state, app]() -> Status {
    if (state->search) {
      for (const auto& [flag, instead] :
           {std::pair("--method", "--methods"), std::pair("--recipe-step", "--methods and --then"),
            std::pair("--pattern", "--pattern-list")}) {
        if (app->count(flag) == 0) continue;
        return Status(StatusCode::kInvalidArgument,
                      std::string(flag) + ": with --patterns give " + instead);
      }
      state->patterns.model = state->options.model;
      state->patterns.sparsity = state->options.sparsity;
      state->patterns.calibration = state->options.calibration;
      state->patterns.html = state->options.html;
      HARROW_ASSIGN_OR_RETURN(PatternReport report,
                              SearchPatterns(state->patterns, state->machine, shell->control()));
      shell->Print(state->format == "json" ? DumpJson(ToJson(report)) : PatternText(report));
      return OkStatus();
    }
    HARROW_ASSIGN_OR_RETURN(SensitivityReport report,
                            Sensitivity(state->options, state->machine, shell->control()));
    shell->Print(state->format == "json" ? DumpJson(ToJson(report)) : SensitivityText(report));
    return OkStatus();
  });
}

void AddAblate(Shell* shell) {
  struct State {
    AblationOptions options;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app =
      shell->Add("ablate", "What each step and block of a recipe contributes; whether errors add",
                 "harrow ablate models/harrow-tiny -r recipe.yaml --text valid.txt");
  Shell::AddModel(app, &state->options.model);
  state->options.Visit(FlagAdder(app));
  app->get_option("--recipe")->required()->type_name("PATH");
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  shell->SetRun(
      app, FieldDocs<AblationReport>() + FieldDocs<Additivity>("additivity."),
      [shell, state]() -> Status {
        HARROW_ASSIGN_OR_RETURN(AblationReport report,
                                Ablate(state->options, state->machine, shell->control()));
        shell->Print(state->format == "json" ? DumpJson(ToJson(report)) : AblationText(report));
        return OkStatus();
      });
}

void AddStudy(Shell* shell) {
  struct State {
    StudyOptions options;
    MachineOptions machine;
    bool json = false;
  };
  auto state = std::make_shared<State>();
  CLI::App* app =
      shell->Add("study", "Run many recipes and draw bytes and time against accuracy (resumable)",
                 "harrow study recipes/ models/harrow-tiny --text valid.txt -o out/study");
  app->add_option("RECIPES", state->options.recipes, "folder of recipes (*.yaml)")
      ->required()
      ->type_name("DIR");
  app->add_option("MODEL", state->options.model, "model directory")->required()->type_name("PATH");
  state->options.Visit(FlagAdder(app));
  app->get_option("--output")->required()->type_name("DIR");
  state->machine.Visit(FlagAdder(app));
  app->add_flag("--json", state->json, "print the report as JSON");
  shell->SetRun(app, FieldDocs<StudyReport>(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(StudyReport report,
                            Study(state->options, state->machine, shell->control()));
    shell->Print(state->json ? DumpJson(ToJson(report)) : StudyText(report));
    if (report.failures.empty()) return OkStatus();
    return Status(StatusCode::kNumerical,
                  fmt::format("{} of {} recipes failed; the first: {}: {}", report.failures.size(),
                              report.failures.size() + report.points.size(),
                              report.failures.front().recipe, report.failures.front().error));
  });
}

}  // namespace harrow::tools
