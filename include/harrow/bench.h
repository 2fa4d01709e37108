// How fast a model runs here, as tokens per second and as a fraction of the memory roof.
#ifndef HARROW_BENCH_H_
#define HARROW_BENCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

struct BenchOptions {
  std::string model;
  std::string shape;
  std::string format = "dense-bf16";
  double density = 1;
  std::string vs;
  int64_t n_prompt = 512;
  int64_t n_gen = 128;
  int64_t repetitions = 5;
  int64_t batch_size = 512;
  std::string cache_type = "bf16";
  uint64_t seed = 0;

  template <class V>
  void Visit(V&& v) {
    v("shape", shape, "random weights in the shape of this config.json (file or directory)");
    v("format", format, "weight format with --shape: dense-bf16, dense-i8, bitmask-i4/64, ...");
    v("density", density, "fraction of weights kept with --shape; N:M formats keep N / M",
      Limits{0.0001, 1});
    v("vs", vs,
      "measure a second model in turn and print the ratio to it: FORMAT[:DENSITY] in the same "
      "shape, or a model directory");
    v("n_prompt", n_prompt, "tokens of the prefill row (pp); 0: none", Limits{0, 1 << 24});
    v("n_gen", n_gen, "tokens of the decode row (tg); 0: none", Limits{0, 1 << 24});
    v("repetitions", repetitions, "repetitions", Limits{1, 1000});
    v("batch_size", batch_size, "prompt tokens processed at once", Limits{1, 65536});
    v("cache_type", cache_type, "element type of the KV cache: f32, bf16 or int8");
    v("seed", seed, "seed of random weights", Limits{0, 9007199254740992.0});
  }
};

struct BenchRow {
  std::string model;
  std::string format;
  std::optional<double> density;
  std::string test;
  double tps = 0;
  double tps_mean = 0;
  std::optional<double> tps_sd;
  std::optional<double> ratio;
  std::optional<double> ratio_low;
  std::optional<double> ratio_high;
  uint64_t bytes_per_token = 0;
  std::optional<double> gbps;
  std::optional<double> roof_gbps;
  std::optional<double> roof_fraction;
  uint64_t resident_bytes = 0;
  int32_t threads = 0;
  std::vector<std::string> kernels;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "model, or shape of random weights");
    v("format", format, "weight formats of the linear layers");
    v("density", density, "fraction of weights kept, of random weights");
    v("test", test, "pp512: prefill of 512 tokens; tg128: 128 tokens one by one");
    v("tps", tps, "tokens per second, median");
    v("tps_mean", tps_mean, "mean");
    v("tps_sd", tps_sd, "sample standard deviation");
    v("ratio", ratio,
      "speed relative to the --vs model, median of paired repetitions; null where they are too "
      "noisy, which a note tells");
    v("ratio_low", ratio_low, "the lowest of the repetitions");
    v("ratio_high", ratio_high, "the highest of the repetitions");
    v("bytes_per_token", bytes_per_token,
      "bytes of weights read for each token (decode), or for each token's share of a batch");
    v("gbps", gbps, "decode: weight bytes per second, 1e9, median");
    v("roof_gbps", roof_gbps, "decode: stream-read bandwidth probed between repetitions, median");
    v("roof_fraction", roof_fraction, "decode: gbps over the probe beside it, median");
    v("resident_bytes", resident_bytes, "bytes of all weights in memory");
    v("threads", threads, "threads used");
    v("kernels", kernels, "kernels used");
  }
};

struct BenchReport {
  std::vector<BenchRow> rows;
  std::string cpu;
  std::string isa;
  uint64_t l3_bytes = 0;
  uint64_t probe_bytes = 0;
  std::string cache_type;
  std::vector<std::string> notes;

  template <class V>
  void Visit(V&& v) {
    v("rows", rows, "one row a model and test");
    v("cpu", cpu, "model name of the CPU");
    v("isa", isa, "active instruction set");
    v("l3_bytes", l3_bytes, "last-level cache; 0: unknown");
    v("probe_bytes", probe_bytes, "size of the buffer of the bandwidth probe");
    v("cache_type", cache_type, "element type of the KV cache");
    v("notes", notes, "what to know when reading the rows");
  }
};
// Either options.model or options.shape is set; format and density are for shape.
Result<BenchReport> Bench(const BenchOptions& options, const MachineOptions& machine,
                          const RunControl* control);

}  // namespace harrow

#endif  // HARROW_BENCH_H_
