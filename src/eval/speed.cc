#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "base/rng.h"
#include "harrow/eval.h"
#include "runtime/session.h"

namespace harrow {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Runner {
  const LoadedModel* model;
  std::unique_ptr<Session> session;
  std::vector<int32_t> ids;

  Result<double> PrefillSeconds(int64_t tokens) {
    session->Reset();
    const auto start = Clock::now();
    HARROW_RETURN_IF_ERROR(session->Append(ids.data(), tokens).status());
    return Seconds(start);
  }
  Result<double> DecodeSeconds(int64_t tokens) {
    session->Reset();
    const auto start = Clock::now();
    for (int64_t i = 0; i < tokens; ++i) {
      HARROW_RETURN_IF_ERROR(session->Append(ids.data() + i, 1).status());
    }
    return Seconds(start);
  }
  Result<double> TokensPerSecond(bool prefill, int64_t tokens, double min_seconds) {
    double seconds = 0;
    int64_t done = 0;
    do {
      HARROW_ASSIGN_OR_RETURN(const double pass,
                              prefill ? PrefillSeconds(tokens) : DecodeSeconds(tokens));
      seconds += pass;
      done += tokens;
    } while (seconds < min_seconds);
    return static_cast<double>(done) / seconds;
  }
};

constexpr double kFirmSpread = 1.5;  // highest over lowest, up to which a median is a figure

}  // namespace

bool TooNoisy(double low, double high) {
  return high > kFirmSpread * low;
}

std::string SpeedVerdict(const RatioSpread& ratio, int64_t repetitions) {
  if (repetitions < 2)
    return fmt::format("{:.2f} x in one repetition, which proves nothing", ratio.median);
  const bool noisy = TooNoisy(ratio.low, ratio.high);
  const std::string range = fmt::format("{:.2f} to {:.2f}", ratio.low, ratio.high);
  if (ratio.low <= 1 && ratio.high >= 1) {
    return noisy ? fmt::format("too noisy to tell ({} x)", range)
                 : fmt::format("{:.2f} x ({}): too noisy to tell from equal", ratio.median, range);
  }
  const char* const side = ratio.low > 1 ? "faster here" : "slower here";
  return noisy ? fmt::format("{}, too noisy to tell by how much ({} x)", side, range)
               : fmt::format("{:.2f} x ({}): {}", ratio.median, range, side);
}

Result<std::vector<SpeedSamples>> MeasureSpeed(const std::vector<const LoadedModel*>& models,
                                               const SpeedPlan& plan, MemoryRoof* roof,
                                               const RunControl* control) {
  std::vector<Runner> runners(models.size());
  const int64_t longest = std::max(plan.n_prompt, plan.n_gen);
  for (size_t i = 0; i < models.size(); ++i) {
    const ModelConfig& config = models[i]->model->config();
    if (longest > config.max_context) {
      return InvalidArgument("{} exceeds the context of {}, {} tokens: {}",
                             plan.n_prompt > config.max_context ? "--n-prompt" : "--n-gen",
                             models[i]->path, config.max_context, longest);
    }
    Runner& runner = runners[i];
    runner.model = models[i];
    runner.session = std::make_unique<Session>(
        models[i]->model.get(), models[i]->pool.get(),
        SessionOptions{
            .max_tokens = longest, .batch = plan.batch_size, .cache_type = plan.cache_type});
    Rng rng(plan.seed);
    runner.ids.resize(static_cast<size_t>(longest));
    for (int32_t& id : runner.ids)
      id = static_cast<int32_t>(rng.Below(config.vocab));
    // Warm-up: pages come in, scratch and cache grow.
    constexpr int64_t kWarmUpTokens = 4;
    if (plan.n_gen > 0) {
      HARROW_RETURN_IF_ERROR(runner.DecodeSeconds(std::min(plan.n_gen, kWarmUpTokens)).status());
    }
    if (plan.n_prompt > 0) HARROW_RETURN_IF_ERROR(runner.PrefillSeconds(plan.n_prompt).status());
  }

  std::vector<SpeedSamples> samples(models.size());
  for (int64_t r = 0; r < plan.repetitions; ++r) {
    if (control != nullptr) control->Progress("measuring speed: rounds", r, plan.repetitions);
    for (const bool prefill : {true, false}) {
      const int64_t tokens = prefill ? plan.n_prompt : plan.n_gen;
      if (tokens == 0) continue;
      for (size_t step = 0; step < runners.size(); ++step) {
        if (control != nullptr && control->Cancelled()) {
          return Status(StatusCode::kCancelled, "measurement interrupted");
        }
        const size_t i = r % 2 == 0 ? step : runners.size() - 1 - step;
        HARROW_ASSIGN_OR_RETURN(const double tps,
                                runners[i].TokensPerSecond(prefill, tokens, plan.min_seconds));
        (prefill ? samples[i].prefill_tps : samples[i].decode_tps).push_back(tps);
        if (!prefill && roof != nullptr) samples[i].roof_gbps.push_back(roof->ProbeGbps());
      }
    }
  }
  if (control != nullptr) {
    control->Progress("measuring speed: rounds", plan.repetitions, plan.repetitions);
  }
  return samples;
}

}  // namespace harrow
