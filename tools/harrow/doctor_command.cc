// doctor.
#include <map>
#include <memory>

#include "commands.h"
#include "flags.h"
#include "harrow/doctor.h"
#include "print.h"

namespace harrow::tools {
namespace {

// Format and density down, M across: speed relative to dense.
Table BreakEvenTable(const MachineProfile& profile) {
  Table table = {{"format", "density"}};
  std::vector<int64_t> ms;
  for (const BreakEven& row : profile.break_even) {
    if (std::find(ms.begin(), ms.end(), row.m) == ms.end()) ms.push_back(row.m);
  }
  std::sort(ms.begin(), ms.end());
  for (const int64_t m : ms)
    table[0].push_back(fmt::format("M {}", m));
  std::map<std::pair<std::string, double>, size_t> lines;
  for (const BreakEven& row : profile.break_even) {
    const auto [line, is_new] = lines.try_emplace({row.format, row.density}, table.size());
    if (is_new) {
      table.push_back({row.format, fmt::format("{:.2g}", row.density)});
      table.back().resize(table[0].size(), "-");
    }
    const size_t column =
        2 + static_cast<size_t>(std::lower_bound(ms.begin(), ms.end(), row.m) - ms.begin());
    table[line->second][column] = fmt::format("{:.2f}{}", row.ratio, row.Noisy() ? "~" : "");
  }
  return table;
}

// Choices as a table that says of those without a last M that they go on.
Table ChoicesTable(std::vector<KernelChoiceEntry>& choices) {
  Table table = ToTable(choices);
  const auto column = std::find(table[0].begin(), table[0].end(), "max_m") - table[0].begin();
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].max_m) table[i + 1][static_cast<size_t>(column)] = "and more";
  }
  return table;
}

// Without the list of kernels, unless asked for, and with the long table as a matrix.
std::string DoctorText(DoctorReport report, bool kernels) {
  const MachineProfile profile = std::move(report.profile);
  report.profile = MachineProfile();
  if (!kernels) report.kernels.clear();
  std::string text;
  report.Visit([&](const char* name, auto& field, auto&&...) {
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (std::is_same_v<Field, std::vector<KernelChoiceEntry>>) {
      if (!field.empty())
        text += fmt::format("{}\n{}", name, AlignedTable(ChoicesTable(field), "  "));
    } else if constexpr (RecordList<Field>) {
      if (!field.empty()) text += fmt::format("{}\n{}", name, AlignedTable(ToTable(field), "  "));
    } else if constexpr (std::is_same_v<Field, std::vector<std::string>>) {
      if (!field.empty()) text += fmt::format("{}{}\n", name, TextList(field, "  "));
    } else if constexpr (!Record<Field>) {
      text += fmt::format("{:<13}  {}\n", name, ToText(name, field));
    }
  });
  if (profile.empty()) return text;
  MachineProfile rates = profile;
  text += "rates\n" + AlignedTable(ToTable(rates.rates), "  ");
  text += "bandwidths\n" + AlignedTable(ToTable(rates.bandwidths), "  ");
  text += "fork_joins\n" + AlignedTable(ToTable(rates.fork_joins), "  ");
  text += fmt::format(
      "speed relative to dense of the same precision, {}x{} from memory, {} threads; ~: "
      "noisy\n",
      profile.rows, profile.cols, profile.threads);
  return text + AlignedTable(BreakEvenTable(profile), "  ");
}

}  // namespace

void AddDoctor(Shell* shell) {
  struct State {
    bool kernels = false;
    bool measure = false;
    MeasureOptions measuring;
    ExplainOptions explaining;
    MachineOptions machine;
    std::string format;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add(
      "doctor",
      "What this machine is and can do: rates, bandwidths, which formats pay, and the profile that "
      "kernels are chosen by",
      "harrow doctor --measure\n  harrow doctor --explain 5632x2048 --format bitmask-i8/128 "
      "--density 0.3");
  app->add_flag("--kernels", state->kernels, "list every kernel (JSON always does)");
  app->add_flag("--measure", state->measure,
                "measure, and store the profile that all commands then use");
  state->measuring.Visit(FlagAdder(app));
  state->explaining.Visit(FlagAdder(app));
  state->machine.Visit(FlagAdder(app));
  Shell::AddOutputFormat(app, &state->format, {"md"});
  const std::string docs =
      FieldDocs<DoctorReport>() + "| | | **with --explain** |\n" + FieldDocs<ExplainReport>();
  shell->SetRun(app, docs, [shell, state]() -> Status {
    if (!state->explaining.explain.empty()) {
      if (state->measure || state->format == "md") {
        return Status(StatusCode::kInvalidArgument,
                      "--explain goes with neither --measure nor -o md");
      }
      HARROW_ASSIGN_OR_RETURN(ExplainReport report,
                              Explain(state->explaining, state->machine, shell->control()));
      shell->PrintReport(report, state->format);
      return OkStatus();
    }
    if (!state->measure && (state->measuring.quick || state->measuring.seconds > 0 ||
                            !state->measuring.shape.empty() || !state->measuring.only.empty())) {
      return Status(StatusCode::kInvalidArgument,
                    "--quick, --seconds, --shape and --only go with --measure");
    }
    HARROW_ASSIGN_OR_RETURN(DoctorReport report,
                            state->measure
                                ? MeasureMachine(state->measuring, state->machine, shell->control())
                                : Diagnose(state->machine));
    if (state->format == "md") {
      if (report.profile.empty()) {
        return Status(StatusCode::kNotFound, "no machine profile: " + report.profile_state);
      }
      shell->Print(BreakEvenMarkdown(report.profile));
    } else if (state->format == "json") {
      shell->Print(DumpJson(ToJson(report)));
    } else {
      shell->Print(DoctorText(std::move(report), state->kernels));
    }
    return OkStatus();
  });
}

}  // namespace harrow::tools
