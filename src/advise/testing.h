// A made-up profile of this machine, for tests.
#ifndef HARROW_ADVISE_TESTING_H_
#define HARROW_ADVISE_TESTING_H_

#include <string>
#include <vector>

#include "advise/profile.h"
#include "harrow/doctor.h"

namespace harrow::testing {

// A cell of bitmask-i8/128 whose rule is `rule`, which takes 100 us, and where linear.ref takes
// `ref_us` and is chosen when that is less. Dense takes 120 us.
inline BreakEven SyntheticCell(double density, int64_t m, const std::string& rule, double ref_us) {
  BreakEven row;
  row.format = "bitmask-i8/128";
  row.density = density;
  row.m = m;
  row.bytes = 1000;
  row.rule = rule;
  row.kernel = ref_us < 100 ? "linear.ref" : rule;
  row.us = ref_us < 100 ? ref_us : 100;
  row.dense = "dense_panel-i8/128";
  row.dense_kernel = "linear.dense_panel_i8.avx2";
  row.dense_us = 120;
  row.ratio = row.dense_us / row.us;
  row.spread = 0.02;
  row.rounds = 20;
  row.roof = 0.5;
  row.kernels = {rule};
  row.kernel_us = {100};
  if (rule != "linear.ref") {
    row.kernels.push_back("linear.ref");
    row.kernel_us.push_back(ref_us);
  }
  return row;
}

// Peaks of 200 (f32), 400 (bf16) and 800 (i8) GFLOP/s and 50 GB/s with 2 threads, half with 1.
inline MachineProfile SyntheticProfile() {
  MachineProfile profile;
  profile.key = ThisMachine();
  profile.unix_time = 1'700'000'000;
  profile.measured = "2023-11-14 22:13:20 UTC";
  profile.seconds = 1.5;
  profile.threads = 2;
  profile.rows = 1000;
  profile.cols = 1000;
  for (const int32_t threads : {1, 2}) {
    profile.rates.push_back({"vector", "f32", "avx2", threads, 100.0 * threads, 0.01});
    profile.rates.push_back({"dot", "bf16", "avx512bf16", threads, 200.0 * threads, 0.01});
    profile.rates.push_back({"dot", "i8", "avx512", threads, 400.0 * threads, 0.01});
    profile.rates.push_back({"matrix", "i8", "avx512", threads, 4000.0 * threads, 0.01});
    profile.bandwidths.push_back({"L1", 32768, threads, 200.0 * threads, 0.02});
    profile.bandwidths.push_back({"memory", 1 << 27, threads, 25.0 * threads, 0.1});
    profile.fork_joins.push_back({threads, 0.5 * threads, 0.1});
  }
  return profile;
}

}  // namespace harrow::testing

#endif  // HARROW_ADVISE_TESTING_H_
