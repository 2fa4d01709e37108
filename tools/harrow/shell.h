// What every command shares: streams, progress, interruption, exit codes.
#ifndef HARROW_TOOLS_SHELL_H_
#define HARROW_TOOLS_SHELL_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "harrow/run_control.h"
#include "harrow/status.h"
#include "print.h"

namespace harrow::tools {

// Exit codes: 0; 1 the work failed; 2 a flag or call that cannot be satisfied; 128 + n ended by
// signal n (130: Ctrl-C).
class Shell {
 public:
  Shell();
  ~Shell();
  int Main(int argc, char** argv);

  struct Command {
    CLI::App* app;
    std::function<Status()> run;
    std::string field_docs;  // rows of the JSON field table
  };
  // Adds a subcommand with --progress and --help. `example` ends its help text.
  CLI::App* Add(const char* name, const char* summary, const char* example);
  // Gives it its work. `field_docs` from FieldDocs<Report>().
  void SetRun(CLI::App* app, std::string field_docs, std::function<Status()> run);

  // Positional MODEL, or -m / --model.
  static void AddModel(CLI::App* app, std::string* model);
  // -o / --output text|json (and more formats, given by name) of a command that prints a report.
  static void AddOutputFormat(CLI::App* app, std::string* format,
                              std::vector<std::string> more = {});

  // Results, and only results, go to stdout.
  void Print(std::string_view text);
  // Notes go to stderr.
  void Note(std::string_view text);
  template <class Report>
  void PrintReport(Report& report, const std::string& format) {
    Print(format == "json" ? DumpJson(ToJson(report)) : ToReport(report));
  }

  const RunControl* control() const { return &control_; }

 private:
  struct Progress;
  int Fail(const Status& status);
  int FailToPrint();
  // The reference part of docs/cli.md: every command's flags and JSON fields.
  std::string Reference() const;

  CLI::App root_;
  std::vector<Command> commands_;
  RunControl control_;
  std::unique_ptr<Progress> progress_;
  bool show_progress_ = false;
  bool output_failed_ = false;
};

}  // namespace harrow::tools

#endif  // HARROW_TOOLS_SHELL_H_
