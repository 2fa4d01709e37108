#include "advise/profile.h"

#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "advise/profile_json.h"
#include "base/atomic_file.h"
#include "base/machine.h"
#include "base/mapped_file.h"
#include "base/thread_pool.h"

namespace harrow {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;
constexpr int64_t kFileVersion = 1;
constexpr const char* kKind = "harrow machine profile";

std::string KernelsChecksum() {
  std::string names;
  for (const LinearKernelInfo& kernel : ListLinearKernels())
    names += std::string(kernel.name) + "\n";
  return fmt::format("{:016x}", XXH3_64bits(names.data(), names.size()));
}

// For a file name: letters, digits and dots; anything else becomes one '-'.
std::string Slug(std::string_view text) {
  std::string slug;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.';
    if (plain) {
      slug += c;
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  return slug;
}

std::string CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/harrow";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.cache/harrow";
  return "";
}

Status CheckRow(const BreakEven& row) {
  for (const std::string& format : {row.format, row.dense})
    HARROW_RETURN_IF_ERROR(ParseSpec(format).status());
  if (row.kernels.size() != row.kernel_us.size()) {
    return Corruption("kernels: {} names, but kernel_us has {} numbers", row.kernels.size(),
                      row.kernel_us.size());
  }
  for (const std::string& name : {row.kernel, row.rule}) {
    if (std::find(row.kernels.begin(), row.kernels.end(), name) == row.kernels.end())
      return Corruption("kernels: \"{}\" is not among them", PrintableName(name));
  }
  return OkStatus();
}

Status CheckKey(const MachineKey& found) {
  const MachineKey here = ThisMachine();
  if (found == here) return OkStatus();
  const auto text = [](const MachineKey& key) {
    return fmt::format("{}, {} CPUs, {}, Harrow {} with kernels {}", PrintableName(key.cpu),
                       key.cpus, PrintableName(key.isa), PrintableName(key.version),
                       PrintableName(key.kernels));
  };
  return Unsupported("it is a profile of {}; expected one of this machine: {}", text(found),
                     text(here));
}

}  // namespace

MachineKey ThisMachine() {
  return {.cpu = CpuModelName(),
          .cpus = ThreadPool::AvailableCpus(),
          .isa = std::string(IsaName(ActiveIsa())),
          .version = HARROW_VERSION,
          .kernels = KernelsChecksum()};
}

ProfileFile FindProfileFile(const std::string& option) {
  const char* variable = std::getenv("HARROW_PROFILE");
  const std::string named = !option.empty() ? option : variable != nullptr ? variable : "";
  if (!named.empty()) return {named == "none" ? "" : named, true};
  const std::string folder = CacheFolder();
  if (folder.empty()) return {};
  const MachineKey key = ThisMachine();
  return {fmt::format("{}/profile-{}-{}t-{}-{}.json", folder, Slug(key.cpu), key.cpus, key.isa,
                      Slug(key.version)),
          false};
}

Result<MachineProfile> ParseProfile(std::string_view text, std::string_view where) {
  HARROW_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(text, where));
  std::string kind;
  int64_t version = 0;
  Status status = ReadJsonString(json, "kind", &kind);
  if (status.ok() && kind != kKind) {
    status = Corruption("kind: expected \"{}\", found \"{}\"", kKind, PrintableName(kind));
  }
  if (status.ok())
    status = RequireJsonInt(json, "file_version", kFileVersion, kFileVersion, &version);
  MachineProfile profile;
  if (status.ok()) status = FromProfileJson(json, "", Limits(), &profile);
  for (size_t i = 0; status.ok() && i < profile.break_even.size(); ++i)
    status = CheckRow(profile.break_even[i]).At(fmt::format("break_even[{}]", i));
  if (!status.ok()) return Status(StatusCode::kCorruption, status.message()).At(where);
  return profile;
}

Result<std::string> FormatProfile(MachineProfile profile) {
  nlohmann::json json = ToProfileJson(profile);
  json["kind"] = kKind;
  json["file_version"] = kFileVersion;
  return DumpJson(json);
}

Result<MachineProfile> LoadProfile(const std::string& path) {
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  HARROW_ASSIGN_OR_RETURN(MachineProfile profile, ParseProfile(text, path));
  HARROW_RETURN_IF_ERROR(CheckKey(profile.key).At(path));
  return profile;
}

Status StoreProfile(const std::string& path, const MachineProfile& profile) {
  HARROW_ASSIGN_OR_RETURN(const std::string text, FormatProfile(profile));
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) {
    return Error(StatusCode::kIoError, "create folder {}: {}", folder.string(), error.message());
  }
  return WriteFileAtomically(path, text);
}

bool IsFirm(const BreakEven& row) {
  return row.rounds.value_or(0) >= kLeastRounds && !row.Noisy();
}

std::vector<KernelChoice> ChoicesOf(const MachineProfile& profile) {
  // format -> densities -> M -> row; the last of two that describe the same cell.
  std::map<std::string, std::map<double, std::map<int64_t, const BreakEven*>>> cells;
  for (const BreakEven& row : profile.break_even)
    cells[row.format][row.density][row.m] = &row;
  std::vector<KernelChoice> choices;
  for (const auto& [format, densities] : cells) {
    const Result<WeightSpec> spec = ParseSpec(format);
    if (!spec.ok()) continue;  // ParseProfile let none through
    if (IsQuantized(spec->values) && QuantizedActivations() != Activations::kInt8) continue;
    for (auto density = densities.begin(); density != densities.end(); ++density) {
      KernelChoice choice;
      choice.spec = *spec;
      if (density != densities.begin())
        choice.min_density = (std::prev(density)->first + density->first) / 2;
      if (std::next(density) != densities.end())
        choice.max_density = (std::next(density)->first + density->first) / 2;
      bool open = false;  // whether `choice` describes a run of M that ends at the last one
      int64_t before = 0;
      for (const auto& [m, row] : density->second) {
        const bool chooses = row->kernel != row->rule && IsFirm(*row);
        if (open && chooses && row->kernel == choice.kernel) {
          choice.max_m = m;
        } else {
          if (open) choices.push_back(choice);
          open = chooses;
          choice.kernel = row->kernel;
          choice.min_m = before + 1;
          choice.max_m = m;
        }
        before = m;
      }
      if (open) {
        // With so many tokens the cost of each no longer depends on how many there are.
        constexpr int64_t kMany = 512;
        if (choice.max_m >= kMany) choice.max_m = std::numeric_limits<int64_t>::max();
        choices.push_back(choice);
      }
    }
  }
  return choices;
}

}  // namespace harrow
