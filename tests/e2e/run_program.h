// Runs the harrow binary as a user would.
#ifndef HARROW_TESTS_E2E_RUN_PROGRAM_H_
#define HARROW_TESTS_E2E_RUN_PROGRAM_H_

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace harrow::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + n when ended by signal n
  std::string out;
  std::string err;

  nlohmann::json Json() const;  // of stdout; a discarded value when it is no JSON
};

// Standard input is empty. With `interrupt_after_ms` > 0 it gets SIGINT after that time.
ProgramResult RunHarrow(const std::vector<std::string>& args, int interrupt_after_ms = 0);

}  // namespace harrow::testing

#endif  // HARROW_TESTS_E2E_RUN_PROGRAM_H_
