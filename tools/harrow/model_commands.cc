// inspect, run, score.
#include <memory>

#include "commands.h"
#include "flags.h"
#include "harrow/model.h"
#include "print.h"

namespace harrow::tools {
namespace {

std::string Rate(const std::optional<double>& tps) {
  return tps ? fmt::format("{:.1f} tok/s", *tps) : "-";
}

std::string ScoreText(const ScoreReport& report) {
  Table table = {{"position", "id", "nll"}};
  for (size_t i = 0; i < report.ids.size(); ++i) {
    table.push_back({std::to_string(i), std::to_string(report.ids[i]),
                     report.nll[i] ? fmt::format("{:.6f}", *report.nll[i]) : "-"});
  }
  std::string text = AlignedTable(table, "");
  if (report.mean_nll) {
    text += fmt::format("mean nll {:.6f} nats a token over {} tokens, perplexity {:.4f}\n",
                        *report.mean_nll, report.tokens - 1, *report.ppl);
  }
  return text;
}

}  // namespace

void AddInspect(Shell* shell) {
  struct State {
    std::string model;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add(
      "inspect", "List a model's tensors, formats, density and bytes, and verify packed weights",
      "harrow inspect models/harrow-tiny");
  Shell::AddModel(app, &state->model);
  Shell::AddOutputFormat(app, &state->format);
  shell->SetRun(app, FieldDocs<InspectReport>(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(InspectReport report, Inspect(state->model, shell->control()));
    shell->PrintReport(report, state->format);
    return OkStatus();
  });
}

void AddRun(Shell* shell) {
  struct State {
    std::string model;
    GenerateOptions options;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add("run", "Generate text from a prompt",
                             "harrow run models/harrow-tiny -p \"Once upon a time\" -n 64");
  Shell::AddModel(app, &state->model);
  state->options.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  shell->SetRun(app, FieldDocs<GenerateReport>(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(const auto model,
                            LanguageModel::Open(state->model, state->machine, shell->control()));
    const bool json = state->format == "json";
    bool printed = false;
    const auto on_output = [&](std::string_view piece) {
      if (!json) shell->Print(piece);
      printed = true;
    };
    Result<GenerateReport> report = model->Generate(state->options, on_output, shell->control());
    if (!json && printed) shell->Print("\n");
    if (!report.ok()) return report.status();
    if (json) {
      shell->PrintReport(*report, state->format);
    } else {
      shell->Note(
          fmt::format("prefill {} tokens, {}; decode {} tokens, {}; {} threads; stopped: {}",
                      report->prompt_tokens, Rate(report->prefill_tps), report->new_tokens,
                      Rate(report->decode_tps), report->threads, report->stop_reason));
    }
    return OkStatus();
  });
}

void AddScore(Shell* shell) {
  struct State {
    std::string model;
    ScoreOptions options;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add("score", "Negative log-likelihood of each token of a text",
                             "harrow score models/harrow-tiny --text \"Lily had a cat.\" -o json");
  Shell::AddModel(app, &state->model);
  state->options.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format);
  shell->SetRun(app, FieldDocs<ScoreReport>(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(const auto model,
                            LanguageModel::Open(state->model, state->machine, shell->control()));
    HARROW_ASSIGN_OR_RETURN(ScoreReport report, model->Score(state->options));
    shell->Print(state->format == "json" ? DumpJson(ToJson(report)) : ScoreText(report));
    return OkStatus();
  });
}

}  // namespace harrow::tools
