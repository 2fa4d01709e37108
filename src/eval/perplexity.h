// Perplexity under named protocols.
//
// gptq: the rules behind the numbers of the GPTQ, SparseGPT and Wanda papers (IST-DASLab/sparsegpt
// opt.py opt_eval, locuslab/wanda lib/eval.py). The text is tokenized once, so a begin-of-text
// token, if the tokenizer adds one, stands in the first window only; windows of seqlen tokens are
// disjoint and the tail is dropped; each window contributes the mean NLL of its seqlen - 1 targets
// times seqlen; perplexity = exp(sum / (windows * seqlen)), that is exp of the mean of window
// means.
//
// llama.cpp: the rules of its perplexity tool (tools/perplexity/perplexity.cpp). Windows as above;
// the first token of each is overwritten by begin-of-text if the tokenizer adds one; only the
// second half of a window is scored (targets n/2 + 1 .. n - 1); perplexity = exp(mean over all
// scored tokens); at least two windows.
//
// Standard errors. gptq: of the window means, since tokens of one window are not independent;
// llama.cpp: of the tokens, as its tool prints. For perplexity by the delta method, ppl *
// se(ln ppl).
#ifndef HARROW_EVAL_PERPLEXITY_H_
#define HARROW_EVAL_PERPLEXITY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/eval.h"
#include "harrow/run_control.h"

namespace harrow {

// NLL in nats of window[1..n), given what stands before each in the window.
using WindowScorer = std::function<Result<std::vector<double>>(const std::vector<int32_t>& window)>;

struct PerplexityProblem {
  std::string protocol = "gptq";
  int64_t seqlen = 0;       // > 0
  int64_t max_windows = 0;  // 0: all
  int32_t bos_id = -1;      // -1: the tokenizer adds none
};

// The windows that a protocol scores, as begin offsets are multiples of seqlen: how many there are.
// Fails when the text is too short, saying how many tokens are needed.
Result<int64_t> CountWindows(int64_t tokens, const PerplexityProblem& problem);

// Fills protocol, ppl, nll, both standard errors, seqlen, windows, tokens, scored_tokens and bos.
Result<PerplexityReport> ComputePerplexity(const std::vector<int32_t>& ids,
                                           const PerplexityProblem& problem,
                                           const WindowScorer& scorer, const RunControl* control);

// `options.seqlen` or its default, checked against the model's context.
Result<int64_t> ResolveSeqlen(int64_t seqlen, const std::string& protocol,
                              const LoadedModel& model);

Result<PerplexityReport> MeasurePerplexity(const LoadedModel& model,
                                           const PerplexityOptions& options,
                                           const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_PERPLEXITY_H_
