#include "run_program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "test_data.h"

namespace harrow::testing {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void Redirect(const char* path, int flags, int target) {
  const int fd = ::open(path, flags, 0600);
  if (fd < 0 || ::dup2(fd, target) < 0) ::_exit(126);
}

}  // namespace

nlohmann::json ProgramResult::Json() const {
  return nlohmann::json::parse(out, nullptr, /*allow_exceptions=*/false);
}

ProgramResult RunHarrow(const std::vector<std::string>& args, const Interrupt& interrupt) {
  const TempDir folder;
  const std::string out = folder.File("out");
  const std::string err = folder.File("err");
  std::vector<char*> argv = {const_cast<char*>(HARROW_BINARY)};
  for (const std::string& arg : args)
    argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);

  const pid_t child = ::fork();
  if (child == 0) {
    Redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    Redirect(out.c_str(), O_WRONLY | O_CREAT, STDOUT_FILENO);
    Redirect(err.c_str(), O_WRONLY | O_CREAT, STDERR_FILENO);
    // Not the profile that this machine's user may have: kernels as everywhere.
    ::setenv("HARROW_PROFILE", "none", /*overwrite=*/0);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  bool ended = false;
  while (interrupt.on_output && !ended && ReadWhole(out).empty()) {
    ::usleep(10'000);
    ended = ::waitpid(child, &status, WNOHANG) == child;
  }
  if (interrupt.after_ms > 0 && !ended) {
    ::usleep(static_cast<useconds_t>(interrupt.after_ms) * 1000);
    ::kill(child, SIGINT);
  }
  if (!ended) ::waitpid(child, &status, 0);
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = ReadWhole(out);
  result.err = ReadWhole(err);
  return result;
}

}  // namespace harrow::testing
