// What a model is worth: perplexity, task accuracy, and what compression changed.
#ifndef HARROW_EVAL_H_
#define HARROW_EVAL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

// ---- perplexity ----

struct PerplexityOptions {
  std::string ppl;
  std::string protocol = "gptq";
  int64_t seqlen = 0;
  int64_t limit = 0;
  std::string cache_type = "f32";

  template <class V>
  void Visit(V&& v) {
    v("ppl", ppl, "text file to measure perplexity on");
    v("protocol", protocol, "gptq (the pruning papers' rules) or llama.cpp");
    v("seqlen", seqlen,
      "tokens a window; 0: the model's context but at most 2048 (llama.cpp: at most 512)",
      Limits{0, 1 << 24});
    v("limit", limit, "windows (of --ppl) or lines (of each --tasks file) at most; 0: all",
      Limits{0, 1e9});
    v("cache_type", cache_type,
      "element type of the KV cache: f32, bf16 or int8; f32 adds no error");
  }
};

struct PerplexityReport {
  std::string protocol;
  double ppl = 0;
  std::optional<double> ppl_stderr;
  double nll = 0;
  std::optional<double> nll_stderr;
  int64_t seqlen = 0;
  int64_t windows = 0;
  int64_t tokens = 0;
  int64_t scored_tokens = 0;
  std::string bos;
  std::string file;
  uint64_t text_bytes = 0;
  std::string text_hash;
  std::string tokenizer;
  std::vector<std::string> kernels;
  std::string cache_type;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("protocol", protocol, "rules of the measurement");
    v("ppl", ppl, "perplexity");
    v("ppl_stderr", ppl_stderr, "its standard error (delta method); null for a single window");
    v("nll", nll, "ln(ppl), nats a token");
    v("nll_stderr", nll_stderr, "standard error of nll");
    v("seqlen", seqlen, "tokens a window");
    v("windows", windows, "windows scored");
    v("tokens", tokens, "tokens of the whole text, the dropped tail included");
    v("scored_tokens", scored_tokens, "tokens whose likelihood entered");
    v("bos", bos,
      "where a begin-of-text token stood: \"none\", \"first window\", \"every window\"");
    v("file", file, "the text");
    v("text_bytes", text_bytes, "its size");
    v("text_hash", text_hash, "its XXH3-64 hash");
    v("tokenizer", tokenizer, "kind of tokenizer");
    v("kernels", kernels, "kernels of a full batch");
    v("cache_type", cache_type, "element type of the KV cache");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall-clock time of scoring");
  }
};

// ---- multiple-choice tasks ----

struct TaskOptions {
  std::vector<std::string> tasks;
  std::string bos = "model";
  std::string log_samples;
  int64_t limit = 0;               // not visited: PerplexityOptions has the flag
  std::string cache_type = "f32";  // likewise

  template <class V>
  void Visit(V&& v) {
    v("tasks", tasks,
      "multiple-choice questions: JSONL files (a.jsonl,b.jsonl), or folders of them (*.jsonl)");
    v("bos", bos, "begin-of-text before a question: model (what its tokenizer adds) or none");
    v("log-samples", log_samples,
      "file to write: one JSON object a question, with the log-likelihood of each choice in nats");
  }
};

struct TaskRow {
  std::string part;
  std::optional<std::string> distance;
  int64_t n = 0;
  double acc = 0;
  std::optional<double> acc_stderr;
  double acc_norm = 0;
  std::optional<double> acc_norm_stderr;
  double chance = 0;

  template <class V>
  void Visit(V&& v) {
    v("part", part, "part of the task; \"all\" for the whole");
    v("distance", distance, "the questions' \"distance\", where they have one");
    v("n", n, "questions");
    v("acc", acc, "fraction answered rightly by highest log-likelihood");
    v("acc_stderr", acc_stderr, "its standard error, sqrt(p (1 - p) / (n - 1))");
    v("acc_norm", acc_norm, "the same with log-likelihood per character of the choice");
    v("acc_norm_stderr", acc_norm_stderr, "its standard error");
    v("chance", chance, "accuracy of guessing");
  }
};

struct TaskReport {
  std::vector<TaskRow> rows;
  std::string bos;
  int64_t truncated = 0;
  std::vector<std::string> files;
  std::vector<std::string> file_hashes;
  std::vector<std::string> kernels;
  std::string cache_type;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("rows", rows, "accuracy by part, and by distance within it");
    v("bos", bos, "\"none\" or \"every question\"");
    v("truncated", truncated, "choices whose context was cut on the left to fit the model");
    v("files", files, "task files");
    v("file_hashes", file_hashes, "their XXH3-64 hashes");
    v("kernels", kernels, "kernels of a full batch");
    v("cache_type", cache_type, "element type of the KV cache");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall-clock time of scoring");
  }
};

// ---- dense against sparse ----

struct CompareOptions {
  std::string text;
  std::string cache_type = "f32";
  int64_t seqlen = 0;
  int64_t limit = 0;
  int64_t n_prompt = 256;
  int64_t n_gen = 64;
  int64_t repetitions = 5;
  double min_seconds = 0.3;

  template <class V>
  void Visit(V&& v) {
    v("text", text, "text file for perplexity and divergence; without it accuracy is skipped");
    v("cache_type", cache_type,
      "KV cache of SPARSE where accuracy is measured (DENSE: f32): f32, bf16 or int8");
    v("seqlen", seqlen, "tokens a window; 0: the model's context but at most 2048",
      Limits{0, 1 << 24});
    v("limit", limit, "windows at most; 0: all", Limits{0, 1e9});
    v("n_prompt", n_prompt, "tokens of the prefill measurement; 0: skip", Limits{0, 1 << 24});
    v("n_gen", n_gen, "tokens of the decode measurement; 0: skip", Limits{0, 1 << 24});
    v("repetitions", repetitions, "repetitions of both", Limits{1, 1000});
    v("min_seconds", min_seconds,
      "seconds that a repetition lasts at least, by measuring its tokens again", Limits{0, 60});
  }
};

struct CompareSide {
  std::string path;
  std::vector<std::string> formats;
  uint64_t disk_bytes = 0;
  uint64_t resident_bytes = 0;
  std::optional<double> ppl;
  std::optional<double> ppl_stderr;
  std::optional<double> prefill_tps;
  std::optional<double> decode_tps;
  std::vector<std::string> kernels_prefill;
  std::vector<std::string> kernels_decode;

  template <class V>
  void Visit(V&& v) {
    v("path", path, "model directory");
    v("formats", formats, "distinct weight formats of the linear layers");
    v("disk_bytes", disk_bytes, "bytes of the weight files");
    v("resident_bytes", resident_bytes, "bytes of all weights in memory");
    v("ppl", ppl, "perplexity (protocol gptq), both on the same tokens");
    v("ppl_stderr", ppl_stderr, "its standard error over windows");
    v("prefill_tps", prefill_tps, "prompt tokens per second, median");
    v("decode_tps", decode_tps, "generated tokens per second, median");
    v("kernels_prefill", kernels_prefill, "kernels of prefill");
    v("kernels_decode", kernels_decode, "kernels of decoding");
  }
};

struct CompareReport {
  CompareSide dense;
  CompareSide sparse;
  double disk_ratio = 0;
  double resident_ratio = 0;
  std::optional<double> delta_nll;
  std::optional<double> delta_nll_stderr;
  std::optional<double> kl;
  std::optional<double> kl_stderr;
  std::optional<double> top1_agreement;
  std::optional<double> top1_agreement_stderr;
  std::optional<double> prefill_speedup;
  std::optional<double> prefill_speedup_low;
  std::optional<double> prefill_speedup_high;
  std::string prefill_verdict;
  std::optional<double> decode_speedup;
  std::optional<double> decode_speedup_low;
  std::optional<double> decode_speedup_high;
  std::string decode_verdict;
  std::string accuracy;
  int64_t seqlen = 0;
  int64_t windows = 0;
  std::string bos;
  std::string text_hash;
  int64_t n_prompt = 0;
  int64_t n_gen = 0;
  int64_t repetitions = 0;
  double min_seconds = 0;
  std::string cache_type;
  int32_t threads = 0;

  template <class V>
  void Visit(V&& v) {
    v("dense", dense, "the first model, the denominator of every ratio");
    v("sparse", sparse, "the second model");
    v("disk_ratio", disk_ratio, "sparse / dense bytes on disk");
    v("resident_ratio", resident_ratio, "sparse / dense bytes in memory");
    v("delta_nll", delta_nll, "mean NLL of sparse minus dense, nats a token");
    v("delta_nll_stderr", delta_nll_stderr, "its standard error, paired by window");
    v("kl", kl, "mean KL(dense || sparse) of the next-token distributions, nats");
    v("kl_stderr", kl_stderr, "its standard error over windows");
    v("top1_agreement", top1_agreement, "fraction of positions with the same most likely token");
    v("top1_agreement_stderr", top1_agreement_stderr, "its standard error over windows");
    v("prefill_speedup", prefill_speedup, "sparse / dense prefill, median of paired repetitions");
    v("prefill_speedup_low", prefill_speedup_low, "the lowest of the repetitions");
    v("prefill_speedup_high", prefill_speedup_high, "the highest of the repetitions");
    v("prefill_verdict", prefill_verdict, "what these tell: faster, slower, or too noisy to tell");
    v("decode_speedup", decode_speedup, "sparse / dense decode, median of paired repetitions");
    v("decode_speedup_low", decode_speedup_low, "the lowest of the repetitions");
    v("decode_speedup_high", decode_speedup_high, "the highest of the repetitions");
    v("decode_verdict", decode_verdict, "what these tell: faster, slower, or too noisy to tell");
    v("accuracy", accuracy, "\"measured\", or why not");
    v("seqlen", seqlen, "tokens a window");
    v("windows", windows, "windows scored");
    v("bos", bos, "where a begin-of-text token stood");
    v("text_hash", text_hash, "XXH3-64 of the text");
    v("n_prompt", n_prompt, "tokens of the prefill measurement");
    v("n_gen", n_gen, "tokens of the decode measurement");
    v("repetitions", repetitions, "interleaved repetitions");
    v("min_seconds", min_seconds, "seconds that a repetition lasted at least");
    v("cache_type", cache_type,
      "element type of the KV cache of the sparse model where accuracy was measured");
    v("threads", threads, "threads used");
  }
};
// Whether ratios of paired repetitions, from `low` to `high`, lie too far apart for their median to
// be a figure.
bool TooNoisy(double low, double high);

Result<CompareReport> Compare(const std::string& dense, const std::string& sparse,
                              const CompareOptions& options, const MachineOptions& machine,
                              const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_H_
