// What compressing one part of a model alone costs, and what every pattern and method costs one
// layer.
#ifndef HARROW_SENSITIVITY_H_
#define HARROW_SENSITIVITY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

// What layers are calibrated on, as in recipes.
struct LayerCalibration {
  std::string calibration;
  std::string mode = "papers";
  int64_t samples = 32;
  int64_t calibration_length = 0;
  int64_t seed = 0;

  template <class V>
  void Visit(V&& v) {
    v("calibration", calibration, "text to calibrate on: .jsonl with a field `text`, or .txt");
    v("mode", mode,
      "papers: random crops of documents that are long enough; concat: of all joined");
    v("samples", samples, "calibration sequences", Limits{1, 1 << 20});
    v("calibration_length", calibration_length,
      "tokens a calibration sequence; 0: the model's context, at most 2048", Limits{0, 1 << 20});
    v("seed", seed, "of the choice of documents and crops", Limits{0, 9007199254740992.0});
  }
};

// ---- one part at a time ----

struct SensitivityOptions {
  std::string model;
  std::string text;
  std::string method = "sparsegpt";
  std::string recipe_step;
  std::string pattern;
  std::vector<double> sparsity = {0.3, 0.5, 0.7};
  std::string by = "layer";
  int64_t tokens = 4096;
  int64_t seqlen = 0;
  LayerCalibration calibration;
  std::string html;

  template <class V>
  void Visit(V&& v) {
    v("text", text, "text to measure the loss on");
    v("method", method, "how to compress: a method of recipes (docs/recipes.md)");
    v("recipe_step", recipe_step,
      "a whole step instead of --method, as in a recipe: '{method: sparsegpt, damping: 0.1}'");
    v("pattern", pattern, "N:M or RxC; empty: unstructured");
    v("sparsity", sparsity, "sparsities to measure at; an N:M pattern has its own");
    v("by", by, "what is compressed at a time: layer | block | projection");
    v("tokens", tokens, "tokens to score each time, rounded up to whole windows",
      Limits{2, 1 << 30});
    v("seqlen", seqlen, "tokens a window; 0: the model's context but at most 512",
      Limits{0, 1 << 24});
    v("html", html, "file to write: the heat-map as a page");
  }
};

struct SensitivityEffect {
  double sparsity = 0;
  double loss_increase = 0;
  std::optional<double> loss_increase_stderr;
  double kl = 0;
  std::optional<double> kl_stderr;
  double top1_agreement = 0;
  double stored_sparsity = 0;
  uint64_t bytes = 0;
  std::vector<std::string> warnings;

  template <class V>
  void Visit(V&& v) {
    v("sparsity", sparsity, "fraction of zeros asked for");
    v("loss_increase", loss_increase, "mean NLL minus the dense model's, nats a token");
    v("loss_increase_stderr", loss_increase_stderr, "its standard error, paired by window");
    v("kl", kl, "mean KL(dense || changed), nats");
    v("kl_stderr", kl_stderr, "its standard error over windows");
    v("top1_agreement", top1_agreement, "fraction of positions with the same most likely token");
    v("stored_sparsity", stored_sparsity, "fraction of zeros in what was stored");
    v("bytes", bytes, "bytes of the compressed weights");
    v("warnings", warnings, "what the compression had to say");
  }
};

struct SensitivityLayer {
  std::string name;
  int64_t weights = 0;
  std::vector<SensitivityEffect> points;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "weight; the block's prefix with --by block; the projection with the third");
    v("weights", weights, "weights in it");
    v("points", points, "one a sparsity");
  }
};

struct SensitivityReport {
  std::string model;
  std::string by;
  std::string step;
  std::vector<SensitivityLayer> layers;
  double dense_ppl = 0;
  int64_t seqlen = 0;
  int64_t windows = 0;
  std::string text_hash;
  std::string calibration_hash;
  int64_t calibration_tokens = 0;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "model directory");
    v("by", by, "layer | block | projection");
    v("step", step, "the recipe step, with the first sparsity");
    v("layers", layers, "one entry a part; what `allocation: sensitivity` of recipes reads");
    v("dense_ppl", dense_ppl, "perplexity of the dense model on the same tokens");
    v("seqlen", seqlen, "tokens a window");
    v("windows", windows, "windows scored");
    v("text_hash", text_hash, "XXH3-64 of the text");
    v("calibration_hash", calibration_hash, "XXH3-64 of the calibration text; empty without");
    v("calibration_tokens", calibration_tokens, "tokens calibrated on");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall clock");
  }
};

// Every part is compressed on the dense model's inputs, in memory, and put back after scoring.
Result<SensitivityReport> Sensitivity(const SensitivityOptions& options,
                                      const MachineOptions& machine, const RunControl* control);

// ---- patterns and methods of one layer ----

struct PatternOptions {
  std::string model;
  std::string layer;
  std::vector<std::string> methods;
  std::vector<std::string> pattern_list = {"unstructured", "4:8", "2:4",   "1:4",  "16x1",
                                           "1x4",          "4x4", "16x16", "32x32"};
  std::vector<double> sparsity = {0.3, 0.5, 0.7};
  std::string then;
  double bytes_ratio = 0.6;
  double time_ratio = 0.8;
  LayerCalibration calibration;
  std::string html;

  template <class V>
  void Visit(V&& v) {
    v("layer", layer, "the weight, by name");
    v("methods", methods, "methods to try; default: every one that takes a sparsity");
    v("pattern_list", pattern_list, "patterns to try");
    v("sparsity", sparsity, "sparsities to measure at; N:M patterns have their own");
    v("then", then, "step after each, as in a recipe: '{method: rtn, group: 128}'");
    v("bytes_ratio", bytes_ratio, "equal bytes: this fraction of the weight as it is",
      Limits{0.001, 1});
    v("time_ratio", time_ratio, "equal time: this fraction of the time of the weight as it is",
      Limits{0.001, 10});
    v("html", html, "file to write: the plots as a page");
  }
};

struct PatternPoint {
  std::string pattern;
  std::string method;
  std::string spec;
  double sparsity = 0;
  double relative_error = 0;
  uint64_t bytes = 0;
  double bytes_ratio = 0;
  double decode_us = 0;
  double decode_ratio = 0;
  double prefill_us = 0;
  double prefill_ratio = 0;
  bool interpolated = false;
  std::string note;

  template <class V>
  void Visit(V&& v) {
    v("pattern", pattern, "where zeros may stand");
    v("method", method,
      "method, in its default options; (permute: none) where these would change other weights too");
    v("spec", spec, "stored form; empty for an interpolated row");
    v("sparsity", sparsity, "fraction of zeros asked for");
    v("relative_error", relative_error, "|X W'^T - X W^T|^2 / |X W^T|^2 over the calibration");
    v("bytes", bytes, "bytes of the stored weight");
    v("bytes_ratio", bytes_ratio, "over those of the weight as it is");
    v("decode_us", decode_us, "microseconds of one product with 1 token, median");
    v("decode_ratio", decode_ratio, "over that of the weight as it is");
    v("prefill_us", prefill_us, "microseconds of one product with 128 tokens, median");
    v("prefill_ratio", prefill_ratio, "over that of the weight as it is");
    v("interpolated", interpolated, "between two measured sparsities of the same pattern");
    v("note", note, "of a row at equal time: that and why it is not at the time asked for");
  }
};

struct PatternReport {
  std::string model;
  std::string layer;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<PatternPoint> points;
  std::vector<PatternPoint> equal_bytes;
  std::vector<PatternPoint> equal_decode;
  std::vector<PatternPoint> equal_prefill;
  std::vector<std::string> notes;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "model directory");
    v("layer", layer, "weight");
    v("rows", rows, "output features");
    v("cols", cols, "input features");
    v("points", points, "all that was measured; the weight as it is first");
    v("equal_bytes", equal_bytes,
      "each at the sparsity that meets the byte budget, lowest error first; N:M patterns have no "
      "such choice and are listed where they fit");
    v("equal_decode", equal_decode, "each at the time budget with 1 token, lowest error first");
    v("equal_prefill", equal_prefill, "each at the time budget with 128 tokens");
    v("notes", notes, "what was left out, and why");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall clock");
  }
};
Result<PatternReport> SearchPatterns(const PatternOptions& options, const MachineOptions& machine,
                                     const RunControl* control);

}  // namespace harrow

#endif  // HARROW_SENSITIVITY_H_
