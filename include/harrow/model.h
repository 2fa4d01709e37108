// Looking into a model, generating with it, scoring text with it.
#ifndef HARROW_MODEL_H_
#define HARROW_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harrow/eval.h"
#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

// ---- inspect ----

struct TensorEntry {
  std::string name;
  std::string format;
  std::vector<int64_t> shape;
  double density = 0;
  uint64_t bytes = 0;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "tensor");
    v("format", format, "dtype of a plain tensor, else weight format");
    v("shape", shape, "[rows, cols] = [outputs, inputs] for a linear weight");
    v("density", density, "fraction of elements that are not zero");
    v("bytes", bytes, "bytes stored");
  }
};

struct InspectReport {
  std::string path;
  std::string architecture;
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  bool tied_head = false;
  std::string tokenizer;
  int64_t params = 0;
  int64_t linear_params = 0;
  double linear_density = 0;
  int64_t packed_weights = 0;
  uint64_t disk_bytes = 0;
  bool runs = true;
  std::vector<std::string> notes;
  std::vector<TensorEntry> tensors;

  template <class V>
  void Visit(V&& v) {
    v("path", path, "model directory");
    v("architecture", architecture, "architecture named in config.json");
    v("layers", layers, "decoder blocks");
    v("hidden", hidden, "hidden size");
    v("ffn", ffn, "intermediate size of the feed-forward network");
    v("heads", heads, "attention heads");
    v("kv_heads", kv_heads, "key / value heads");
    v("vocab", vocab, "vocabulary");
    v("context", context, "longest context, tokens");
    v("tied_head", tied_head, "whether the output head is the embedding");
    v("tokenizer", tokenizer, "kind of tokenizer; \"none\" without one");
    v("params", params, "elements of all tensors, zeros included");
    v("linear_params", linear_params, "elements of the linear weights inside decoder blocks");
    v("linear_density", linear_density,
      "fraction of those that is not zero (the papers' 1 - sparsity)");
    v("packed_weights", packed_weights,
      "weights in a Harrow format; structure, checksum and non-zeros of each were verified");
    v("disk_bytes", disk_bytes, "bytes of the weight files");
    v("runs", runs, "whether `harrow run` takes it");
    v("notes", notes, "why not");
    v("tensors", tensors, "every stored tensor");
  }
};
// Reads every byte of the model: counts non-zeros and verifies packed weights. A model that
// cannot run, because of its family or a config.json that contradicts its tensors, is still listed.
Result<InspectReport> Inspect(const std::string& model, const RunControl* control);

// ---- generate ----

struct GenerateOptions {
  std::string prompt;
  std::string file;
  std::vector<int32_t> ids;
  int64_t n_predict = 64;
  double temp = 0.8;
  int32_t top_k = 40;
  double top_p = 0.95;
  double min_p = 0.05;
  uint64_t seed = 0;
  int64_t ctx_size = 0;
  int64_t batch_size = 512;
  std::string cache_type = "bf16";
  bool ignore_eos = false;

  template <class V>
  void Visit(V&& v) {
    v("prompt", prompt, "prompt text");
    v("file", file, "file with the prompt");
    v("ids", ids, "prompt as token ids (1,15,...); prints ids, needs no tokenizer");
    v("n_predict", n_predict, "new tokens at most", Limits{1, 1e9});
    v("temp", temp, "temperature; 0: greedy", Limits{0, 100});
    v("top_k", top_k, "keep the k most likely tokens; 0: off", Limits{0, 1e9});
    v("top_p", top_p, "keep the smallest set of this probability; 1: off", Limits{0, 1});
    v("min_p", min_p, "drop tokens below this fraction of the most likely one; 0: off",
      Limits{0, 1});
    v("seed", seed, "seed of the sampler", Limits{0, 9007199254740992.0});
    v("ctx_size", ctx_size, "context, tokens; 0: the model's own", Limits{0, 1e9});
    v("batch_size", batch_size, "prompt tokens processed at once", Limits{1, 65536});
    v("cache_type", cache_type, "element type of the KV cache: f32, bf16 or int8");
    v("ignore_eos", ignore_eos, "go on after an end-of-text token");
  }
};

struct GenerateReport {
  std::string text;
  std::vector<int32_t> ids;
  std::string stop_reason;
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  std::optional<double> prefill_tps;
  std::optional<double> decode_tps;
  std::vector<std::string> kernels;
  std::string cache_type;
  int32_t threads = 0;

  template <class V>
  void Visit(V&& v) {
    v("text", text, "new text (empty for a prompt of ids)");
    v("ids", ids, "new token ids");
    v("stop_reason", stop_reason, "\"eos\", \"length\", \"context\"");
    v("prompt_tokens", prompt_tokens, "tokens of the prompt");
    v("new_tokens", new_tokens, "tokens generated");
    v("prefill_tps", prefill_tps, "prompt tokens per second");
    v("decode_tps", decode_tps, "new tokens per second, after the first");
    v("kernels", kernels, "kernels of one decoding step");
    v("cache_type", cache_type, "element type of the KV cache");
    v("threads", threads, "threads used");
  }
};

// ---- score ----

struct ScoreOptions {
  std::string text;
  std::string file;
  std::vector<int32_t> ids;

  template <class V>
  void Visit(V&& v) {
    v("text", text, "text to score");
    v("file", file, "file to score");
    v("ids", ids, "token ids to score (1,15,...); needs no tokenizer");
  }
};

struct ScoreReport {
  std::vector<int32_t> ids;
  std::vector<std::optional<double>> nll;
  int64_t tokens = 0;
  std::optional<double> mean_nll;
  std::optional<double> ppl;

  template <class V>
  void Visit(V&& v) {
    v("ids", ids, "token ids");
    v("nll", nll, "negative log-likelihood of each token given those before, nats; null first");
    v("tokens", tokens, "tokens");
    v("mean_nll", mean_nll, "mean over the scored tokens, nats");
    v("ppl", ppl, "exp(mean_nll)");
  }
};

// A loaded model with its tokenizer (if it has one) and threads. Not thread safe.
class LanguageModel {
 public:
  static Result<std::unique_ptr<LanguageModel>> Open(const std::string& model,
                                                     const MachineOptions& machine,
                                                     const RunControl* control = nullptr);
  ~LanguageModel();
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  // `on_output` gets each piece of text as soon as its UTF-8 is whole (or each id, as decimal text,
  // for a prompt of ids).
  Result<GenerateReport> Generate(const GenerateOptions& options,
                                  const std::function<void(std::string_view)>& on_output,
                                  const RunControl* control);
  Result<ScoreReport> Score(const ScoreOptions& options);
  Result<PerplexityReport> Perplexity(const PerplexityOptions& options, const RunControl* control);
  Result<TaskReport> Tasks(const TaskOptions& options, const RunControl* control);

 private:
  struct Impl;
  explicit LanguageModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace harrow

#endif  // HARROW_MODEL_H_
