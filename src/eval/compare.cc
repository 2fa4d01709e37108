#include "eval/compare.h"

#include <algorithm>
#include <cmath>

#include "base/statistics.h"
#include "eval/divergence.h"
#include "eval/perplexity.h"
#include "eval/speed.h"
#include "runtime/session.h"

namespace harrow {
namespace {

CompareSide DescribeSide(const LoadedModel& model, const CompareOptions& options) {
  CompareSide side;
  side.path = model.path;
  side.formats = model.Formats();
  side.disk_bytes = model.DiskBytes();
  side.resident_bytes = model.model->ResidentBytes();
  if (options.n_prompt > 0) side.kernels_prefill = model.model->KernelNames(options.n_prompt);
  if (options.n_gen > 0) side.kernels_decode = model.model->KernelNames(1);
  return side;
}

void SetPerplexity(const std::vector<double>& window_nll, CompareSide* side) {
  side->ppl = std::exp(Mean(window_nll));
  if (const auto error = StandardError(window_nll)) side->ppl_stderr = *side->ppl * *error;
}

// The sparse model's own tokenizer, where it has one, must agree with `ids`: another vocabulary
// would make every likelihood of the comparison meaningless.
Status CheckSameIds(const LoadedModel& dense, const LoadedModel& sparse, std::string_view text,
                    const std::vector<int32_t>& ids) {
  if (sparse.tokenizer == nullptr) return OkStatus();
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> other,
                          Tokenize(sparse, text, SpecialTokens::kModelDefault));
  if (other == ids) return OkStatus();
  const size_t common = std::min(ids.size(), other.size());
  const auto first = std::mismatch(ids.begin(), ids.begin() + common, other.begin()).first;
  const auto index = static_cast<size_t>(first - ids.begin());
  const std::string where =
      index < common ? fmt::format("token {} is {}, not {}", index, other[index], ids[index])
                     : fmt::format("{} tokens, not {}", other.size(), ids.size());
  return InvalidArgument("{}: its tokenizer differs from that of {}: {}", sparse.path, dense.path,
                         where);
}

Status AddAccuracy(const LoadedModel& dense, const LoadedModel& sparse,
                   const CompareOptions& options, const RunControl* control,
                   CompareReport* report) {
  HARROW_ASSIGN_OR_RETURN(report->seqlen, ResolveSeqlen(options.seqlen, "gptq", dense));
  HARROW_RETURN_IF_ERROR(ResolveSeqlen(report->seqlen, "gptq", sparse).status());
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(options.text));
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          Tokenize(dense, text, SpecialTokens::kModelDefault));
  if (const Status same = CheckSameIds(dense, sparse, text, ids); !same.ok()) {
    return same.At(options.text);
  }
  HARROW_ASSIGN_OR_RETURN(const KvType cache_type,
                          ResolveCacheType(options.cache_type, sparse.model->config()));
  Result<DivergenceReport> measured =
      MeasureDivergence(dense, sparse, ids, report->seqlen, options.limit, control, cache_type);
  if (!measured.ok()) return AtText(measured.status(), options.text);

  report->cache_type = options.cache_type;
  report->windows = measured->windows;
  report->bos = dense.tokenizer->adds_bos() ? "first window" : "none";
  report->text_hash = TextHash(text);
  SetPerplexity(measured->nll_p, &report->dense);
  SetPerplexity(measured->nll_q, &report->sparse);
  std::vector<double> delta(measured->nll_p.size());
  std::transform(measured->nll_q.begin(), measured->nll_q.end(), measured->nll_p.begin(),
                 delta.begin(), [](double q, double p) { return q - p; });
  report->delta_nll = Mean(delta);
  report->delta_nll_stderr = StandardError(delta);
  report->kl = Mean(measured->kl);
  report->kl_stderr = StandardError(measured->kl);
  report->top1_agreement = Mean(measured->agreement);
  report->top1_agreement_stderr = StandardError(measured->agreement);
  report->accuracy = "measured";
  return OkStatus();
}

Status AddSpeed(const LoadedModel& dense, const LoadedModel& sparse, const CompareOptions& options,
                const RunControl* control, CompareReport* report) {
  SpeedPlan plan;
  plan.n_prompt = options.n_prompt;
  plan.n_gen = options.n_gen;
  plan.repetitions = options.repetitions;
  plan.min_seconds = options.min_seconds;
  HARROW_ASSIGN_OR_RETURN(const std::vector<SpeedSamples> samples,
                          MeasureSpeed({&dense, &sparse}, plan, nullptr, control));
  if (options.n_prompt > 0) {
    report->dense.prefill_tps = Median(samples[0].prefill_tps);
    report->sparse.prefill_tps = Median(samples[1].prefill_tps);
    const RatioSpread prefill = SpreadOfRatios(samples[1].prefill_tps, samples[0].prefill_tps);
    report->prefill_speedup = prefill.median;
    report->prefill_speedup_low = prefill.low;
    report->prefill_speedup_high = prefill.high;
    report->prefill_verdict = SpeedVerdict(prefill, options.repetitions);
  }
  if (options.n_gen > 0) {
    report->dense.decode_tps = Median(samples[0].decode_tps);
    report->sparse.decode_tps = Median(samples[1].decode_tps);
    const RatioSpread decode = SpreadOfRatios(samples[1].decode_tps, samples[0].decode_tps);
    report->decode_speedup = decode.median;
    report->decode_speedup_low = decode.low;
    report->decode_speedup_high = decode.high;
    report->decode_verdict = SpeedVerdict(decode, options.repetitions);
  }
  report->n_prompt = options.n_prompt;
  report->n_gen = options.n_gen;
  report->repetitions = options.repetitions;
  report->min_seconds = options.min_seconds;
  return OkStatus();
}

}  // namespace

Result<CompareReport> CompareModels(const LoadedModel& dense, const LoadedModel& sparse,
                                    const CompareOptions& requested, const RunControl* control) {
  // The defaults of a speed measurement shrink to a small model's context.
  CompareOptions options = requested;
  const int64_t context =
      std::min(dense.model->config().max_context, sparse.model->config().max_context);
  options.n_prompt = std::min(options.n_prompt, context);
  options.n_gen = std::min(options.n_gen, context);

  CompareReport report;
  report.dense = DescribeSide(dense, options);
  report.sparse = DescribeSide(sparse, options);
  report.disk_ratio =
      static_cast<double>(report.sparse.disk_bytes) / static_cast<double>(report.dense.disk_bytes);
  report.resident_ratio = static_cast<double>(report.sparse.resident_bytes) /
                          static_cast<double>(report.dense.resident_bytes);
  report.threads = dense.pool->size();
  if (options.text.empty()) {
    report.accuracy = "not measured: no --text";
  } else {
    HARROW_RETURN_IF_ERROR(AddAccuracy(dense, sparse, options, control, &report));
  }
  HARROW_RETURN_IF_ERROR(AddSpeed(dense, sparse, options, control, &report));
  return report;
}

}  // namespace harrow
