// eval, compare, bench.
#include <memory>

#include "commands.h"
#include "flags.h"
#include "harrow/bench.h"
#include "harrow/eval.h"
#include "harrow/machine.h"
#include "harrow/model.h"
#include "print.h"

namespace harrow::tools {
namespace {

// The two sides beside each other, then what relates them; what was not measured is left out.
std::string CompareText(CompareReport& report) {
  Table sides = {{"", "dense", "sparse"}};
  report.dense.Visit([&](const char* name, auto& field, auto&&...) {
    sides.push_back({name, ToText(name, field)});
  });
  size_t row = 1;
  report.sparse.Visit([&](const char* name, auto& field, auto&&...) {
    sides[row++].push_back(ToText(name, field));
  });
  Table rest = {{"", ""}};
  report.Visit([&](const char* name, auto& field, auto&&...) {
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (!Record<Field>) {
      // The verdicts say these in words, and whether they are figures at all.
      if (std::string_view(name).find("_speedup") != std::string_view::npos) return;
      if (field != Field()) rest.push_back({name, ToText(name, field)});
    }
  });
  return AlignedTable(sides, "") + AlignedTable(rest, "");
}

}  // namespace

void AddEval(Shell* shell) {
  struct State {
    std::string model;
    PerplexityOptions perplexity;
    TaskOptions tasks;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add(
      "eval",
      "Measure perplexity on a text (--ppl), or accuracy on multiple-choice tasks (--tasks)",
      "harrow eval models/harrow-tiny --ppl valid.txt --protocol gptq --seqlen 512");
  Shell::AddModel(app, &state->model);
  state->perplexity.Visit(FlagAdder(app));
  state->tasks.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  const std::string docs = "| | | **with --ppl** |\n" + FieldDocs<PerplexityReport>() +
                           "| | | **with --tasks** |\n" + FieldDocs<TaskReport>();
  shell->SetRun(app, docs, [shell, state]() -> Status {
    const bool perplexity = !state->perplexity.ppl.empty();
    if (perplexity == !state->tasks.tasks.empty()) {
      return Status(StatusCode::kInvalidArgument, "give exactly one of --ppl and --tasks");
    }
    HARROW_ASSIGN_OR_RETURN(const auto model,
                            LanguageModel::Open(state->model, state->machine, shell->control()));
    if (perplexity) {
      HARROW_ASSIGN_OR_RETURN(PerplexityReport report,
                              model->Perplexity(state->perplexity, shell->control()));
      shell->PrintReport(report, state->format);
    } else {
      state->tasks.limit = state->perplexity.limit;
      state->tasks.cache_type = state->perplexity.cache_type;
      HARROW_ASSIGN_OR_RETURN(TaskReport report, model->Tasks(state->tasks, shell->control()));
      shell->PrintReport(report, state->format);
    }
    return OkStatus();
  });
}

void AddCompare(Shell* shell) {
  struct State {
    std::string dense;
    std::string sparse;
    CompareOptions options;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app =
      shell->Add("compare", "Bytes, accuracy and speed of a compressed model against a dense one",
                 "harrow compare models/harrow-tiny out/wanda-50 --text valid.txt");
  app->add_option("DENSE", state->dense, "the model that the ratios divide by")
      ->required()
      ->type_name("PATH");
  app->add_option("SPARSE", state->sparse, "the model to judge")->required()->type_name("PATH");
  state->options.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  shell->SetRun(app, FieldDocs<CompareReport>(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(
        CompareReport report,
        Compare(state->dense, state->sparse, state->options, state->machine, shell->control()));
    shell->Print(state->format == "json" ? DumpJson(ToJson(report)) : CompareText(report));
    return OkStatus();
  });
}

void AddBench(Shell* shell) {
  struct State {
    BenchOptions options;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app =
      shell->Add("bench", "Prefill and decode speed, and the fraction of the memory roof",
                 "harrow bench --shape bench/shapes/llama-1.1b --format bitmask-i8 --density 0.5 "
                 "--vs dense-i8 -p 512 -n 128 -r 5");
  app->add_option("-m,--model,MODEL", state->options.model, "model directory (or --shape)")
      ->type_name("PATH");
  state->options.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format, {"md", "csv"});
  shell->SetRun(app, FieldDocs<BenchReport>(), [shell, state, app]() -> Status {
    for (const char* flag : {"--format", "--density"}) {
      if (app->count(flag) == 0 || state->options.model.empty()) continue;
      return Status(StatusCode::kInvalidArgument,
                    std::string(flag) +
                        ": describes the random weights of --shape; a MODEL has "
                        "its own");
    }
    HARROW_ASSIGN_OR_RETURN(BenchReport report,
                            Bench(state->options, state->machine, shell->control()));
    if (state->format == "md") {
      shell->Print(MarkdownTable(ToTable(report.rows)));
    } else if (state->format == "csv") {
      shell->Print(CsvTable(ToJson(report.rows)));
    } else {
      shell->PrintReport(report, state->format);
    }
    return OkStatus();
  });
}

}  // namespace harrow::tools
