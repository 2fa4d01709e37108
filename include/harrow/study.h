// Many recipes on one model: what each costs and what it buys, against dense BF16, INT8 and INT4.
#ifndef HARROW_STUDY_H_
#define HARROW_STUDY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

struct StudyOptions {
  std::string recipes;
  std::string model;
  std::string output;
  std::string text;
  int64_t seqlen = 0;
  int64_t limit = 0;
  std::vector<std::string> tasks;
  int64_t tasks_limit = 0;
  int64_t n_prompt = 256;
  int64_t n_gen = 64;
  int64_t repetitions = 5;
  double min_seconds = 0.3;
  bool baselines = true;
  bool keep_models = false;

  template <class V>
  void Visit(V&& v) {
    v("output", output, "folder for study.db, study.html, study.json and the models");
    v("text", text, "text for perplexity and divergence");
    v("seqlen", seqlen, "tokens a window; 0: the model's context but at most 2048",
      Limits{0, 1 << 24});
    v("limit", limit, "windows at most; 0: all", Limits{0, 1e9});
    v("tasks", tasks,
      "multiple-choice tasks to score: JSONL files, or folders of them (*.jsonl); empty: none");
    v("tasks_limit", tasks_limit, "questions of each task file at most; 0: all", Limits{0, 1e9});
    v("n_prompt", n_prompt, "tokens of the prefill measurement", Limits{1, 1 << 24});
    v("n_gen", n_gen, "tokens of the decode measurement", Limits{1, 1 << 24});
    v("repetitions", repetitions, "repetitions of both, dense and compressed in turn",
      Limits{1, 1000});
    v("min_seconds", min_seconds, "seconds that a repetition lasts at least", Limits{0, 60});
    v("baselines", baselines,
      "measure the points to beat as well: the model as it is, dense INT8 and dense INT4");
    v("keep_models", keep_models, "keep the compressed models in OUTPUT/models");
  }
};

struct StudyPoint {
  std::string name;
  std::string recipe;
  std::string kind;
  bool sparse = false;
  bool quantized = false;
  bool smaller = false;
  std::vector<std::string> methods;
  std::vector<std::string> formats;
  double sparsity = 0;
  double bits_per_weight = 0;
  uint64_t disk_bytes = 0;
  uint64_t resident_bytes = 0;
  uint64_t bytes_per_token = 0;
  double ppl = 0;
  std::optional<double> ppl_stderr;
  double dense_ppl = 0;
  double ppl_increase = 0;
  double delta_nll = 0;
  std::optional<double> delta_nll_stderr;
  double kl = 0;
  std::optional<double> kl_stderr;
  double top1_agreement = 0;
  std::optional<double> top1_agreement_stderr;
  std::optional<double> task_accuracy;
  std::optional<double> task_accuracy_stderr;
  double decode_tps = 0;
  double decode_time_ratio = 0;
  std::optional<double> decode_time_low;
  std::optional<double> decode_time_high;
  double prefill_tps = 0;
  double prefill_time_ratio = 0;
  std::optional<double> prefill_time_low;
  std::optional<double> prefill_time_high;
  double compress_seconds = 0;
  std::vector<std::string> warnings;
  bool resumed = false;
  std::vector<std::string> dominated_bytes;
  std::vector<std::string> dominated_decode;
  std::vector<std::string> dominated_prefill;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "file name of the recipe; dense, dense-int8, dense-int4: points to beat");
    v("recipe", recipe, "recipe file; empty for points that the study makes itself");
    v("kind", kind, "dense | baseline | recipe");
    v("sparse", sparse, "whether a step pruned weights, or a sparse format was stored");
    v("quantized", quantized, "whether linear weights of the blocks are quantized");
    v("smaller", smaller,
      "whether structure was removed, or low-rank products stand for weights: a smaller dense "
      "model");
    v("methods", methods, "distinct methods, joined by '+' by weight");
    v("formats", formats, "distinct stored formats of the linear weights of the blocks");
    v("sparsity", sparsity, "fraction of zeros in the linear weights of the blocks");
    v("bits_per_weight", bits_per_weight,
      "bits stored (values, scales, masks) for each linear weight of the dense model's blocks");
    v("disk_bytes", disk_bytes, "weight files");
    v("resident_bytes", resident_bytes, "all weights in memory");
    v("bytes_per_token", bytes_per_token, "bytes of weights that decoding one token reads");
    v("ppl", ppl, "perplexity (protocol gptq)");
    v("ppl_stderr", ppl_stderr, "its standard error over windows");
    v("dense_ppl", dense_ppl, "perplexity of the model as it is, same tokens");
    v("ppl_increase", ppl_increase, "ppl / dense_ppl - 1");
    v("delta_nll", delta_nll, "mean NLL minus the dense model's, nats a token");
    v("delta_nll_stderr", delta_nll_stderr, "its standard error, paired by window");
    v("kl", kl, "mean KL(dense || this), nats");
    v("kl_stderr", kl_stderr, "its standard error over windows");
    v("top1_agreement", top1_agreement, "fraction of positions with dense's most likely token");
    v("top1_agreement_stderr", top1_agreement_stderr, "its standard error over windows");
    v("task_accuracy", task_accuracy, "accuracy over all questions of --tasks");
    v("task_accuracy_stderr", task_accuracy_stderr, "its standard error");
    v("decode_tps", decode_tps, "generated tokens a second, median");
    v("decode_time_ratio", decode_time_ratio,
      "time a generated token over the dense model's, median of paired repetitions");
    v("decode_time_low", decode_time_low, "the lowest of the repetitions");
    v("decode_time_high", decode_time_high, "the highest of the repetitions");
    v("prefill_tps", prefill_tps, "prompt tokens a second, median");
    v("prefill_time_ratio", prefill_time_ratio, "the same for a prompt token");
    v("prefill_time_low", prefill_time_low, "the lowest of the repetitions");
    v("prefill_time_high", prefill_time_high, "the highest of the repetitions");
    v("compress_seconds", compress_seconds, "wall clock of compressing");
    v("warnings", warnings, "what the compression had to say");
    v("resumed", resumed, "taken from study.db");
    v("dominated_bytes", dominated_bytes,
      "points with no more bytes a token and no more KL, one of them less");
    v("dominated_decode", dominated_decode, "the same with decode time");
    v("dominated_prefill", dominated_prefill, "the same with prefill time");
  }
};

// "0.731" for a time ratio, or "noisy" where its repetitions are TooNoisy.
std::string TimeText(double ratio, const std::optional<double>& low,
                     const std::optional<double>& high);

struct StudyFailure {
  std::string recipe;
  std::string error;

  template <class V>
  void Visit(V&& v) {
    v("recipe", recipe, "recipe file or point");
    v("error", error, "why it has no point");
  }
};

struct StudyReport {
  std::string model;
  std::string output;
  std::vector<StudyPoint> points;
  std::vector<StudyFailure> failures;
  std::vector<std::string> verdicts;
  std::vector<std::string> notes;
  std::string text;
  std::string text_hash;
  int64_t seqlen = 0;
  int64_t windows = 0;
  int64_t n_prompt = 0;
  int64_t n_gen = 0;
  std::string cpu;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "model directory");
    v("output", output, "folder with study.db, study.html, study.json");
    v("points", points, "one a recipe, the points to beat first");
    v("failures", failures, "recipes that have no point; a rerun tries them again");
    v("verdicts", verdicts,
      "whether sparse beats dense INT8, INT4 and the study's own points without zeros at equal KL");
    v("notes", notes, "what to know when reading the points");
    v("text", text, "text file");
    v("text_hash", text_hash, "XXH3-64 of the text");
    v("seqlen", seqlen, "tokens a window");
    v("windows", windows, "windows scored");
    v("n_prompt", n_prompt, "tokens of the prefill measurement");
    v("n_gen", n_gen, "tokens of the decode measurement");
    v("cpu", cpu, "model name of the CPU");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall clock of this run");
  }
};

// Every *.yaml of options.recipes. Finished points are kept in OUTPUT/study.db under a hash of
// recipe, model, texts and settings, and are not measured again. A recipe that is wrong is an error
// that names its file, before any work; one that fails while it runs is in `failures`, and the
// others go on.
Result<StudyReport> Study(const StudyOptions& options, const MachineOptions& machine,
                          const RunControl* control);

}  // namespace harrow

#endif  // HARROW_STUDY_H_
