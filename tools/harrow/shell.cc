#include "shell.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <sstream>

#include "harrow/nearest.h"
#include "remaining_time.h"

namespace harrow::tools {
namespace {

std::atomic<bool> g_cancel{false};
std::atomic<int> g_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

// The first signal asks the work to stop; SA_RESETHAND lets a second one end the process.
void OnSignal(int signal_number) {
  g_signal.store(signal_number);
  g_cancel.store(true);
}

void InstallSignalHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::string Duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 100) return fmt::format("{} s", s);
  if (s < 6000) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

}  // namespace

// One line on stderr, rewritten in place on a terminal; elsewhere a new line now and then.
struct Shell::Progress {
  using Clock = std::chrono::steady_clock;
  bool terminal = ::isatty(STDERR_FILENO) != 0;
  std::string what;
  RemainingTime remaining;
  Clock::time_point last;
  bool line_open = false;

  void Report(std::string_view step, int64_t done, int64_t total) {
    const auto now = Clock::now();
    if (step != what) {
      what = step;
      last = {};
    }
    const std::optional<double> left = remaining.Update(
        done, total, std::chrono::duration<double>(now.time_since_epoch()).count());
    const std::chrono::duration<double> pause(terminal ? 0.1 : 5.0);
    if (done < total && last != Clock::time_point() && now - last < pause) return;
    last = now;
    std::string line = fmt::format("{} {}/{}", what, done, total);
    if (left) line += fmt::format(", {} left", Duration(*left));
    if (terminal) {
      fmt::print(stderr, "\r\x1b[K{}", line);
    } else {
      fmt::print(stderr, "{}\n", line);
    }
    line_open = terminal;
  }
  void Clear() {
    if (line_open) fmt::print(stderr, "\r\x1b[K");
    line_open = false;
    std::fflush(stderr);
  }
};

Shell::Shell()
    : root_("Harrow makes language models sparse and small, and measures what it cost.") {
  root_.name("harrow");
  root_.require_subcommand(0, 1);
  root_.set_version_flag("--version", HARROW_VERSION);
  root_.footer("`harrow COMMAND --help` describes a command. MODEL is a Hugging Face directory.");
  CLI::App* reference = root_.add_subcommand("reference", "flags and JSON fields, as Markdown");
  reference->group("");  // hidden
  commands_.push_back({reference,
                       [this] {
                         Print(Reference());
                         return OkStatus();
                       },
                       ""});
}
Shell::~Shell() = default;

CLI::App* Shell::Add(const char* name, const char* summary, const char* example) {
  CLI::App* app = root_.add_subcommand(name, summary);
  app->footer(fmt::format("Example:\n  {}", example));
  app->add_flag("--progress", show_progress_,
                "show progress on stderr even when it is no terminal");
  return app;
}

void Shell::SetRun(CLI::App* app, std::string field_docs, std::function<Status()> run) {
  commands_.push_back({app, std::move(run), std::move(field_docs)});
}

void Shell::AddModel(CLI::App* app, std::string* model) {
  app->add_option("-m,--model,MODEL", *model, "model directory")->required()->type_name("PATH");
}

void Shell::AddOutputFormat(CLI::App* app, std::string* format, std::vector<std::string> more) {
  std::vector<std::string> formats = {"text", "json"};
  formats.insert(formats.end(), more.begin(), more.end());
  *format = "text";
  const std::string names = fmt::format("{}", fmt::join(formats, " | "));
  app->add_option(
         "-o,--output",
         [format, formats, names](const CLI::results_t& values) {
           if (std::find(formats.begin(), formats.end(), values.back()) == formats.end()) {
             throw CLI::ValidationError("--output",
                                        fmt::format("'{}' is not {}", values.back(), names));
           }
           *format = values.back();
           return true;
         },
         "output format: " + names)
      ->type_name("FORMAT")
      ->default_str("text");
}

void Shell::Print(std::string_view text) {
  progress_->Clear();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    output_failed_ = true;
  }
}

void Shell::Note(std::string_view text) {
  progress_->Clear();
  fmt::print(stderr, "{}\n", text);
}

int Shell::Fail(const Status& status) {
  progress_->Clear();
  if (status.code() == StatusCode::kCancelled && g_signal.load() != 0) {
    fmt::print(stderr, "harrow: {}\n", status.message());
    return 128 + g_signal.load();
  }
  fmt::print(stderr, "harrow: error: {}\n", status.message());
  return status.code() == StatusCode::kInvalidArgument ? 2 : 1;
}

int Shell::FailToPrint() {
  return Fail(Status(StatusCode::kIoError, "cannot write to stdout"));
}

int Shell::Main(int argc, char** argv) {
  progress_ = std::make_unique<Progress>();
  try {
    root_.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help, --version
    std::ostringstream text;
    const int code = root_.exit(help, text, text);
    Print(text.str());
    return output_failed_ ? FailToPrint() : code;
  } catch (const CLI::ExtrasError&) {
    const std::vector<std::string> extras = root_.remaining();
    if (root_.get_subcommands().empty() && !extras.empty() && extras[0].rfind('-', 0) != 0) {
      std::vector<std::string> names;
      for (const CLI::App* command : root_.get_subcommands({})) {
        if (!command->get_group().empty()) names.push_back(command->get_name());
      }
      const std::string nearest = NearestName(extras[0], names);
      fmt::print(stderr, "harrow: error: unknown command: {}{}; see harrow --help\n", extras[0],
                 nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest));
      return 2;
    }
    fmt::print(stderr, "harrow: error: unknown argument: {}; see harrow {}--help\n",
               fmt::join(root_.remaining(/*recurse=*/true), " "),
               root_.get_subcommands().empty() ? "" : root_.get_subcommands()[0]->get_name() + " ");
    return 2;
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "harrow: error: {}\n", error.what());
    return 2;
  }
  if (root_.get_subcommands().empty()) {
    fmt::print(stderr, "harrow: error: give a command; see harrow --help\n");
    return 2;
  }
  InstallSignalHandlers();
  control_.cancel = &g_cancel;
  control_.on_warning = [this](std::string_view message) {
    Note(fmt::format("warning: {}", message));
  };
  if (show_progress_ || progress_->terminal) {
    control_.on_progress = [this](std::string_view what, int64_t done, int64_t total) {
      progress_->Report(what, done, total);
    };
  }
  for (const Command& command : commands_) {
    if (!command.app->parsed()) continue;
    const Status status = command.run();
    if (!status.ok()) return Fail(status);
  }
  progress_->Clear();
  return output_failed_ ? FailToPrint() : 0;
}

std::string Shell::Reference() const {
  std::string text;
  for (const Command& command : commands_) {
    if (command.app->get_group().empty()) continue;
    text += fmt::format("## harrow {}\n\n{}.\n\n| flag | default | meaning |\n|---|---|---|\n",
                        command.app->get_name(), command.app->get_description());
    for (const CLI::Option* option : command.app->get_options()) {
      if (option->get_name() == "--help") continue;
      text += fmt::format("| `{}` | {} | {} |\n", option->get_name(/*positional=*/true, true),
                          option->get_required() ? "required" : option->get_default_str(),
                          EscapeCell(option->get_description()));
    }
    if (!command.field_docs.empty()) {
      text += "\n| JSON field | type | meaning |\n|---|---|---|\n" + command.field_docs;
    }
    text += "\n";
  }
  return text;
}

}  // namespace harrow::tools
