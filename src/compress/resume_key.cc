#include "compress/resume_key.h"

#include <xxhash.h>

#include <filesystem>
#include <map>

#include "kernels/isa.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

// Changes with anything that makes the same recipe give other weights.
constexpr int kAlgorithmVersion = 3;

Result<std::string> SourceIdentity(const Checkpoint& checkpoint) {
  std::string identity = checkpoint.config().json;
  std::error_code error;
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(checkpoint.directory(), error)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::error_code ignored;
    files[entry.path().filename()] =
        fmt::format("{} {}", entry.file_size(ignored),
                    entry.last_write_time(ignored).time_since_epoch().count());
  }
  if (error) {
    return Error(StatusCode::kIoError, "read {}: {}", checkpoint.directory(), error.message());
  }
  for (const auto& [name, stamp] : files)
    identity += fmt::format("\n{} {}", name, stamp);
  return identity;
}

}  // namespace

Result<std::string> ResumeKey(const Checkpoint& source, std::string_view recipe, int threads,
                              std::span<const int32_t> calibration_ids) {
  HARROW_ASSIGN_OR_RETURN(std::string identity, SourceIdentity(source));
  identity +=
      fmt::format("\n{}\n{}\n{} {} {} {}\n", kAlgorithmVersion, recipe, IsaName(ActiveIsa()),
                  ForcedLinearKernel(), ActivationsName(QuantizedActivations()), threads);
  for (const KernelChoice& choice : InstalledKernelChoices()) {
    identity += fmt::format("{} {} {} {} {} {}\n", SpecName(choice.spec), choice.min_density,
                            choice.max_density, choice.min_m, choice.max_m, choice.kernel);
  }
  const uint64_t seed = XXH3_64bits(identity.data(), identity.size());
  return fmt::format(
      "{:016x}", XXH3_64bits_withSeed(calibration_ids.data(), calibration_ids.size_bytes(), seed));
}

}  // namespace harrow
