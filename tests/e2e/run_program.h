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

// When a run gets SIGINT.
struct Interrupt {
  int after_ms = 0;        // 0: never
  bool on_output = false;  // only once there is output on stdout; after_ms counts from there
};

// Standard input is empty.
ProgramResult RunHarrow(const std::vector<std::string>& args, const Interrupt& interrupt = {});

}  // namespace harrow::testing

#endif  // HARROW_TESTS_E2E_RUN_PROGRAM_H_
