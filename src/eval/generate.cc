#include "eval/generate.h"

#include <cmath>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "kernels/attention.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

namespace harrow {
namespace {

// Exactly one of text, file and ids, as token ids.
Result<std::vector<int32_t>> InputIds(const LoadedModel& model, const char* text_flag,
                                      const std::string& text, const std::string& file,
                                      const std::vector<int32_t>& ids) {
  const int given = (text.empty() ? 0 : 1) + (file.empty() ? 0 : 1) + (ids.empty() ? 0 : 1);
  if (given != 1) return InvalidArgument("give exactly one of {}, --file and --ids", text_flag);
  if (!ids.empty()) return ids;
  if (!text.empty()) return Tokenize(model, text, SpecialTokens::kModelDefault);
  HARROW_ASSIGN_OR_RETURN(const std::string content, ReadText(file));
  return Tokenize(model, content, SpecialTokens::kModelDefault);
}

std::vector<int32_t> StopIds(const LoadedModel& model) {
  std::vector<int32_t> ids;
  for (int64_t id : model.model->hf_config().eos_token_ids) {
    ids.push_back(static_cast<int32_t>(id));
  }
  if (model.tokenizer != nullptr && model.tokenizer->eos_id() >= 0) {
    ids.push_back(model.tokenizer->eos_id());
  }
  return ids;
}

std::optional<double> Rate(int64_t tokens, double seconds) {
  if (tokens <= 0 || seconds <= 0) return std::nullopt;
  return static_cast<double>(tokens) / seconds;
}

}  // namespace

Result<GenerateReport> GenerateText(const LoadedModel& model, const GenerateOptions& options,
                                    const std::function<void(std::string_view)>& on_output,
                                    const RunControl* control) {
  SamplerOptions sampling;
  sampling.temperature = static_cast<float>(options.temp);
  sampling.top_k = options.top_k;
  sampling.top_p = static_cast<float>(options.top_p);
  sampling.min_p = static_cast<float>(options.min_p);
  sampling.seed = options.seed;
  HARROW_RETURN_IF_ERROR(ValidateSamplerOptions(sampling));
  const int64_t limit = model.model->config().max_context;
  const int64_t context = options.ctx_size == 0 ? limit : options.ctx_size;
  if (context > limit) {
    return InvalidArgument("--ctx-size: {} is not in 1 .. {} (the model's context)", context,
                           limit);
  }
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                          InputIds(model, "--prompt", options.prompt, options.file, options.ids));
  if (prompt.empty()) return InvalidArgument("the prompt has no tokens");
  const int64_t prompt_tokens = static_cast<int64_t>(prompt.size());
  if (prompt_tokens >= context) {
    return InvalidArgument("the prompt has {} tokens; the context of {} leaves no room to go on",
                           prompt_tokens, context);
  }

  HARROW_ASSIGN_OR_RETURN(const KvType cache_type,
                          ResolveCacheType(options.cache_type, model.model->config()));

  const bool as_text = options.ids.empty();
  std::optional<StreamingDetokenizer> detokenizer;
  if (as_text) detokenizer.emplace(model.tokenizer);
  const std::vector<int32_t> stop_ids = StopIds(model);
  GenerateReport report;
  const auto emit = [&](const std::string& piece) {
    if (piece.empty()) return;
    if (as_text) report.text += piece;
    if (on_output) on_output(piece);
  };
  const auto on_token = [&](int32_t id) {
    report.ids.push_back(id);
    if (as_text) {
      emit(detokenizer->Push(id));
    } else {
      emit(fmt::format("{}{}", report.ids.size() == 1 ? "" : ",", id));
    }
    return true;
  };

  Session session(model.model.get(), model.pool.get(),
                  {.max_tokens = context, .batch = options.batch_size, .cache_type = cache_type});
  Sampler sampler(sampling);
  const Result<GenerateStats> generated =
      Generate(&session, prompt, options.n_predict,
               options.ignore_eos ? std::vector<int32_t>() : stop_ids, &sampler, on_token, control);
  if (!generated.ok()) return BlameWeights(model, generated.status());
  const GenerateStats& stats = *generated;
  if (as_text) emit(detokenizer->Flush());
  if (control != nullptr && control->Cancelled()) {
    return Status(StatusCode::kCancelled, "generation interrupted");
  }

  report.prompt_tokens = stats.prompt_tokens;
  report.new_tokens = stats.new_tokens;
  report.prefill_tps = Rate(stats.prompt_tokens, stats.prefill_seconds);
  report.decode_tps = Rate(stats.new_tokens - 1, stats.decode_seconds);
  // Every new token is appended before the next is drawn, but the last of a full context.
  const bool full = stats.prompt_tokens + stats.new_tokens > session.position();
  report.stop_reason = stats.new_tokens >= options.n_predict ? "length" : full ? "context" : "eos";
  report.kernels = model.model->KernelNames(1);
  report.kernels.emplace_back(AttentionKernelName(cache_type));
  report.cache_type = options.cache_type;
  report.threads = model.pool->size();
  return report;
}

Result<ScoreReport> ScoreText(const LoadedModel& model, const ScoreOptions& options) {
  ScoreReport report;
  HARROW_ASSIGN_OR_RETURN(report.ids,
                          InputIds(model, "--text", options.text, options.file, options.ids));
  report.tokens = static_cast<int64_t>(report.ids.size());
  const int64_t context = model.model->config().max_context;
  if (report.tokens > context) {
    return InvalidArgument(
        "the input has {} tokens, more than the model's context of {}; `harrow eval --ppl` scores "
        "long texts in windows",
        report.tokens, context);
  }
  if (report.ids.empty()) return report;
  Session session(model.model.get(), model.pool.get(), {.max_tokens = report.tokens});
  const Result<std::vector<double>> nll = ScoreTokens(&session, report.ids);
  if (!nll.ok()) return BlameWeights(model, nll.status());
  report.nll.push_back(std::nullopt);
  report.nll.insert(report.nll.end(), nll->begin(), nll->end());
  if (!nll->empty()) {
    report.mean_nll = Mean(*nll);
    report.ppl = std::exp(*report.mean_nll);
  }
  return report;
}

}  // namespace harrow
