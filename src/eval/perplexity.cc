#include "eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/statistics.h"
#include "runtime/session.h"

namespace harrow {
namespace {

constexpr const char* kGptq = "gptq";
constexpr const char* kLlamaCpp = "llama.cpp";

Status CheckProtocol(const std::string& protocol) {
  if (protocol == kGptq || protocol == kLlamaCpp) return OkStatus();
  return InvalidArgument("--protocol: '{}' is unknown; it may be {} or {}", protocol, kGptq,
                         kLlamaCpp);
}

}  // namespace

Result<int64_t> CountWindows(int64_t tokens, const PerplexityProblem& problem) {
  HARROW_RETURN_IF_ERROR(CheckProtocol(problem.protocol));
  const int64_t least_seqlen = problem.protocol == kLlamaCpp ? 4 : 2;
  if (problem.seqlen < least_seqlen) {
    return InvalidArgument("--seqlen: {} is too short; protocol {} needs at least {} tokens",
                           problem.seqlen, problem.protocol, least_seqlen);
  }
  const int64_t least_windows = problem.protocol == kLlamaCpp ? 2 : 1;
  const int64_t windows = tokens / problem.seqlen;
  if (windows < least_windows) {
    return InvalidArgument(
        "the text has {} tokens; protocol {} with --seqlen {} needs at least {} ({} window{})",
        tokens, problem.protocol, problem.seqlen, least_windows * problem.seqlen, least_windows,
        least_windows == 1 ? "" : "s");
  }
  return problem.max_windows > 0 ? std::min(windows, problem.max_windows) : windows;
}

Result<PerplexityReport> ComputePerplexity(const std::vector<int32_t>& ids,
                                           const PerplexityProblem& problem,
                                           const WindowScorer& scorer, const RunControl* control) {
  HARROW_ASSIGN_OR_RETURN(const int64_t windows,
                          CountWindows(static_cast<int64_t>(ids.size()), problem));
  const bool llama_cpp = problem.protocol == kLlamaCpp;
  const int64_t seqlen = problem.seqlen;
  // Targets [first_target, seqlen) of a window are scored.
  const int64_t first_target = llama_cpp ? seqlen / 2 + 1 : 1;

  std::vector<double> samples;  // gptq: window means; llama.cpp: tokens
  std::vector<int32_t> window(seqlen);
  for (int64_t w = 0; w < windows; ++w) {
    if (control != nullptr) {
      if (control->Cancelled()) return Status(StatusCode::kCancelled, "perplexity interrupted");
      control->Progress("perplexity: windows", w, windows);
    }
    std::copy_n(ids.begin() + w * seqlen, seqlen, window.begin());
    if (llama_cpp && problem.bos_id >= 0) window[0] = problem.bos_id;
    HARROW_ASSIGN_OR_RETURN(const std::vector<double> nll, scorer(window));
    double sum = 0;
    for (int64_t target = first_target; target < seqlen; ++target) {
      const double value = nll[target - 1];
      if (!std::isfinite(value)) {
        return Error(StatusCode::kNumerical, "window {}, token {}: NLL is {}", w, target, value);
      }
      sum += value;
      if (llama_cpp) samples.push_back(value);
    }
    if (!llama_cpp) samples.push_back(sum / static_cast<double>(seqlen - 1));
  }
  if (control != nullptr) control->Progress("perplexity: windows", windows, windows);

  PerplexityReport report;
  report.protocol = problem.protocol;
  report.nll = Mean(samples);
  report.nll_stderr = StandardError(samples);
  report.ppl = std::exp(report.nll);
  if (report.nll_stderr) report.ppl_stderr = report.ppl * *report.nll_stderr;
  report.seqlen = seqlen;
  report.windows = windows;
  report.tokens = static_cast<int64_t>(ids.size());
  report.scored_tokens = windows * (seqlen - first_target);
  report.bos = problem.bos_id < 0 ? "none" : llama_cpp ? "every window" : "first window";
  return report;
}

Result<int64_t> ResolveSeqlen(int64_t seqlen, const std::string& protocol,
                              const LoadedModel& model) {
  const int64_t context = model.model->config().max_context;
  if (seqlen == 0) return std::min<int64_t>(context, protocol == kLlamaCpp ? 512 : 2048);
  if (seqlen < 2 || seqlen > context) {
    return InvalidArgument("--seqlen: {} is not in 2 .. {} (the model's context)", seqlen, context);
  }
  return seqlen;
}

Result<PerplexityReport> MeasurePerplexity(const LoadedModel& model,
                                           const PerplexityOptions& options,
                                           const RunControl* control) {
  HARROW_RETURN_IF_ERROR(CheckProtocol(options.protocol));
  PerplexityProblem problem;
  problem.protocol = options.protocol;
  problem.max_windows = options.limit;
  HARROW_ASSIGN_OR_RETURN(problem.seqlen, ResolveSeqlen(options.seqlen, options.protocol, model));
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options.ppl));
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          Tokenize(model, text, SpecialTokens::kModelDefault));
  if (model.tokenizer->adds_bos()) problem.bos_id = model.tokenizer->bos_id();

  HARROW_ASSIGN_OR_RETURN(const KvType cache_type,
                          ResolveCacheType(options.cache_type, model.model->config()));
  Session session(model.model.get(), model.pool.get(),
                  {.max_tokens = problem.seqlen, .cache_type = cache_type});
  const auto scorer = [&](const std::vector<int32_t>& window) {
    session.Reset();
    Result<std::vector<double>> nll = ScoreTokens(&session, window);
    if (!nll.ok()) return Result<std::vector<double>>(BlameWeights(model, nll.status()));
    return nll;
  };
  const auto start = std::chrono::steady_clock::now();
  Result<PerplexityReport> report = ComputePerplexity(ids, problem, scorer, control);
  if (!report.ok()) return AtText(report.status(), options.ppl);
  report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report->file = options.ppl;
  report->cache_type = options.cache_type;
  report->text_bytes = text.size();
  report->text_hash = TextHash(text);
  report->tokenizer = model.TokenizerKind();
  report->kernels = model.model->KernelNames(std::min<int64_t>(problem.seqlen, 512));
  report->threads = model.pool->size();
  return report;
}

}  // namespace harrow
