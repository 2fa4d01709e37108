#include "eval/frontier.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace harrow {
namespace {

struct Cost {
  const char* name;
  double (*of)(const StudyPoint&);
  std::vector<std::string> StudyPoint::*dominators;
};
constexpr Cost kCosts[] = {
    {"bytes a token", [](const StudyPoint& p) { return static_cast<double>(p.bytes_per_token); },
     &StudyPoint::dominated_bytes},
    {"decode time", [](const StudyPoint& p) { return p.decode_time_ratio; },
     &StudyPoint::dominated_decode},
    {"prefill time", [](const StudyPoint& p) { return p.prefill_time_ratio; },
     &StudyPoint::dominated_prefill},
};

std::string KlText(const StudyPoint& point) {
  return point.kl_stderr ? fmt::format("{:.5f} ± {:.5f}", point.kl, *point.kl_stderr)
                         : fmt::format("{:.5f}", point.kl);
}

// No zeros, and yet less than the model as it is.
bool IsRival(const StudyPoint& point) {
  return point.kind == "baseline" || (!point.sparse && (point.quantized || point.smaller));
}

bool Dominates(const StudyPoint& a, const StudyPoint& b, const Cost& cost) {
  return a.kl <= b.kl && cost.of(a) <= cost.of(b) && (a.kl < b.kl || cost.of(a) < cost.of(b));
}

// The points that a sparse one has to beat: those that are always there, and of the others those
// that are worth having in bytes among all without zeros.
std::vector<const StudyPoint*> Rivals(const std::vector<StudyPoint>& points) {
  std::vector<const StudyPoint*> rivals;
  for (const StudyPoint& point : points) {
    if (!IsRival(point)) continue;
    const bool beaten = std::any_of(points.begin(), points.end(), [&](const StudyPoint& other) {
      return IsRival(other) && Dominates(other, point, kCosts[0]);
    });
    if (point.kind == "baseline" || !beaten) rivals.push_back(&point);
  }
  return rivals;
}

// Against one point to beat, in one cost.
std::string Judge(const StudyPoint& rival, const std::vector<StudyPoint>& points,
                  const Cost& cost) {
  const StudyPoint* cheapest = nullptr;  // of no more KL than the rival
  const StudyPoint* closest = nullptr;   // cheaper than the rival, least KL
  const StudyPoint* other = nullptr;     // as `cheapest`, but without zeros
  for (const StudyPoint& point : points) {
    if (IsRival(point) && &point != &rival && point.kl <= rival.kl &&
        (other == nullptr || cost.of(point) < cost.of(*other))) {
      other = &point;
    }
    if (!point.sparse) continue;
    if (point.kl <= rival.kl && (cheapest == nullptr || cost.of(point) < cost.of(*cheapest))) {
      cheapest = &point;
    }
    if (cost.of(point) < cost.of(rival) && (closest == nullptr || point.kl < closest->kl)) {
      closest = &point;
    }
  }
  if (cheapest != nullptr && cost.of(*cheapest) < cost.of(rival)) {
    std::string text = fmt::format("{}: yes, {} costs {:.3f} of it at a KL of {} against {}",
                                   cost.name, cheapest->name, cost.of(*cheapest) / cost.of(rival),
                                   KlText(*cheapest), KlText(rival));
    if (other != nullptr && cost.of(*other) <= cost.of(*cheapest)) {
      text += fmt::format(", but {} ({}) costs {:.3f} of it at a KL of {}", other->name,
                          FormOf(*other), cost.of(*other) / cost.of(rival), KlText(*other));
    }
    return text;
  }
  if (closest != nullptr) {
    return fmt::format(
        "{}: no; the best sparse recipe that costs less ({}, {:.3f} of it) has a KL "
        "of {} against {}",
        cost.name, closest->name, cost.of(*closest) / cost.of(rival), KlText(*closest),
        KlText(rival));
  }
  return fmt::format("{}: no; no sparse recipe costs less at any KL", cost.name);
}

}  // namespace

std::vector<std::vector<size_t>> Dominators(const std::vector<CostAndLoss>& points) {
  std::vector<std::vector<size_t>> dominators(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    for (size_t j = 0; j < points.size(); ++j) {
      const bool no_worse = points[j].cost <= points[i].cost && points[j].loss <= points[i].loss;
      const bool better = points[j].cost < points[i].cost || points[j].loss < points[i].loss;
      if (no_worse && better) dominators[i].push_back(j);
    }
  }
  return dominators;
}

void MarkDominated(std::vector<StudyPoint>* points) {
  for (const Cost& cost : kCosts) {
    std::vector<CostAndLoss> figures;
    for (const StudyPoint& point : *points)
      figures.push_back({cost.of(point), point.kl});
    const std::vector<std::vector<size_t>> dominators = Dominators(figures);
    for (size_t i = 0; i < points->size(); ++i) {
      ((*points)[i].*cost.dominators).clear();
      for (const size_t j : dominators[i])
        ((*points)[i].*cost.dominators).push_back((*points)[j].name);
    }
  }
}

const char* FormOf(const StudyPoint& point) {
  if (point.sparse) return "sparse";
  if (point.smaller) return "smaller dense";
  return point.quantized ? "dense quantized" : "dense";
}

std::vector<std::string> JudgeSparse(const std::vector<StudyPoint>& points) {
  std::vector<std::string> verdicts;
  const bool any =
      std::any_of(points.begin(), points.end(), [](const StudyPoint& p) { return p.sparse; });
  if (!any) return {"No point is sparse, so there is nothing to hold against dense quantization."};
  for (const StudyPoint* rival : Rivals(points)) {
    std::string verdict =
        fmt::format("Does a sparse recipe beat {} ({}, {:.3f} bits a weight) at no more KL? ",
                    rival->name, FormOf(*rival), rival->bits_per_weight);
    for (const Cost& cost : kCosts) {
      if (&cost != kCosts) verdict += "; ";
      verdict += Judge(*rival, points, cost);
    }
    verdicts.push_back(verdict + ".");
  }
  for (const StudyPoint& rival : points) {
    if (rival.kind != "baseline") continue;
    std::string more;
    for (const StudyPoint& point : points) {
      if (!point.sparse || point.bits_per_weight < rival.bits_per_weight) continue;
      more += fmt::format("{}{} ({:.3f} at {:.0f} % zeros)", more.empty() ? "" : ", ", point.name,
                          point.bits_per_weight, 100 * point.sparsity);
    }
    if (!more.empty()) {
      verdicts.push_back(fmt::format("Sparse, and yet no fewer bits a weight than {} ({:.3f}): {}.",
                                     rival.name, rival.bits_per_weight, more));
    }
  }
  return verdicts;
}

}  // namespace harrow
