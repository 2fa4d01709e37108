#include "eval/speed.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>

#include "base/rng.h"
#include "kernels/read_stream.h"
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

}  // namespace

// sysfs first: under a hypervisor sysconf() may report the caches of the whole host.
uint64_t LastLevelCacheBytes() {
  uint64_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    uint64_t size = 0;
    char unit = ' ';
    if (!(file >> size)) break;
    file >> unit;
    largest = std::max(largest, size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0));
  }
  if (largest > 0) return largest;
  const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
}

MemoryRoof::MemoryRoof(ThreadPool* pool)
    : pool_(pool),
      buffer_(
          std::clamp<uint64_t>(4 * LastLevelCacheBytes(), uint64_t{128} << 20, uint64_t{2} << 30) /
          sizeof(uint64_t)),
      sums_(pool->size()) {
  // Written once, or every page would be the same page of zeros.
  std::fill(buffer_.begin(), buffer_.end(), uint64_t{1});
}

double MemoryRoof::ProbeGbps() {
  const int64_t count = static_cast<int64_t>(buffer_.size());
  const int64_t threads = pool_->size();
  const auto start = Clock::now();
  pool_->Run([&](int index) {
    const int64_t begin = count * index / threads;
    const int64_t end = count * (index + 1) / threads;
    sums_[index] = ReadStream(buffer_.span().subspan(begin, end - begin));
  });
  return static_cast<double>(bytes()) / Seconds(start) / 1e9;
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
