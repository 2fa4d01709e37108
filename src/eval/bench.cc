#include "eval/bench.h"

#include <charconv>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/machine.h"
#include "base/mapped_file.h"
#include "base/statistics.h"
#include "eval/loaded_model.h"
#include "eval/speed.h"
#include "harrow/eval.h"
#include "kernels/isa.h"
#include "runtime/session.h"

namespace harrow {
namespace {

struct Subject {
  LoadedModel model;
  std::string format;
  std::optional<double> density;
};

std::string Join(const std::vector<std::string>& parts) {
  return fmt::format("{}", fmt::join(parts, " + "));
}

Result<HfConfig> LoadShape(const std::string& path) {
  if (std::filesystem::is_directory(path)) return LoadHfConfig(path);
  HARROW_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, uint64_t{16} << 20));
  return ParseHfConfig(json, path);
}

Result<Subject> OpenSubject(const std::string& path, std::shared_ptr<ThreadPool> pool) {
  Subject subject;
  HARROW_ASSIGN_OR_RETURN(subject.model, LoadModel(path, std::move(pool)));
  subject.format = Join(subject.model.Formats());
  return subject;
}

Result<Subject> RandomSubject(const HfConfig& config, const std::string& name,
                              const RandomSpec& random, uint64_t seed,
                              std::shared_ptr<ThreadPool> pool) {
  Subject subject;
  subject.model.path = name + " (random weights)";
  subject.model.pool = std::move(pool);
  HARROW_ASSIGN_OR_RETURN(subject.model.model, Model::Random(config, random.spec, random.density,
                                                             seed, subject.model.pool.get()));
  subject.format = SpecName(random.spec);
  subject.density = random.density;
  return subject;
}

BenchRow MakeRow(const Subject& subject, const BenchOptions& options, bool prefill,
                 const SpeedSamples& samples) {
  const Model& model = *subject.model.model;
  const std::vector<double>& tps = prefill ? samples.prefill_tps : samples.decode_tps;
  const int64_t tokens = prefill ? options.n_prompt : options.n_gen;
  const int64_t m = prefill ? std::min(options.n_prompt, options.batch_size) : 1;
  BenchRow row;
  row.model = subject.model.path;
  row.format = subject.format;
  row.density = subject.density;
  row.test = fmt::format("{}{}", prefill ? "pp" : "tg", tokens);
  row.tps = Median(tps);
  row.tps_mean = Mean(tps);
  row.tps_sd = SampleDeviation(tps);
  row.bytes_per_token = model.WeightBytesPerToken() / static_cast<uint64_t>(m);
  row.resident_bytes = model.ResidentBytes();
  row.threads = subject.model.pool->size();
  row.kernels = model.KernelNames(m);
  if (!prefill) {
    std::vector<double> gbps;
    for (double t : tps)
      gbps.push_back(t * static_cast<double>(row.bytes_per_token) / 1e9);
    row.gbps = Median(gbps);
    row.roof_gbps = Median(samples.roof_gbps);
    row.roof_fraction = MedianRatio(gbps, samples.roof_gbps);
  }
  return row;
}

// N:M keeps N of every M, so any other density asked for would not be what is measured.
Status CheckNmDensity(const WeightSpec& spec, double density) {
  const double kept = static_cast<double>(spec.keep_n) / spec.of_m;
  if (density == kept) return OkStatus();  // exact: M is a power of two
  return InvalidArgument("density {} contradicts {}, which keeps {} of every {} weights ({:.4g})",
                         density, SpecName(spec), spec.keep_n, spec.of_m, kept);
}

}  // namespace

Result<RandomSpec> ParseRandomSpec(std::string_view text, double default_density) {
  RandomSpec random;
  std::string_view format = text;
  std::optional<double> density;
  Result<WeightSpec> spec = ParseSpec(format);
  const size_t colon = text.rfind(':');
  if (!spec.ok() && colon != std::string_view::npos) {
    const std::string_view tail = text.substr(colon + 1);
    double value = 0;
    const auto parsed = std::from_chars(tail.data(), tail.data() + tail.size(), value);
    if (parsed.ec == std::errc() && parsed.ptr == tail.data() + tail.size()) {
      if (!(value > 0 && value <= 1)) {
        return InvalidArgument("'{}': the density {} is not in 0 .. 1", text, tail);
      }
      density = value;
      format = text.substr(0, colon);
      spec = ParseSpec(format);
    }
  }
  if (!spec.ok()) return spec.status();
  random.spec = *spec;
  switch (random.spec.format) {
    case FormatId::kDense:
    case FormatId::kDensePanel: random.density = density.value_or(1); break;
    case FormatId::kNm:
      if (density) HARROW_RETURN_IF_ERROR(CheckNmDensity(random.spec, *density).At(text));
      random.density = static_cast<double>(random.spec.keep_n) / random.spec.of_m;
      break;
    default: random.density = density.value_or(default_density);
  }
  return random;
}

Result<BenchReport> MeasureBench(const BenchOptions& options, std::shared_ptr<ThreadPool> pool,
                                 const RunControl* control) {
  if (options.model.empty() == options.shape.empty()) {
    return InvalidArgument("give {}", options.model.empty()
                                          ? "a MODEL, or --shape for random weights"
                                          : "either a MODEL or --shape, not both");
  }
  if (options.n_prompt == 0 && options.n_gen == 0) {
    return InvalidArgument("--n-prompt and --n-gen are both 0: nothing to measure");
  }
  std::vector<Subject> subjects(1);
  HfConfig config;
  std::string shape_name = options.shape;
  if (!options.shape.empty()) {
    HARROW_ASSIGN_OR_RETURN(config, LoadShape(options.shape));
    Result<RandomSpec> random = ParseRandomSpec(options.format, options.density);
    if (!random.ok()) return random.status().At("--format");
    if (random->spec.format != FormatId::kNm) {
      // A density below 1 narrows a dense format too (zeros that cost full price).
      random->density = std::min(random->density, options.density);
    } else if (options.density != 1) {
      HARROW_RETURN_IF_ERROR(CheckNmDensity(random->spec, options.density).At("--density"));
    }
    HARROW_ASSIGN_OR_RETURN(subjects[0],
                            RandomSubject(config, shape_name, *random, options.seed, pool));
  } else {
    HARROW_ASSIGN_OR_RETURN(subjects[0], OpenSubject(options.model, pool));
    config = subjects[0].model.model->hf_config();
    shape_name = options.model;
  }
  if (!options.vs.empty()) {
    subjects.emplace_back();
    if (std::filesystem::exists(std::filesystem::path(options.vs) / "config.json")) {
      HARROW_ASSIGN_OR_RETURN(subjects[1], OpenSubject(options.vs, pool));
    } else {
      const Result<RandomSpec> random = ParseRandomSpec(options.vs, options.density);
      if (!random.ok()) return random.status().At("--vs is no model directory, so a format");
      HARROW_ASSIGN_OR_RETURN(subjects[1],
                              RandomSubject(config, shape_name, *random, options.seed, pool));
    }
  }

  SpeedPlan plan;
  plan.n_prompt = options.n_prompt;
  plan.n_gen = options.n_gen;
  plan.repetitions = options.repetitions;
  plan.batch_size = options.batch_size;
  plan.seed = options.seed;
  for (const Subject& subject : subjects) {
    HARROW_ASSIGN_OR_RETURN(plan.cache_type,
                            ResolveCacheType(options.cache_type, subject.model.model->config()));
  }
  MemoryRoof roof(pool.get());
  std::vector<const LoadedModel*> models;
  for (const Subject& subject : subjects)
    models.push_back(&subject.model);
  HARROW_ASSIGN_OR_RETURN(const std::vector<SpeedSamples> samples,
                          MeasureSpeed(models, plan, &roof, control));

  BenchReport report;
  report.cache_type = options.cache_type;
  for (const bool prefill : {true, false}) {
    if ((prefill ? options.n_prompt : options.n_gen) == 0) continue;
    for (size_t i = 0; i < subjects.size(); ++i) {
      BenchRow row = MakeRow(subjects[i], options, prefill, samples[i]);
      if (i == 0 && subjects.size() == 2) {
        const RatioSpread ratio =
            prefill ? SpreadOfRatios(samples[0].prefill_tps, samples[1].prefill_tps)
                    : SpreadOfRatios(samples[0].decode_tps, samples[1].decode_tps);
        row.ratio_low = ratio.low;
        row.ratio_high = ratio.high;
        if (TooNoisy(ratio.low, ratio.high)) {
          report.notes.push_back(fmt::format("{}: against --vs: {}", row.test,
                                             SpeedVerdict(ratio, options.repetitions)));
        } else {
          row.ratio = ratio.median;
        }
      }
      report.rows.push_back(std::move(row));
    }
  }
  report.cpu = CpuModelName();
  report.isa = std::string(IsaName(ActiveIsa()));
  report.l3_bytes = LastLevelCacheBytes();
  report.probe_bytes = roof.bytes();
  for (const Subject& subject : subjects) {
    if (options.n_gen > 0 && subject.model.model->WeightBytesPerToken() < 2 * report.l3_bytes) {
      report.notes.push_back(fmt::format(
          "{}: weights fit in or near the last-level cache; the memory roof does not bind",
          subject.model.path));
    }
  }
  if (options.n_gen > 0) {
    report.notes.push_back(
        "bytes_per_token counts weights only, not the KV cache, which is small at these lengths");
  }
  return report;
}

}  // namespace harrow
