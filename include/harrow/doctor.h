// What this machine can do, measured: the machine profile that kernels are chosen by.
#ifndef HARROW_DOCTOR_H_
#define HARROW_DOCTOR_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

// What a profile is valid for.
struct MachineKey {
  std::string cpu;
  int32_t cpus = 0;
  std::string isa;
  std::string version;
  std::string kernels;

  bool operator==(const MachineKey&) const = default;
  template <class V>
  void Visit(V&& v) {
    v("cpu", cpu, "model name of the CPU");
    v("cpus", cpus, "CPUs that the process might use", Limits{1, 65536});
    v("isa", isa, "instruction set in use");
    v("version", version, "version of Harrow");
    v("kernels", kernels, "checksum of the names of its linear kernels");
  }
};

struct ArithmeticRate {
  std::string unit;
  std::string precision;
  std::string isa;
  int32_t threads = 0;
  double gflops = 0;
  double spread = 0;

  template <class V>
  void Visit(V&& v) {
    v("unit", unit,
      "scalar, vector, dot (sums of pairs or quads): register loops; matrix: the fastest dense "
      "kernel with 512 tokens, weights in cache");
    v("precision", precision, "of the factors: f32, bf16, i8");
    v("isa", isa, "instruction set of the loop");
    v("threads", threads, "threads", Limits{1, 65536});
    v("gflops", gflops, "1e9 operations per second, a multiply-add being 2; median",
      Limits{0, 1e9});
    v("spread", spread, "interquartile range over median", Limits{0, 1e9});
  }
};

struct Bandwidth {
  std::string level;
  int64_t bytes_per_thread = 0;
  int32_t threads = 0;
  double gbps = 0;
  double spread = 0;

  template <class V>
  void Visit(V&& v) {
    v("level", level, "L1, L2, L3 or memory");
    v("bytes_per_thread", bytes_per_thread, "what each thread reads, again and again",
      Limits{1, 1e15});
    v("threads", threads, "threads", Limits{1, 65536});
    v("gbps", gbps, "1e9 bytes read per second, all threads together; median", Limits{0, 1e9});
    v("spread", spread, "interquartile range over median", Limits{0, 1e9});
  }
};

struct ForkJoin {
  int32_t threads = 0;
  double us = 0;
  double spread = 0;

  template <class V>
  void Visit(V&& v) {
    v("threads", threads, "threads", Limits{1, 65536});
    v("us", us, "microseconds to hand out no work and to collect it; median", Limits{0, 1e9});
    v("spread", spread, "interquartile range over median", Limits{0, 1e9});
  }
};

// Of a row's `spread`: above it the figures may be wrong, and no kernel is chosen by them.
inline constexpr double kNoisySpread = 0.1;

// One format at one density with M tokens, in turn with the dense format of its precision.
struct BreakEven {
  std::string format;
  double density = 0;
  int64_t m = 0;
  int64_t bytes = 0;
  std::string kernel;
  double us = 0;
  double ratio = 0;
  double spread = 0;
  std::optional<int64_t> rounds;
  double roof = 0;
  std::string rule;
  std::string dense;
  std::string dense_kernel;
  double dense_us = 0;
  std::vector<std::string> kernels;
  std::vector<double> kernel_us;

  // Also where the medians of times do not fit the median of their ratios: the machine changed its
  // speed in between.
  bool Noisy() const {
    return spread > kNoisySpread || std::fabs(ratio * us - dense_us) > kNoisySpread * dense_us;
  }
  template <class V>
  void Visit(V&& v) {
    v("format", format, "weight format");
    v("density", density, "fraction of weights that are stored", Limits{1e-6, 1});
    v("m", m, "tokens", Limits{1, 1 << 24});
    v("bytes", bytes, "bytes of the weight", Limits{1, 1e15});
    v("kernel", kernel, "the kernel that runs: `rule`, or one clearly faster");
    v("us", us, "microseconds of one product by it, weights from memory; median", Limits{0, 1e12});
    v("ratio", ratio, "its speed relative to dense, median of the rounds", Limits{0, 1e9});
    v("spread", spread,
      "interquartile range over median of `ratio`, or of `us` where `format` is dense; above 0.1, "
      "or where dense_us / us is another ratio by 10 %, the row is noisy",
      Limits{0, 1e9});
    v("rounds", rounds, "how many there were; null: not known", Limits{1, 1e9});
    v("roof", roof, "its weight bytes per second over plain reading of the same bytes in turn",
      Limits{0, 1e9});
    v("rule", rule, "the kernel that runs without a profile");
    v("dense", dense, "the dense format of the same precision");
    v("dense_kernel", dense_kernel, "its fastest kernel with this M");
    v("dense_us", dense_us, "microseconds of that, in the same rounds; median", Limits{0, 1e12});
    v("kernels", kernels, "all kernels that were measured");
    v("kernel_us", kernel_us, "their microseconds; medians", Limits{0, 1e12});
  }
};

struct MachineProfile {
  MachineKey key;
  int64_t unix_time = 0;
  std::string measured;
  double seconds = 0;
  std::optional<bool> quick;
  int32_t threads = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<ArithmeticRate> rates;
  std::vector<Bandwidth> bandwidths;
  std::vector<ForkJoin> fork_joins;
  std::vector<BreakEven> break_even;

  bool empty() const { return threads == 0; }
  template <class V>
  void Visit(V&& v) {
    v("key", key, "what it is valid for");
    v("unix_time", unix_time, "when it was measured, in seconds since 1970", Limits{0, 1e12});
    v("measured", measured, "the same as UTC");
    v("seconds", seconds, "what measuring took", Limits{0, 1e9});
    v("quick", quick, "whether it is of the coarse grid of --quick; null: not known");
    v("threads", threads, "threads of the break-even table", Limits{1, 65536});
    v("rows", rows, "output features of its weights", Limits{1, 1 << 24});
    v("cols", cols, "input features of its weights", Limits{1, 1 << 24});
    v("rates", rates, "arithmetic rates");
    v("bandwidths", bandwidths, "read bandwidths");
    v("fork_joins", fork_joins, "what a hand-off to the thread pool costs");
    v("break_even", break_even, "format x density x M against dense");
  }
};

struct KernelEntry {
  std::string name;
  std::string isa;
  bool runs_here = false;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "name, as in reports and HARROW_KERNEL");
    v("isa", isa, "instruction set that it needs");
    v("runs_here", runs_here, "whether it can run under the active instruction set");
  }
};

struct KernelChoiceEntry {
  std::string format;
  double min_density = 0;
  double max_density = 1;
  int64_t min_m = 1;
  std::optional<int64_t> max_m;
  std::string kernel;

  template <class V>
  void Visit(V&& v) {
    v("format", format, "weights of this layout, of any group and N:M");
    v("min_density", min_density, "stored densities from here");
    v("max_density", max_density, "to here");
    v("min_m", min_m, "and tokens from here");
    v("max_m", max_m, "to here; null: and more");
    v("kernel", kernel, "are multiplied by this kernel");
  }
};

struct DoctorReport {
  std::string cpu;
  int32_t cpus = 0;
  uint64_t l3_bytes = 0;
  std::string isa_detected;
  std::string isa_active;
  std::string profile_file;
  std::string profile_state;
  std::vector<std::string> notes;
  std::vector<KernelChoiceEntry> choices;
  std::vector<KernelEntry> kernels;
  MachineProfile profile;

  template <class V>
  void Visit(V&& v) {
    v("cpu", cpu, "model name of the CPU");
    v("cpus", cpus, "CPUs that this process may use");
    v("l3_bytes", l3_bytes, "last-level cache, as the system reports it; 0: unknown");
    v("isa_detected", isa_detected, "best instruction set of this CPU and system");
    v("isa_active", isa_active, "the one in use (capped by --isa or HARROW_ISA)");
    v("profile_file", profile_file, "where this machine's profile is or would be");
    v("profile_state", profile_state, "its age, or why there is none");
    v("notes", notes, "what to know about its figures");
    v("choices", choices, "where it chooses another kernel than the built-in rules");
    v("kernels", kernels, "every linear kernel, fastest first");
    v("profile", profile, "the profile; its numbers are 0 when there is none");
  }
};
// The machine and its stored profile; measures nothing. What is wrong with the profile stands in
// the report.
Result<DoctorReport> Diagnose(const MachineOptions& machine);

struct MeasureOptions {
  bool quick = false;
  double seconds = 0;
  std::string shape;
  std::vector<std::string> only;

  template <class V>
  void Visit(V&& v) {
    v("quick", quick,
      "with --measure: fewer densities and M, a smaller weight, about 10 seconds; never in place "
      "of "
      "a full profile");
    v("seconds", seconds, "with --measure: about how long to take; 0: 75, or 10 with --quick",
      Limits{0, 86400});
    v("shape", shape, "with --measure: ROWSxCOLS of the weights; empty: 5632x2048");
    v("only", only,
      "with --measure: formats whose names start so; the rest of the stored profile is kept");
  }
};
// Measures this machine with machine.threads threads, stores the profile and uses it from now on.
// Then as Diagnose.
Result<DoctorReport> MeasureMachine(const MeasureOptions& options, const MachineOptions& machine,
                                    const RunControl* control);

struct ExplainOptions {
  std::string explain;
  std::string format = "bitmask-i8/128";
  double density = 0.5;
  std::vector<std::string> tokens = {"1", "2", "4", "8", "16", "32", "64", "128", "512"};

  template <class V>
  void Visit(V&& v) {
    v("explain", explain, "say which kernel would multiply a weight of ROWSxCOLS, and why");
    v("format", format, "with --explain: weight format");
    v("density", density, "with --explain: fraction of weights stored; N:M formats keep N / M",
      Limits{0.0001, 1});
    v("tokens", tokens, "with --explain: numbers of tokens (M)");
  }
};

struct ExplainRow {
  int64_t m = 0;
  std::string kernel;
  std::string chosen_by;
  std::optional<double> us;
  std::optional<double> dense_us;
  std::optional<double> ratio;
  std::optional<double> spread;
  std::optional<double> roof_us;
  std::optional<double> arithmetic_us;
  std::string limit;
  std::string cell;

  template <class V>
  void Visit(V&& v) {
    v("m", m, "tokens");
    v("kernel", kernel, "the kernel that would run");
    v("chosen_by", chosen_by, "force (--kernel), profile (measured), or rule (built in)");
    v("us", us, "its microseconds in `cell`, scaled by the size of the weight");
    v("dense_us", dense_us, "those of the fastest dense kernel of the same precision");
    v("ratio", ratio, "speed relative to dense");
    v("spread", spread, "of the rounds of `cell`: above 0.1 its figures are noisy");
    v("roof_us", roof_us,
      "microseconds that plain reading of the weight of `cell` took in turn with its products, "
      "scaled as `us`; without a cell, of this one at the memory bandwidth of the profile");
    v("arithmetic_us", arithmetic_us,
      "microseconds of the multiply-adds of a dense weight at the measured peak of the precision");
    v("limit", limit,
      "what most of the time goes to: bytes (roof_us), arithmetic, or instructions beyond both "
      "(expansion, packing, hand-off)");
    v("cell", cell, "the nearest measurement: density and M");
  }
};

struct ExplainReport {
  int64_t rows = 0;
  int64_t cols = 0;
  std::string format;
  double density = 0;
  uint64_t weight_bytes = 0;
  std::string dense;
  uint64_t dense_bytes = 0;
  std::string profile_state;
  std::vector<ExplainRow> tokens;
  std::vector<std::string> notes;

  template <class V>
  void Visit(V&& v) {
    v("rows", rows, "output features");
    v("cols", cols, "input features");
    v("format", format, "weight format");
    v("density", density, "fraction of weights stored");
    v("weight_bytes", weight_bytes, "bytes of the weight");
    v("dense", dense, "the dense format of the same precision");
    v("dense_bytes", dense_bytes, "bytes of the weight in that");
    v("profile_state", profile_state, "the profile that the times are from, or why there is none");
    v("tokens", tokens, "one row for each number of tokens");
    v("notes", notes, "what to know when reading the rows");
  }
};
Result<ExplainReport> Explain(const ExplainOptions& options, const MachineOptions& machine,
                              const RunControl* control);

// The break-even table of a profile as Markdown: format x density by M.
std::string BreakEvenMarkdown(const MachineProfile& profile);

}  // namespace harrow

#endif  // HARROW_DOCTOR_H_
