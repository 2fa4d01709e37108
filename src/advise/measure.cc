#include "advise/measure.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <map>
#include <optional>

#include "advise/linear_timing.h"
#include "advise/profile.h"
#include "advise/shape.h"
#include "base/check.h"
#include "base/statistics.h"
#include "kernels/memory_roof.h"

namespace harrow {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<double> Ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i)
    ratios.push_back(a[i] / b[i]);
  return ratios;
}

// While it lives, no table of kernels is in force.
class WithoutChoices {
 public:
  WithoutChoices() : before_(InstalledKernelChoices()) { HARROW_CHECK(SetKernelChoices({}).ok()); }
  ~WithoutChoices() { HARROW_CHECK(SetKernelChoices(before_).ok()); }
  WithoutChoices(const WithoutChoices&) = delete;
  WithoutChoices& operator=(const WithoutChoices&) = delete;

 private:
  std::vector<KernelChoice> before_;
};

// One weight of the table: a format at a density.
struct Weight {
  WeightSpec spec;
  WeightSpec dense;
  double density;
};

bool Wanted(const std::vector<std::string>& only, const std::string& name) {
  return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& start) {
           return name.starts_with(start);
         });
}

// In the order of the formats: dense ones before those that are held against them.
std::vector<Weight> WeightsOf(const BreakEvenPlan& plan) {
  std::vector<Weight> weights;
  const std::vector<BreakEvenFormat> formats = BreakEvenFormats();
  for (const BreakEvenFormat& format : formats) {
    const bool needed = std::any_of(formats.begin(), formats.end(), [&](const auto& other) {
      return other.dense == format.spec && Wanted(plan.only, SpecName(other.spec));
    });
    if (!needed && !Wanted(plan.only, SpecName(format.spec))) continue;
    if (format.spec == format.dense) {
      weights.push_back({format.spec, format.dense, 1});
    } else if (format.spec.of_m > 0) {
      const double kept = static_cast<double>(format.spec.keep_n) / format.spec.of_m;
      weights.push_back({format.spec, format.dense, kept});
    } else {
      for (const double density : plan.densities)
        weights.push_back({format.spec, format.dense, density});
    }
  }
  return weights;
}

// Shares the time that is left among the cells that are left.
class Budget {
 public:
  Budget(double seconds, size_t cells) : end_(Now() + seconds), cells_(cells) {}
  double NextCell() {
    const double left = std::max(end_ - Now(), 0.0) / static_cast<double>(cells_--);
    return std::min(left, 2.0);
  }

 private:
  double end_;
  size_t cells_;
};

// One cell: all kernels of `stack`'s format in turn, and the fastest dense kernel unless the format
// is dense itself.
BreakEven MeasureCell(const Weight& weight, WeightStack* stack, WeightStack* dense,
                      const std::string& dense_kernel, double seconds, ProductTimer* timer,
                      MemoryRoof* roof) {
  const int64_t m = timer->m();
  BreakEven row;
  row.format = SpecName(weight.spec);
  row.density = weight.density;
  row.m = m;
  row.bytes = static_cast<int64_t>(stack->weight().data.size());
  row.rule = LinearKernelName(stack->weight(), m);
  row.dense = SpecName(weight.dense);

  std::vector<Rival> rivals;
  for (const std::string& kernel : RivalKernels(weight.spec))
    rivals.push_back({stack, kernel, {}});
  const size_t own = rivals.size();
  if (stack != dense) rivals.push_back({dense, dense_kernel, {}});
  const std::vector<double> gbps = TimeRivals(timer, roof, {.seconds = seconds}, &rivals);

  row.rounds = static_cast<int64_t>(gbps.size());
  const Rival* by_rule = nullptr;
  const Rival* fastest = &rivals[0];
  for (size_t i = 0; i < own; ++i) {
    row.kernels.push_back(rivals[i].kernel);
    row.kernel_us.push_back(1e6 * Median(rivals[i].seconds));
    if (rivals[i].kernel == row.rule) by_rule = &rivals[i];
    if (Median(rivals[i].seconds) < Median(fastest->seconds)) fastest = &rivals[i];
  }
  if (by_rule == nullptr) {
    by_rule = fastest;
    row.rule = fastest->kernel;
  }
  const Rival& opponent = stack == dense ? *fastest : rivals.back();
  row.dense_kernel = opponent.kernel;
  row.dense_us = 1e6 * Median(opponent.seconds);
  const auto choose = [&](const Rival& chosen) {
    const std::vector<double> ratios = Ratios(opponent.seconds, chosen.seconds);
    row.kernel = chosen.kernel;
    row.us = 1e6 * Median(chosen.seconds);
    row.ratio = Median(ratios);
    // The ratio of the fastest dense kernel to itself would say nothing about noise.
    row.spread = QuartileSpread(stack == dense ? chosen.seconds : ratios);
    std::vector<double> roofs;
    for (size_t i = 0; i < gbps.size(); ++i)
      roofs.push_back(1e-9 * static_cast<double>(row.bytes) / chosen.seconds[i] / gbps[i]);
    row.roof = Median(roofs);
  };
  choose(ClearlyFaster(fastest->seconds, by_rule->seconds) ? *fastest : *by_rule);
  // The row is of the kernel that will run, and no other is chosen by a row that is not firm.
  if (!IsFirm(row)) choose(*by_rule);
  return row;
}

std::string UtcText(std::time_t time) {
  std::tm parts = {};
  ::gmtime_r(&time, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return std::string(text, length);
}

}  // namespace

bool ClearlyFaster(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> ratios = Ratios(b, a);
  if (static_cast<int64_t>(ratios.size()) < kLeastRounds) return false;
  if (Median(ratios) < 1.03 || QuartileSpread(ratios) > kNoisySpread) return false;
  const auto wins = std::count_if(ratios.begin(), ratios.end(), [](double r) { return r > 1; });
  return 4 * static_cast<size_t>(wins) >= 3 * ratios.size();
}

std::vector<BreakEvenFormat> BreakEvenFormats() {
  struct Precision {
    ValueType values;
    int32_t group;
  };
  constexpr Precision kPrecisions[] = {
      {ValueType::kBf16, 0}, {ValueType::kI8, 128}, {ValueType::kI4, 64}};
  struct Pattern {
    int32_t keep_n, of_m, block_rows, block_cols;  // all 0: zeros anywhere
  };
  constexpr Pattern kPatterns[] = {{0, 0, 0, 0},  {2, 4, 0, 0},   {0, 0, 16, 1},
                                   {0, 0, 16, 4}, {0, 0, 16, 16}, {0, 0, 1, 4}};
  std::vector<BreakEvenFormat> formats;
  for (const Precision& precision : kPrecisions) {
    std::optional<WeightSpec> dense;  // the first of the first pattern
    for (const Pattern& pattern : kPatterns) {
      for (const FormatId format : AllFormats()) {
        const WeightSpec spec = {
            format,       precision.values,   precision.group,   pattern.keep_n,
            pattern.of_m, pattern.block_rows, pattern.block_cols};
        if (!ValidateSpec(spec).ok()) continue;
        if (!dense) dense = spec;
        formats.push_back({spec, *dense});
      }
    }
  }
  return formats;
}

Result<std::vector<BreakEven>> MeasureBreakEven(const BreakEvenPlan& plan, ThreadPool* pool,
                                                const RunControl* control) {
  const std::vector<Weight> weights = WeightsOf(plan);
  if (weights.empty()) {
    std::string names;
    for (const BreakEvenFormat& format : BreakEvenFormats())
      names += (names.empty() ? "" : ", ") + SpecName(format.spec);
    return InvalidArgument("--only: no format starts so; there are {}", names);
  }
  const size_t cells = weights.size() * plan.ms.size();
  Budget budget(plan.seconds, cells);
  MemoryRoof roof(pool);
  std::vector<std::unique_ptr<ProductTimer>> timers;
  for (const int64_t m : plan.ms)
    timers.push_back(std::make_unique<ProductTimer>(pool, m, plan.rows, plan.cols));

  std::vector<BreakEven> rows;
  std::optional<WeightStack> dense;
  std::map<int64_t, std::string> dense_kernels;  // by M
  for (const Weight& weight : weights) {
    const bool is_dense = weight.spec == weight.dense;
    HARROW_ASSIGN_OR_RETURN(
        WeightStack made,
        WeightStack::Make(weight.spec, plan.rows, plan.cols, weight.density, DefaultStackBytes()));
    std::optional<WeightStack> sparse;
    (is_dense ? dense : sparse) = std::move(made);
    for (const std::unique_ptr<ProductTimer>& timer : timers) {
      if (control != nullptr) {
        if (control->Cancelled()) return Status(StatusCode::kCancelled, "measurement interrupted");
        control->Progress("measuring break-even: cells", static_cast<int64_t>(rows.size()),
                          static_cast<int64_t>(cells));
      }
      rows.push_back(MeasureCell(weight, is_dense ? &*dense : &*sparse, &*dense,
                                 dense_kernels[timer->m()], budget.NextCell(), timer.get(), &roof));
      if (is_dense) dense_kernels[timer->m()] = rows.back().dense_kernel;
    }
  }
  return rows;
}

Result<MachineProfile> MeasureProfile(const MeasureOptions& options, int threads,
                                      const MachineProfile* stored, const RunControl* control) {
  if (!ForcedLinearKernel().empty()) {
    return InvalidArgument(
        "--measure chooses kernels itself, but \"{}\" is forced (--kernel, "
        "HARROW_KERNEL)",
        ForcedLinearKernel());
  }
  if (QuantizedActivations() != Activations::kInt8) {
    return InvalidArgument(
        "--measure: a profile is of int8 activations, but {} is in force (--activations, "
        "HARROW_ACTIVATIONS)",
        ActivationsName(QuantizedActivations()));
  }
  BreakEvenPlan plan;
  plan.only = options.only;
  if (options.quick) {
    plan.rows = 1024;
    plan.cols = 1024;
    plan.densities = {0.5, 0.2};
    plan.ms = {1, 8, 64};
  }
  if (!options.shape.empty()) {
    HARROW_ASSIGN_OR_RETURN(const LayerShape shape, ParseShape(options.shape, "--shape"));
    plan.rows = shape.rows;
    plan.cols = shape.cols;
  }
  const double start = Now();
  MachineProfile profile;
  profile.key = ThisMachine();
  profile.threads = threads;
  profile.rows = plan.rows;
  profile.cols = plan.cols;
  const bool keep = stored != nullptr && !options.only.empty();
  if (keep &&
      (stored->threads != threads || stored->rows != plan.rows || stored->cols != plan.cols)) {
    return InvalidArgument(
        "--only keeps the rest of the stored profile, which is of {} threads and {}x{}, not {} "
        "and {}x{}; measure all, or give the same",
        stored->threads, stored->rows, stored->cols, threads, plan.rows, plan.cols);
  }
  profile.quick = options.quick || (keep && stored->quick.value_or(false));
  const WithoutChoices without;
  HARROW_RETURN_IF_ERROR(MeasureRates(threads, &profile, control));
  const double total = options.seconds > 0 ? options.seconds : options.quick ? 10 : 75;
  plan.seconds = std::max(0.0, total - (Now() - start));
  ThreadPool pool(threads);
  HARROW_ASSIGN_OR_RETURN(profile.break_even, MeasureBreakEven(plan, &pool, control));
  if (keep) {
    std::vector<BreakEven> fresh = std::move(profile.break_even);
    profile.break_even = stored->break_even;
    std::erase_if(profile.break_even, [&](const BreakEven& old) {
      return std::any_of(fresh.begin(), fresh.end(),
                         [&](const BreakEven& row) { return row.format == old.format; });
    });
    profile.break_even.insert(profile.break_even.end(), fresh.begin(), fresh.end());
  }
  profile.seconds = Now() - start;
  profile.unix_time = static_cast<int64_t>(std::time(nullptr));
  profile.measured = UtcText(static_cast<std::time_t>(profile.unix_time));
  return profile;
}

}  // namespace harrow
