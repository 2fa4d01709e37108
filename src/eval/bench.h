// `harrow bench`: rows of prefill and decode speed, of a model or of random weights in its shape.
#ifndef HARROW_EVAL_BENCH_H_
#define HARROW_EVAL_BENCH_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/thread_pool.h"
#include "formats/linear_weight.h"
#include "harrow/bench.h"
#include "harrow/run_control.h"

namespace harrow {

// "FORMAT[:DENSITY]" as in --vs. Without a density: 1 for dense formats, N / M for N:M (whose
// density cannot be another), else `default_density`.
struct RandomSpec {
  WeightSpec spec;
  double density = 1;
};
Result<RandomSpec> ParseRandomSpec(std::string_view text, double default_density);

Result<BenchReport> MeasureBench(const BenchOptions& options, std::shared_ptr<ThreadPool> pool,
                                 const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_BENCH_H_
