// The machine profile as a file, and as the table that kernels are chosen by.
#ifndef HARROW_ADVISE_PROFILE_H_
#define HARROW_ADVISE_PROFILE_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "harrow/doctor.h"
#include "kernels/linear.h"

namespace harrow {

// The key of this machine and build under the active instruction set.
MachineKey ThisMachine();

// Where the profile is: `option` (--profile), else the environment variable HARROW_PROFILE, else
// profile-<cpu>-<cpus>t-<isa>-<version>.json under $XDG_CACHE_HOME/harrow or ~/.cache/harrow. An
// empty path: none, by the word "none" or for want of a home folder.
struct ProfileFile {
  std::string path;
  bool by_name = false;  // somebody gave the file or "none"
};
ProfileFile FindProfileFile(const std::string& option);

// Parses untrusted text; errors name `where`. Another machine's profile is fine here.
Result<MachineProfile> ParseProfile(std::string_view text, std::string_view where);
Result<std::string> FormatProfile(MachineProfile profile);

// NotFound when there is no such file. Fails on a damaged profile and on one whose key is not
// ThisMachine().
Result<MachineProfile> LoadProfile(const std::string& path);
// Makes the folder, and replaces the file in one step.
Status StoreProfile(const std::string& path, const MachineProfile& profile);

// Whether a row tells enough to choose a kernel by: kLeastRounds rounds or more, not Noisy().
inline constexpr int64_t kLeastRounds = 8;
bool IsFirm(const BreakEven& row);

// The rows for SetKernelChoices(): where a firm row names a kernel clearly faster than that of the
// rule. A density between two measured ones takes what the nearer had; an M takes what the next
// larger measured M had, because kernels change where the register blocks of a smaller M are full;
// beyond the largest one a choice goes on only from M 512. Profiles are of INT8 activations: none
// for quantized weights while QuantizedActivations() are others.
std::vector<KernelChoice> ChoicesOf(const MachineProfile& profile);

}  // namespace harrow

#endif  // HARROW_ADVISE_PROFILE_H_
