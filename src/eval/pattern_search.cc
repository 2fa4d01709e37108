#include "eval/pattern_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/atomic_file.h"
#include "base/rng.h"
#include "base/statistics.h"
#include "compress/layer_trials.h"
#include "compress/methods/selection.h"
#include "eval/page.h"
#include "eval/sensitivity.h"

namespace harrow {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kUnstructured[] = "unstructured";
constexpr int64_t kPrefillTokens = 128;
constexpr int kRounds = 7;
constexpr double kMeasureSeconds = 1e-3;  // that one round measures a weight for, at least
constexpr double kByteTolerance = 0.005;  // of the budget
constexpr double kMissedBudget = 0.02;    // of the budget, that is worth a note
constexpr double kSparsityStep = 1e-4;    // that a search for a budget ends at
constexpr int kTries = 12;                // compressions of such a search, at most

double Seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Median seconds of one product of each weight with m tokens, measured in turn, in alternating
// order.
std::vector<double> MeasureProducts(const std::vector<const LinearWeight*>& weights, int64_t m,
                                    ThreadPool* pool) {
  const int64_t cols = weights.front()->cols;
  const int64_t rows = weights.front()->rows;
  AlignedArray<float> x(static_cast<size_t>(m * cols));
  AlignedArray<float> y(static_cast<size_t>(m * rows));
  Rng rng(1);
  for (float& value : x)
    value = static_cast<float>(rng.Normal());
  const std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch(NewLinearScratch());
  const LinearContext context = {pool, scratch.get()};
  const auto product = [&](const LinearWeight& weight) {
    const LinearOp op = {&weight, y.data(), rows};
    Linear(context, std::span<const LinearOp>(&op, 1), x.data(), cols, m, cols);
  };
  std::vector<std::vector<double>> samples(weights.size());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t step = 0; step < weights.size(); ++step) {
      const size_t i = round % 2 == 0 ? step : weights.size() - 1 - step;
      product(*weights[i]);  // brings the weight into the cache, where it fits
      const auto start = Clock::now();
      // Each product by itself: the median is then not moved by those that were interrupted.
      double before = 0;
      while (before < kMeasureSeconds) {
        product(*weights[i]);
        const double now = Seconds(start);
        samples[i].push_back(now - before);
        before = now;
      }
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& sample : samples)
    medians.push_back(Median(std::move(sample)));
  return medians;
}

struct Candidate {
  PatternPoint point;
  LinearWeight weight;
  bool unpruned = false;     // the sparsity is less than one block
  bool equal_bytes = false;  // stands for its pattern and method in equal_bytes
};

class Search {
 public:
  Search(const LoadedModel& loaded, const PatternOptions& options, const RunControl* control)
      : loaded_(loaded), options_(options), control_(control) {}

  Result<PatternReport> Run();

 private:
  Status FindLayer();
  Status FindMethods();
  Result<std::unique_ptr<const Trial>> Variant(const std::string& method,
                                               const std::string& pattern,
                                               std::optional<double> sparsity,
                                               bool* unpermuted = nullptr) const;
  // Compresses once; failures of the method become notes.
  Result<std::optional<Candidate>> Try(const std::string& method, const std::string& pattern,
                                       std::optional<double> sparsity);
  Status TryPattern(const std::string& method, const std::string& pattern);
  void NoteMissedBudget(const Candidate& candidate);
  void MeasureTimes();
  void FindEqualTimes();

  const LoadedModel& loaded_;
  const PatternOptions& options_;
  const RunControl* control_;
  const LinearLayer* layer_ = nullptr;
  int32_t block_ = 0;
  std::optional<CalibrationSpec> calibration_;
  std::vector<std::string> methods_;
  std::unique_ptr<LayerTrials> trials_;
  std::vector<Candidate> candidates_;
  PatternReport report_;
};

Status Search::FindLayer() {
  std::string names;
  for (int32_t b = 0; b < loaded_.model->config().layers; ++b) {
    for (const LinearLayer* linear : std::as_const(*loaded_.model).blocks()[b].linears()) {
      if (names.empty()) names = linear->name;
      if (!MatchesExactly(options_.layer, linear->name)) continue;
      layer_ = linear;
      block_ = b;
    }
  }
  if (layer_ == nullptr) {
    return InvalidArgument("--layer: \"{}\" is no linear weight of a block; they look like {}",
                           options_.layer, names);
  }
  return OkStatus();
}

Result<std::unique_ptr<const Trial>> Search::Variant(const std::string& method,
                                                     const std::string& pattern,
                                                     std::optional<double> sparsity,
                                                     bool* unpermuted) const {
  TrialRecipe recipe;
  recipe.step = fmt::format("{{method: {}}}", method);
  recipe.pattern = pattern == kUnstructured ? "" : pattern;
  recipe.sparsity = sparsity;
  recipe.then = options_.then;
  recipe.calibration = calibration_;
  recipe.output_error = true;
  Result<std::unique_ptr<const Trial>> trial = MakeTrial(recipe, *loaded_.model);
  if (trial.ok() || trial.status().code() != StatusCode::kUnsupported) return trial;
  // A method that by default changes other weights too is tried without that.
  recipe.step = fmt::format("{{method: {}, permute: none}}", method);
  Result<std::unique_ptr<const Trial>> alone = MakeTrial(recipe, *loaded_.model);
  if (!alone.ok()) return trial;
  if (unpermuted != nullptr) *unpermuted = true;
  return alone;
}

// Those asked for, or every one that can be asked for a sparsity by itself.
Status Search::FindMethods() {
  const std::vector<std::string> able = SparsityMethods();
  // What the first of them does not take either is the fault of the step that follows.
  if (const Status status = Variant(able.front(), kUnstructured, 0.5).status(); !status.ok()) {
    return options_.then.empty() ? status : status.At("--then");
  }
  for (const std::string& name : options_.methods.empty() ? able : options_.methods) {
    const Status status = Variant(name, kUnstructured, 0.5).status();
    if (status.ok()) {
      methods_.push_back(name);
    } else if (!options_.methods.empty()) {
      return status.At("--methods: " + name);
    }
  }
  return OkStatus();
}

Result<std::optional<Candidate>> Search::Try(const std::string& method, const std::string& pattern,
                                             std::optional<double> sparsity) {
  if (control_ != nullptr && control_->Cancelled()) {
    return Status(StatusCode::kCancelled, "pattern search interrupted");
  }
  const auto note = [&](const Status& status) {
    report_.notes.push_back(fmt::format("{}, {}: {}", method, pattern, status.message()));
    return std::optional<Candidate>();
  };
  bool unpermuted = false;
  const Result<std::unique_ptr<const Trial>> trial =
      Variant(method, pattern, sparsity, &unpermuted);
  if (!trial.ok()) return note(trial.status());
  Result<CompressedLayer> compressed = trials_->Compress(**trial, *layer_);
  if (!compressed.ok()) {
    if (compressed.status().code() == StatusCode::kCancelled) return compressed.status();
    return note(compressed.status());
  }
  Candidate candidate;
  candidate.weight = std::move(compressed->weight);
  candidate.unpruned = compressed->report.requested_sparsity && compressed->report.sparsity == 0;
  PatternPoint& point = candidate.point;
  point.pattern = pattern;
  point.method = method;
  if (unpermuted) point.method += " (permute: none)";
  point.spec = compressed->report.spec;
  point.sparsity = compressed->report.requested_sparsity.value_or(compressed->report.sparsity);
  point.relative_error = compressed->report.relative_error.value_or(NAN);
  point.bytes = compressed->report.bytes;
  point.bytes_ratio =
      static_cast<double>(point.bytes) / static_cast<double>(layer_->weight.data.size());
  for (const std::string& warning : compressed->report.warnings)
    report_.notes.push_back(fmt::format("{}, {}: {}", method, pattern, warning));
  return std::optional<Candidate>(std::move(candidate));
}

Status Search::TryPattern(const std::string& method, const std::string& pattern) {
  bool fixed = false;
  double smallest = 1;  // weights that are pruned together
  if (pattern != kUnstructured) {
    const Result<Pattern> parsed = ParsePattern(pattern);
    if (!parsed.ok()) return parsed.status().At("--pattern-list");
    fixed = parsed->nm.has_value();
    if (parsed->block) smallest = parsed->block->rows * parsed->block->cols;
  }
  std::vector<std::optional<double>> sparsities(options_.sparsity.begin(), options_.sparsity.end());
  if (fixed) sparsities = {std::nullopt};
  std::sort(sparsities.begin(), sparsities.end());
  // Of what was tried, the least sparse that fits; an index into candidates_.
  std::optional<size_t> best;
  std::vector<RatioAt> known;
  const auto keep = [&](Candidate candidate) {
    const PatternPoint& point = candidate.point;
    known.push_back({point.sparsity, point.bytes_ratio});
    if (candidate.unpruned) return;
    const bool fits = point.bytes_ratio <= options_.bytes_ratio * (1 + kByteTolerance);
    if (fits && (!best || point.sparsity < candidates_[*best].point.sparsity)) {
      best = candidates_.size();
    }
    candidates_.push_back(std::move(candidate));
  };
  for (const std::optional<double>& sparsity : sparsities) {
    HARROW_ASSIGN_OR_RETURN(std::optional<Candidate> candidate, Try(method, pattern, sparsity));
    if (!candidate) return OkStatus();  // noted; it will not do better at another sparsity
    if (candidate->unpruned) {
      report_.notes.push_back(
          fmt::format("{}, {}: a sparsity of {} is less than one block; nothing is pruned", method,
                      pattern, candidate->point.sparsity));
    }
    keep(std::move(*candidate));
  }
  if (!fixed) {
    HARROW_RETURN_IF_ERROR(ApproachBudget(
        options_.bytes_ratio, kByteTolerance,
        std::max(kSparsityStep, smallest / static_cast<double>(layer_->rows * layer_->cols)), known,
        [&](double sparsity) -> Result<std::optional<double>> {
          HARROW_ASSIGN_OR_RETURN(std::optional<Candidate> candidate,
                                  Try(method, pattern, sparsity));
          if (!candidate) return std::optional<double>();
          const double ratio = candidate->point.bytes_ratio;
          keep(std::move(*candidate));
          return std::optional<double>(ratio);
        }));
  }
  if (best) {
    candidates_[*best].equal_bytes = true;
    NoteMissedBudget(candidates_[*best]);
  } else if (!fixed) {
    report_.notes.push_back(fmt::format("{}, {}: no sparsity found that takes {:.3f} of the bytes",
                                        method, pattern, options_.bytes_ratio));
  }
  return OkStatus();
}

// "Equal bytes" that are not: a pattern that cannot take as much, as sparse formats hold narrower
// values than the weight, or can only take steps.
void Search::NoteMissedBudget(const Candidate& candidate) {
  const PatternPoint& point = candidate.point;
  if (point.bytes_ratio >= options_.bytes_ratio * (1 - kMissedBudget)) return;
  std::string note =
      fmt::format("{}, {}: takes {:.3f} of the bytes at a sparsity of {}, not {:.3f}", point.method,
                  point.pattern, point.bytes_ratio, point.sparsity, options_.bytes_ratio);
  if (candidate.weight.spec.values != layer_->weight.spec.values) {
    note += fmt::format("; it is stored as {}, the weight as it is as {}", point.spec,
                        SpecName(layer_->weight.spec));
  }
  report_.notes.push_back(std::move(note));
}

void Search::MeasureTimes() {
  std::vector<const LinearWeight*> weights = {&layer_->weight};
  for (const Candidate& candidate : candidates_)
    weights.push_back(&candidate.weight);
  const std::vector<double> decode = MeasureProducts(weights, 1, loaded_.pool.get());
  const std::vector<double> prefill = MeasureProducts(weights, kPrefillTokens, loaded_.pool.get());
  const auto set = [&](PatternPoint* point, size_t i) {
    point->decode_us = decode[i] * 1e6;
    point->decode_ratio = decode[i] / decode[0];
    point->prefill_us = prefill[i] * 1e6;
    point->prefill_ratio = prefill[i] / prefill[0];
  };
  PatternPoint dense;
  dense.pattern = "as it is";
  dense.spec = SpecName(layer_->weight.spec);
  dense.bytes = layer_->weight.data.size();
  dense.bytes_ratio = 1;
  set(&dense, 0);
  report_.points.push_back(std::move(dense));
  for (size_t i = 0; i < candidates_.size(); ++i) {
    set(&candidates_[i].point, i + 1);
    report_.points.push_back(candidates_[i].point);
    if (candidates_[i].equal_bytes) report_.equal_bytes.push_back(candidates_[i].point);
  }
}

void Search::FindEqualTimes() {
  std::map<std::pair<std::string, std::string>, std::vector<PatternPoint>> curves;
  for (const Candidate& candidate : candidates_)
    curves[{candidate.point.method, candidate.point.pattern}].push_back(candidate.point);
  const auto find = [&](const std::vector<PatternPoint>& points, double PatternPoint::*ratio,
                        int64_t tokens, std::vector<PatternPoint>* rows) {
    auto point = AtBudget(points, ratio, options_.time_ratio);
    std::string note = NoteOnBudget(points, point, ratio, options_.time_ratio);
    if (!point) {
      report_.notes.push_back(fmt::format("{}, {}: with {} token{} {}", points.front().method,
                                          points.front().pattern, tokens, tokens == 1 ? "" : "s",
                                          note));
      return;
    }
    point->note = std::move(note);
    rows->push_back(std::move(*point));
  };
  for (const auto& [name, points] : curves) {
    find(points, &PatternPoint::decode_ratio, 1, &report_.equal_decode);
    find(points, &PatternPoint::prefill_ratio, kPrefillTokens, &report_.equal_prefill);
  }
}

Result<PatternReport> Search::Run() {
  const auto start = Clock::now();
  HARROW_RETURN_IF_ERROR(FindLayer());
  HARROW_ASSIGN_OR_RETURN(calibration_, ReadLayerCalibration(options_.calibration));
  if (!calibration_) {
    return InvalidArgument("--calibration: give a text; the error is that of the layer's output");
  }
  HARROW_RETURN_IF_ERROR(CheckSparsities(options_.sparsity));
  HARROW_RETURN_IF_ERROR(FindMethods());
  report_.model = loaded_.path;
  report_.layer = layer_->name;
  report_.rows = layer_->rows;
  report_.cols = layer_->cols;
  report_.threads = loaded_.pool->size();
  HARROW_ASSIGN_OR_RETURN(trials_, LayerTrials::Start(loaded_.model.get(), loaded_.path,
                                                      calibration_, loaded_.pool.get(), control_));
  const int64_t forward = (block_ + 1) * trials_->samples();
  const int64_t total =
      forward + static_cast<int64_t>(methods_.size() * options_.pattern_list.size());
  int64_t done = 0;
  // Refining steps may look at more than the Hessian.
  StatisticsNeed need = StatisticsNeed::kHessian;
  for (const std::string& method : methods_) {
    HARROW_ASSIGN_OR_RETURN(const std::unique_ptr<const Trial> trial,
                            Variant(method, kUnstructured, 0.5));
    need = need | trial->plan.NeedOf(layer_->name);
  }
  HARROW_RETURN_IF_ERROR(trials_->Observe(
      block_,
      [&](const std::string& name) { return name == layer_->name ? need : StatisticsNeed::kNone; },
      [&] {
        if (control_ == nullptr) return OkStatus();
        if (control_->Cancelled()) {
          return Status(StatusCode::kCancelled, "pattern search interrupted");
        }
        control_->Progress("calibrate", ++done, total);
        return OkStatus();
      }));
  for (const std::string& method : methods_) {
    for (const std::string& pattern : options_.pattern_list) {
      if (control_ != nullptr) {
        control_->Progress(fmt::format("{}, {}", method, pattern), done++, total);
      }
      HARROW_RETURN_IF_ERROR(TryPattern(method, pattern));
    }
  }
  MeasureTimes();
  FindEqualTimes();
  report_.notes.push_back(
      "times are of one product repeated, so a weight that fits into a cache is read from there");
  for (std::vector<PatternPoint>* list :
       {&report_.equal_bytes, &report_.equal_decode, &report_.equal_prefill}) {
    std::stable_sort(list->begin(), list->end(), [](const PatternPoint& a, const PatternPoint& b) {
      return a.relative_error < b.relative_error;
    });
  }
  report_.seconds = Seconds(start);
  if (!options_.html.empty()) {
    HARROW_RETURN_IF_ERROR(WriteFileAtomically(options_.html, PatternPage(report_)));
  }
  return std::move(report_);
}

std::string Label(const PatternPoint& point) {
  return point.method.empty()
             ? point.pattern
             : fmt::format("{} {} {:.3f}", point.method, point.pattern, point.sparsity);
}

}  // namespace

Status ApproachBudget(double budget, double tolerance, double step,
                      const std::vector<RatioAt>& known,
                      const std::function<Result<std::optional<double>>(double)>& measure) {
  RatioAt low = {0, 1};   // sparsest known to be above the budget
  RatioAt high = {1, 0};  // least sparse known to meet it
  const auto place = [&](const RatioAt& at) {
    if (at.ratio > budget && at.sparsity > low.sparsity) low = at;
    if (at.ratio <= budget && at.sparsity < high.sparsity) high = at;
  };
  for (const RatioAt& at : known) {
    if (std::abs(at.ratio - budget) <= budget * tolerance) return OkStatus();
    place(at);
  }
  int same_side = 0;  // tries in a row, signed
  for (int i = 0; i < kTries && high.sparsity - low.sparsity > step; ++i) {
    // Bytes fall almost linearly, so that regula falsi ends after one or two tries. Where they do
    // not, as the format changes on the way, it creeps up from one side, and halving is faster.
    double share = (low.ratio - budget) / (low.ratio - high.ratio);
    if (std::abs(same_side) >= 2) share = 0.5;
    share = std::clamp(share, 0.02, 0.98);
    const double sparsity =
        std::round((low.sparsity + (high.sparsity - low.sparsity) * share) / kSparsityStep) *
        kSparsityStep;
    if (sparsity <= low.sparsity || sparsity >= high.sparsity) break;
    HARROW_ASSIGN_OR_RETURN(const std::optional<double> ratio, measure(sparsity));
    if (!ratio || std::abs(*ratio - budget) <= budget * tolerance) break;
    const int side = *ratio > budget ? 1 : -1;
    same_side = same_side * side > 0 ? same_side + side : side;
    place({sparsity, *ratio});
  }
  return OkStatus();
}

std::string NoteOnBudget(const std::vector<PatternPoint>& points,
                         const std::optional<PatternPoint>& at, double PatternPoint::*ratio,
                         double budget) {
  if (!at) {
    double least = points.front().*ratio;
    for (const PatternPoint& point : points)
      least = std::min(least, point.*ratio);
    return fmt::format("takes {:.3f} of the time at best, not {}", least, budget);
  }
  if ((*at).*ratio >= budget * (1 - kMissedBudget)) return "";
  return fmt::format("takes {:.3f} at the least sparsity measured, not {}", (*at).*ratio, budget);
}

std::optional<PatternPoint> AtBudget(std::vector<PatternPoint> points, double PatternPoint::*ratio,
                                     double budget) {
  std::stable_sort(points.begin(), points.end(), [](const PatternPoint& a, const PatternPoint& b) {
    return a.sparsity < b.sparsity;
  });
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].*ratio > budget) continue;
    if (i == 0) return points[0];
    const PatternPoint& a = points[i - 1];
    const PatternPoint& b = points[i];
    const double t = (a.*ratio - budget) / (a.*ratio - b.*ratio);
    const auto mix = [t](double from, double to) { return from + t * (to - from); };
    PatternPoint point = b;
    point.spec.clear();
    point.interpolated = true;
    point.sparsity = mix(a.sparsity, b.sparsity);
    point.relative_error =
        a.relative_error > 0 && b.relative_error > 0
            ? std::exp(mix(std::log(a.relative_error), std::log(b.relative_error)))
            : mix(a.relative_error, b.relative_error);
    point.bytes =
        static_cast<uint64_t>(mix(static_cast<double>(a.bytes), static_cast<double>(b.bytes)));
    for (double PatternPoint::*field :
         {&PatternPoint::bytes_ratio, &PatternPoint::decode_us, &PatternPoint::decode_ratio,
          &PatternPoint::prefill_us, &PatternPoint::prefill_ratio}) {
      point.*field = mix(a.*field, b.*field);
    }
    return point;
  }
  return std::nullopt;
}

std::string PatternPage(const PatternReport& report) {
  Page page;
  page.title = fmt::format("Patterns and methods of {}", report.layer);
  page.paragraphs = {fmt::format(
      "{}, {} x {}, {} threads. Error: relative error of the layer's output over the calibration. "
      "Times: medians, over the weight as it is, measured in turn.",
      report.model, report.rows, report.cols, report.threads)};
  struct Axis {
    const char* title;
    const char* label;
    double PatternPoint::*field;
  };
  for (const Axis& axis :
       {Axis{"Error and bytes", "bytes / bytes as it is", &PatternPoint::bytes_ratio},
        Axis{"Error and time, 1 token", "time / time as it is", &PatternPoint::decode_ratio},
        Axis{"Error and time, 128 tokens", "time / time as it is", &PatternPoint::prefill_ratio}}) {
    Chart chart;
    chart.title = axis.title;
    chart.x_label = axis.label;
    chart.y_label = "relative output error";
    chart.log_y = true;
    chart.join = true;
    for (const PatternPoint& point : report.points) {
      if (point.method.empty()) continue;
      chart.points.push_back({Label(point), point.method + " " + point.pattern, point.*axis.field,
                              point.relative_error, false});
    }
    page.charts.push_back(std::move(chart));
  }
  const auto add = [&](const char* title, const std::vector<PatternPoint>& points) {
    PageTable table{
        title,
        {{"method", "pattern", "sparsity", "relative error", "bytes", "of dense", "1 token, us",
          "of dense", "128 tokens, us", "of dense", "stored as", "note"}}};
    for (const PatternPoint& p : points) {
      table.rows.push_back(
          {p.method, p.pattern, fmt::format("{:.4f}", p.sparsity),
           fmt::format("{:.5g}", p.relative_error), fmt::format("{}", p.bytes),
           fmt::format("{:.3f}", p.bytes_ratio), fmt::format("{:.1f}", p.decode_us),
           fmt::format("{:.3f}", p.decode_ratio), fmt::format("{:.1f}", p.prefill_us),
           fmt::format("{:.3f}", p.prefill_ratio), p.interpolated ? "interpolated" : p.spec,
           p.note});
    }
    page.tables.push_back(std::move(table));
  };
  add("At equal bytes", report.equal_bytes);
  add("At equal time, 1 token", report.equal_decode);
  add("At equal time, 128 tokens", report.equal_prefill);
  add("All measured", report.points);
  if (!report.notes.empty()) {
    PageTable notes{"Notes", {{"note"}}};
    for (const std::string& note : report.notes)
      notes.rows.push_back({note});
    page.tables.push_back(std::move(notes));
  }
  return RenderPage(page);
}

Result<PatternReport> SearchLayerPatterns(const LoadedModel& model, const PatternOptions& options,
                                          const RunControl* control) {
  Search search(model, options, control);
  return search.Run();
}

}  // namespace harrow
