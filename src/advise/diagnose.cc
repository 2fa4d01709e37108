#include "advise/diagnose.h"

#include <algorithm>
#include <ctime>
#include <limits>

#include "advise/explain.h"
#include "advise/measure.h"
#include "advise/profile.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "kernels/isa.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

Status ApplyKernelOptions(const MachineOptions& options) {
  if (!options.isa.empty()) {
    const std::optional<Isa> isa = ParseIsa(options.isa);
    if (!isa) {
      return InvalidArgument("--isa: '{}' is unknown; it may be scalar, avx2, avx512 or avx512bf16",
                             options.isa);
    }
    HARROW_RETURN_IF_ERROR(SetIsaLimit(*isa).At("--isa"));
  }
  if (!options.kernel.empty()) {
    const Status forced = ForceLinearKernel(options.kernel);
    if (!forced.ok()) return InvalidArgument("--kernel: {}", forced.message());
  }
  if (!options.activations.empty()) {
    const std::optional<Activations> activations = ParseActivations(options.activations);
    if (!activations) {
      return InvalidArgument("--activations: '{}' is unknown; it may be int8 or bf16",
                             options.activations);
    }
    SetQuantizedActivations(*activations);
  }
  return OkStatus();
}

struct Installed {
  ProfileFile file;
  MachineProfile profile;  // empty() without one
  Status status;           // why there is none, NotFound included
};

// Reads the profile and chooses kernels by it; by the built-in rules where it cannot be used.
Installed InstallProfile(const std::string& option, const RunControl* control) {
  Installed installed;
  installed.file = FindProfileFile(option);
  const std::string& path = installed.file.path;
  (void)SetKernelChoices({});  // of no rows: cannot fail
  if (path.empty()) {
    installed.status = NotFound("none");
    return installed;
  }
  Result<MachineProfile> profile = LoadProfile(path);
  installed.status = profile.status();
  if (installed.status.ok()) installed.status = SetKernelChoices(ChoicesOf(*profile)).At(path);
  if (installed.status.ok()) {
    installed.profile = *std::move(profile);
    return installed;
  }
  const bool expected_there =
      installed.file.by_name || installed.status.code() != StatusCode::kNotFound;
  if (expected_there && control != nullptr) {
    control->Warn(
        fmt::format("machine profile not used, kernels are chosen by the built-in rules: "
                    "{}",
                    installed.status.message()));
  }
  return installed;
}

std::string StateOf(const Installed& installed) {
  if (installed.status.ok()) {
    const double days =
        std::difftime(std::time(nullptr), static_cast<std::time_t>(installed.profile.unix_time)) /
        86400;
    return fmt::format("measured {} ({:.1f} days ago){}", installed.profile.measured,
                       std::max(days, 0.0),
                       installed.profile.quick.value_or(false) ? " with --quick" : "");
  }
  if (installed.file.path.empty()) return "none asked for";
  if (installed.status.code() == StatusCode::kNotFound)
    return "none yet: `harrow doctor --measure` makes one";
  return "not used: " + installed.status.message();
}

std::vector<std::string> NotesOn(const MachineProfile& profile) {
  std::vector<std::string> notes;
  const auto& rows = profile.break_even;
  const auto noisy =
      std::count_if(rows.begin(), rows.end(), [](const BreakEven& row) { return row.Noisy(); });
  const auto few = std::count_if(rows.begin(), rows.end(), [](const BreakEven& row) {
    return row.rounds.value_or(0) < kLeastRounds;
  });
  if (noisy > 0) {
    notes.push_back(
        fmt::format("{} of {} cells are noisy (~) and possibly far off, and choose no kernel: "
                    "measure again while the machine does nothing else",
                    noisy, rows.size()));
  }
  if (few > 0) {
    notes.push_back(fmt::format(
        "{} of {} cells took fewer than {} rounds, or it is not known how many, and choose no "
        "kernel: --measure with more --seconds gives them more",
        few, rows.size(), kLeastRounds));
  }
  return notes;
}

DoctorReport ReportOf(const Installed& installed) {
  DoctorReport report;
  report.cpu = CpuModelName();
  report.cpus = ThreadPool::AvailableCpus();
  report.l3_bytes = LastLevelCacheBytes();
  report.isa_detected = std::string(IsaName(DetectedIsa()));
  report.isa_active = std::string(IsaName(ActiveIsa()));
  report.profile_file = installed.file.path;
  report.profile_state = StateOf(installed);
  report.notes = NotesOn(installed.profile);
  for (const KernelChoice& choice : InstalledKernelChoices()) {
    KernelChoiceEntry entry = {SpecName(choice.spec), choice.min_density, choice.max_density,
                               choice.min_m,          std::nullopt,       choice.kernel};
    if (choice.max_m < std::numeric_limits<int64_t>::max()) entry.max_m = choice.max_m;
    report.choices.push_back(std::move(entry));
  }
  for (const LinearKernelInfo& kernel : ListLinearKernels()) {
    report.kernels.push_back(
        {std::string(kernel.name), std::string(IsaName(kernel.isa)), kernel.runs_here});
  }
  report.profile = installed.profile;
  return report;
}

}  // namespace

Status ApplyMachineOptions(const MachineOptions& options, const RunControl* control) {
  HARROW_RETURN_IF_ERROR(ApplyKernelOptions(options));
  InstallProfile(options.profile, control);
  return OkStatus();
}

Result<DoctorReport> DiagnoseMachine(const MachineOptions& options) {
  HARROW_RETURN_IF_ERROR(ApplyKernelOptions(options));
  return ReportOf(InstallProfile(options.profile, nullptr));
}

Result<DoctorReport> MeasureAndStore(const MeasureOptions& measure, const MachineOptions& options,
                                     const RunControl* control) {
  HARROW_RETURN_IF_ERROR(ApplyKernelOptions(options));
  // What is there may be damaged, another machine's, or nothing: it is replaced.
  const Installed stored = InstallProfile(options.profile, nullptr);
  if (stored.file.path.empty()) {
    return InvalidArgument("--measure needs a file to store the profile in: give --profile FILE");
  }
  if (measure.quick && stored.status.ok() && !stored.profile.quick.value_or(false)) {
    return InvalidArgument(
        "--quick: {} is a full profile, measured {}, which a coarse one would replace: measure "
        "without --quick, give --profile another file, or remove this one",
        stored.file.path, stored.profile.measured);
  }
  const int threads = options.threads > 0 ? options.threads : ThreadPool::AvailableCpus();
  HARROW_ASSIGN_OR_RETURN(
      const MachineProfile profile,
      MeasureProfile(measure, threads, stored.status.ok() ? &stored.profile : nullptr, control));
  HARROW_RETURN_IF_ERROR(StoreProfile(stored.file.path, profile));
  return ReportOf(InstallProfile(options.profile, nullptr));
}

Result<ExplainReport> ExplainHere(const ExplainOptions& explain, const MachineOptions& options,
                                  const RunControl* control) {
  HARROW_RETURN_IF_ERROR(ApplyKernelOptions(options));
  const Installed installed = InstallProfile(options.profile, control);
  return ExplainLayer(explain, installed.profile, StateOf(installed));
}

}  // namespace harrow
