#include "advise/explain.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>

#include "advise/shape.h"
#include "base/machine.h"
#include "formats/linear_weight.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

constexpr double kSlower = 0.95;  // law 1's margin

double KeptFraction(const WeightSpec& spec, double density) {
  if (spec.of_m > 0) return static_cast<double>(spec.keep_n) / spec.of_m;
  const bool dense = spec.format == FormatId::kDense || spec.format == FormatId::kDensePanel;
  return dense ? 1 : density;
}

// The peak of the multiply-adds that a precision's kernels are made of, in 1e9 / s; 0: not
// measured.
double PeakOf(const MachineProfile& profile, ValueType values) {
  const std::string_view wanted = IsQuantized(values)          ? "i8"
                                  : values == ValueType::kBf16 ? "bf16"
                                                               : "f32";
  double best = 0;
  double f32 = 0;
  for (const ArithmeticRate& rate : profile.rates) {
    if (rate.threads != profile.threads || rate.unit == "matrix") continue;
    if (rate.precision == wanted) best = std::max(best, rate.gflops);
    if (rate.precision == "f32") f32 = std::max(f32, rate.gflops);
  }
  return best > 0 ? best : f32;
}

double MemoryGbps(const MachineProfile& profile) {
  for (const Bandwidth& bandwidth : profile.bandwidths) {
    if (bandwidth.level == "memory" && bandwidth.threads == profile.threads) return bandwidth.gbps;
  }
  return 0;
}

// The cell of the same layout nearest in density, then in M (by ratio); null: none.
const BreakEven* NearestCell(const MachineProfile& profile, const WeightSpec& spec, double density,
                             int64_t m) {
  const BreakEven* best = nullptr;
  auto least = std::make_tuple(std::numeric_limits<double>::max(), 0.0);
  for (const BreakEven& row : profile.break_even) {
    const Result<WeightSpec> cell = ParseSpec(row.format);
    if (!cell.ok() || cell->format != spec.format || cell->values != spec.values ||
        cell->block_rows != spec.block_rows || cell->block_cols != spec.block_cols) {
      continue;
    }
    const auto distance =
        std::make_tuple(std::fabs(row.density - density),
                        std::fabs(std::log(static_cast<double>(row.m) / static_cast<double>(m))));
    if (best == nullptr || distance < least) {
      best = &row;
      least = distance;
    }
  }
  return best;
}

// Stands for a weight's bytes: what kernels are chosen by is how many there are, not what they are.
// Takes addresses, no memory.
class ZeroBytes {
 public:
  explicit ZeroBytes(uint64_t count) {
    void* const address =
        ::mmap(nullptr, count, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address != MAP_FAILED) bytes_ = {static_cast<const std::byte*>(address), count};
  }
  ~ZeroBytes() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  ZeroBytes(const ZeroBytes&) = delete;
  ZeroBytes& operator=(const ZeroBytes&) = delete;
  std::span<const std::byte> span() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// Whether a cell's weight stays in the private caches of the threads, and the one asked about does
// not.
bool IsSmall(const BreakEven& cell, const MachineProfile& profile, uint64_t weight_bytes) {
  const uint64_t cache = CacheBytes(2) * static_cast<uint64_t>(profile.threads);
  return static_cast<uint64_t>(cell.bytes) <= cache && weight_bytes > cache;
}

void Append(std::string* list, const std::string& item) {
  if (!list->empty()) *list += ", ";
  *list += item;
}

std::string_view LimitOf(double us, double roof_us, double arithmetic_us) {
  constexpr double kMost = 0.6;  // of the time
  if (std::max(roof_us, arithmetic_us) < kMost * us) return "instructions";
  return roof_us >= arithmetic_us ? "bytes" : "arithmetic";
}

std::string_view ChosenByText(ChosenBy by) {
  switch (by) {
    case ChosenBy::kForce: return "force";
    case ChosenBy::kTable: return "profile";
    case ChosenBy::kRule: return "rule";
  }
  return "";
}

}  // namespace

Result<ExplainReport> ExplainLayer(const ExplainOptions& options, const MachineProfile& profile,
                                   std::string_view profile_state) {
  HARROW_ASSIGN_OR_RETURN(const LayerShape shape, ParseShape(options.explain, "--explain"));
  const Result<WeightSpec> parsed = ParseSpec(options.format);
  if (!parsed.ok()) return parsed.status().At("--format");
  const WeightSpec spec = *parsed;
  const std::vector<WeightSpec> dense = SuitableSpecs({.values = spec.values, .group = spec.group});
  const WeightSpec dense_spec = dense.empty() ? spec : dense.front();

  ExplainReport report;
  report.rows = shape.rows;
  report.cols = shape.cols;
  report.format = SpecName(spec);
  report.density = KeptFraction(spec, options.density);
  const int64_t weights = shape.rows * shape.cols;
  const int64_t kept = std::llround(report.density * static_cast<double>(weights));
  report.weight_bytes = AnalyzeWeight(spec, shape.rows, shape.cols, kept);
  report.dense = SpecName(dense_spec);
  report.dense_bytes = AnalyzeWeight(dense_spec, shape.rows, shape.cols, weights);
  report.profile_state = profile_state;

  const ZeroBytes bytes(report.weight_bytes);
  if (bytes.span().empty()) {
    return Error(StatusCode::kResourceLimit, "--explain: no address space for {} bytes",
                 report.weight_bytes);
  }
  const LinearWeight weight = {
      .spec = spec, .rows = shape.rows, .cols = shape.cols, .data = bytes.span()};
  const double peak = PeakOf(profile, spec.values);
  const double gbps = MemoryGbps(profile);
  // Lists of M for the notes.
  std::string slower;
  std::string noisy;
  std::string above_roof;
  bool small = false;
  for (const std::string& text : options.tokens) {
    ExplainRow row;
    HARROW_ASSIGN_OR_RETURN(row.m, ParseCount(text, 1 << 24, "--tokens"));
    const LinearKernelChosen chosen = ChooseLinearKernel(weight, row.m);
    row.kernel = chosen.name;
    row.chosen_by = ChosenByText(chosen.by);
    const BreakEven* cell = NearestCell(profile, spec, report.density, row.m);
    if (gbps > 0) row.roof_us = static_cast<double>(report.weight_bytes) / gbps * 1e-3;
    if (peak > 0) {
      row.arithmetic_us =
          2.0 * static_cast<double>(row.m) * static_cast<double>(weights) / peak * 1e-3;
    }
    if (cell != nullptr) {
      row.cell = fmt::format("{:.2g}, M {}", cell->density, cell->m);
      const auto found = std::find(cell->kernels.begin(), cell->kernels.end(), row.kernel);
      if (found != cell->kernels.end()) {
        const size_t index = static_cast<size_t>(found - cell->kernels.begin());
        const double scale = static_cast<double>(weights) / static_cast<double>(profile.rows) /
                             static_cast<double>(profile.cols);
        // Of the chosen kernel itself `ratio` is the median of rounds.
        const double us = cell->kernel_us[index];
        row.us = us * scale;
        row.dense_us = cell->dense_us * scale;
        row.spread = cell->spread;
        // As memory was read in turn with the cell's products: on a shared machine its bandwidth
        // changes from minute to minute.
        if (cell->roof > 0) row.roof_us = cell->us * cell->roof * scale;
        small |= IsSmall(*cell, profile, report.weight_bytes);
        if (row.roof_us && *row.us < *row.roof_us) Append(&above_roof, fmt::format("M {}", row.m));
        if (row.kernel == cell->kernel) {
          row.ratio = cell->ratio;
        } else if (us > 0) {
          row.ratio = cell->dense_us / us;
        }
        if (row.roof_us && row.arithmetic_us && cell->m == row.m)
          row.limit = LimitOf(*row.us, *row.roof_us, *row.arithmetic_us);
        if (cell->Noisy()) {
          Append(&noisy, fmt::format("M {} (spread {:.2f})", row.m, cell->spread));
        } else if (row.ratio && *row.ratio < kSlower && *found == cell->kernel) {
          Append(&slower, fmt::format("M {}: {:.2f}", row.m, *row.ratio));
        }
      }
    }
    report.tokens.push_back(std::move(row));
  }

  if (profile.empty()) {
    report.notes.push_back(
        "no profile: kernels are those of the built-in rules; `harrow doctor --measure` measures "
        "times");
  } else if (std::none_of(report.tokens.begin(), report.tokens.end(),
                          [](const ExplainRow& row) { return row.us.has_value(); })) {
    report.notes.push_back(fmt::format("the profile has no times of {}", report.format));
  } else {
    report.notes.push_back(
        fmt::format("times are of {} threads and {}x{}, scaled by the number of weights",
                    profile.threads, profile.rows, profile.cols));
  }
  if (small) {
    report.notes.push_back(fmt::format(
        "weights of {}x{} fit into the caches of {} threads and this one does not: a hand-off is a "
        "larger part of their times, so scaling is rough; `harrow doctor --measure` without "
        "--quick, or with --shape, measures larger ones",
        profile.rows, profile.cols, profile.threads));
  }
  if (!noisy.empty()) {
    report.notes.push_back(fmt::format(
        "noisy, and possibly far off: {}; measure again while the machine does nothing else",
        noisy));
  }
  if (!above_roof.empty()) {
    report.notes.push_back(fmt::format(
        "faster than memory was read in turn with it, so roof_us is no bound: {}", above_roof));
  }
  if (!slower.empty()) {
    report.notes.push_back(fmt::format(
        "slower than {} with every kernel there is, so no choice helps: {}", report.dense, slower));
  }
  return report;
}

}  // namespace harrow
