#include <fmt/format.h>
#include <fmt/ranges.h>

#include "eval/frontier.h"
#include "eval/page.h"
#include "eval/study.h"

namespace harrow {
namespace {

std::string GroupOf(const StudyPoint& point) {
  return point.kind != "recipe" ? "points to beat" : FormOf(point);
}

std::string Error(const std::optional<double>& value, int digits) {
  return value ? fmt::format(" ± {:.{}f}", *value, digits) : "";
}

std::string DominatedIn(const StudyPoint& point) {
  std::string text;
  const auto add = [&text](const char* cost, const std::vector<std::string>& by) {
    if (!by.empty())
      text += fmt::format("{}{} (by {})", text.empty() ? "" : "; ", cost, by.front());
  };
  add("bytes", point.dominated_bytes);
  add("decode", point.dominated_decode);
  add("prefill", point.dominated_prefill);
  return text.empty() ? "-" : text;
}

}  // namespace

std::string StudyPage(const StudyReport& report) {
  struct Axis {
    const char* title;
    const char* label;
    double (*of)(const StudyPoint&);
    std::vector<std::string> StudyPoint::*dominators;
  };
  constexpr Axis kAxes[] = {
      {"bytes a token", "bytes of weights a decoded token reads",
       [](const StudyPoint& p) { return static_cast<double>(p.bytes_per_token); },
       &StudyPoint::dominated_bytes},
      {"bits a weight", "stored bits a linear weight of the blocks",
       [](const StudyPoint& p) { return p.bits_per_weight; }, &StudyPoint::dominated_bytes},
      {"decode time", "time a generated token / dense",
       [](const StudyPoint& p) { return p.decode_time_ratio; }, &StudyPoint::dominated_decode},
      {"prefill time", "time a prompt token / dense",
       [](const StudyPoint& p) { return p.prefill_time_ratio; }, &StudyPoint::dominated_prefill},
  };
  Page page;
  page.title = fmt::format("Study of {}", report.model);
  page.paragraphs.push_back(fmt::format(
      "{} windows of {} tokens of {} (XXH3-64 {}), protocol gptq. Times: median of repetitions "
      "paired with the model as it is, prefill of {} and decode of {} tokens, {} threads, {}.",
      report.windows, report.seqlen, report.text, report.text_hash, report.n_prompt, report.n_gen,
      report.threads, report.cpu));
  page.paragraphs.push_back(
      "Hollow points are dominated: another has no more cost and no more KL, and less of one. "
      "Points of no KL (the model as it is) are not on a logarithmic axis.");
  for (const std::string& verdict : report.verdicts)
    page.paragraphs.push_back(verdict);
  for (const std::string& note : report.notes)
    page.paragraphs.push_back("Note: " + note);
  for (const Axis& axis : kAxes) {
    Chart kl{.title = fmt::format("KL against {}", axis.title),
             .x_label = axis.label,
             .y_label = "KL(dense || point), nats a token",
             .log_y = true};
    Chart ppl{.title = fmt::format("Perplexity against {}", axis.title),
              .x_label = axis.label,
              .y_label = "perplexity increase"};
    for (const StudyPoint& point : report.points) {
      const bool dominated = !(point.*axis.dominators).empty();
      kl.points.push_back({point.name, GroupOf(point), axis.of(point), point.kl, dominated});
      ppl.points.push_back(
          {point.name, GroupOf(point), axis.of(point), point.ppl_increase, dominated});
    }
    page.charts.push_back(std::move(kl));
    page.charts.push_back(std::move(ppl));
  }
  PageTable table{"All points",
                  {{"point", "zeros", "bits/weight", "disk bytes", "bytes/token", "perplexity",
                    "increase", "KL", "top-1", "tasks", "decode tok/s", "decode time",
                    "prefill tok/s", "prefill time", "dominated in", "methods", "formats"}}};
  for (const StudyPoint& p : report.points) {
    table.rows.push_back(
        {p.name, fmt::format("{:.4f}", p.sparsity), fmt::format("{:.3f}", p.bits_per_weight),
         fmt::format("{}", p.disk_bytes), fmt::format("{}", p.bytes_per_token),
         fmt::format("{:.4f}", p.ppl) + Error(p.ppl_stderr, 4),
         fmt::format("{:+.2f} %", 100 * p.ppl_increase),
         fmt::format("{:.6f}", p.kl) + Error(p.kl_stderr, 6),
         fmt::format("{:.4f}", p.top1_agreement),
         p.task_accuracy
             ? fmt::format("{:.4f}", *p.task_accuracy) + Error(p.task_accuracy_stderr, 4)
             : "-",
         fmt::format("{:.1f}", p.decode_tps),
         TimeText(p.decode_time_ratio, p.decode_time_low, p.decode_time_high),
         fmt::format("{:.1f}", p.prefill_tps),
         TimeText(p.prefill_time_ratio, p.prefill_time_low, p.prefill_time_high), DominatedIn(p),
         fmt::format("{}", fmt::join(p.methods, ", ")),
         fmt::format("{}", fmt::join(p.formats, ", "))});
  }
  page.tables.push_back(std::move(table));
  if (!report.failures.empty()) {
    PageTable failures{"Recipes without a point", {{"recipe", "error"}}};
    for (const StudyFailure& failure : report.failures)
      failures.rows.push_back({failure.recipe, failure.error});
    page.tables.push_back(std::move(failures));
  }
  return RenderPage(page);
}

}  // namespace harrow
