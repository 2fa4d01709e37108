// Measuring the machine profile.
#ifndef HARROW_ADVISE_MEASURE_H_
#define HARROW_ADVISE_MEASURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "formats/linear_weight.h"
#include "harrow/doctor.h"

namespace harrow {

// Arithmetic rates, bandwidths and hand-off cost with 1, 2, 4, .. `threads` threads; a second or
// two.
Status MeasureRates(int threads, MachineProfile* profile, const RunControl* control);

// ---- break-even tables

// The formats of the table and the dense format that each is held against: all of formats.def that
// have BF16, INT8 (groups of 128) or INT4 (64) values, so that a new one comes in by itself. Dense
// ones are their own.
struct BreakEvenFormat {
  WeightSpec spec;
  WeightSpec dense;
};
std::vector<BreakEvenFormat> BreakEvenFormats();

struct BreakEvenPlan {
  int64_t rows = 5632;  // a feed-forward layer of a 1.1 B LLaMA
  int64_t cols = 2048;
  std::vector<double> densities = {1, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05};
  std::vector<int64_t> ms = {1, 2, 4, 8, 16, 32, 64, 128, 512};
  double seconds = 75;
  // Starts of format names; empty: all. The dense formats that they are held against come along.
  std::vector<std::string> only;
};
// Whether kernel a (seconds of each round) would very likely be faster than b in another
// measurement too: by 3 % in the median and in three rounds of four, of at least kLeastRounds whose
// ratios spread over no more than kNoisySpread. Both have as many rounds.
bool ClearlyFaster(const std::vector<double>& a, const std::vector<double>& b);

// Dense formats stand at density 1, N:M formats at N / M, all others at each density. Weights are
// read from memory. Neither a kernel nor a table may be in force.
Result<std::vector<BreakEven>> MeasureBreakEven(const BreakEvenPlan& plan, ThreadPool* pool,
                                                const RunControl* control);

// All of it, as `harrow doctor --measure` does. `stored` (may be null) is the profile whose rows
// are kept where options.only leaves formats out; it must be this machine's. Measures without the
// table in force, and puts it back. Refuses a forced kernel and activations other than INT8.
Result<MachineProfile> MeasureProfile(const MeasureOptions& options, int threads,
                                      const MachineProfile* stored, const RunControl* control);

}  // namespace harrow

#endif  // HARROW_ADVISE_MEASURE_H_
