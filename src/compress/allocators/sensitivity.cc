#include "compress/allocators/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/mapped_file.h"
#include "checkpoint/json_util.h"
#include "compress/allocators/allocator.h"
#include "compress/recipe.h"

namespace harrow {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;

// A finite number in [min, max].
Result<double> ReadNumber(const nlohmann::json& object, std::string_view key, double min,
                          double max) {
  const nlohmann::json* value = JsonGet(object, key);
  if (value == nullptr) return Corruption("{}: missing; expected a number", key);
  if (!value->is_number()) {
    return Corruption("{}: expected a number, found {}", key, JsonQuote(*value));
  }
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < min || number > max) {
    return Corruption("{}: expected a number in [{}, {}], found {}", key, min, max,
                      JsonQuote(*value));
  }
  return number;
}

Result<SensitivityPoint> ReadPoint(const nlohmann::json& json) {
  constexpr double kMaxLoss = 1e6;
  if (!json.is_object()) return Corruption("expected an object, found {}", JsonQuote(json));
  SensitivityPoint point;
  HARROW_ASSIGN_OR_RETURN(point.sparsity, ReadNumber(json, "sparsity", 0, 1));
  if (point.sparsity <= 0 || point.sparsity >= 1) {
    return Corruption("sparsity: expected 0 < s < 1, found {}", point.sparsity);
  }
  HARROW_ASSIGN_OR_RETURN(point.loss_increase,
                          ReadNumber(json, "loss_increase", -kMaxLoss, kMaxLoss));
  if (JsonGet(json, "kl") != nullptr) {
    HARROW_ASSIGN_OR_RETURN(point.kl, ReadNumber(json, "kl", -kMaxLoss, kMaxLoss));
  }
  return point;
}

Status ReadCurve(const nlohmann::json& json, SensitivityCurve* curve) {
  if (!json.is_object()) return Corruption("expected an object, found {}", JsonQuote(json));
  HARROW_RETURN_IF_ERROR(ReadJsonString(json, "name", &curve->name));
  if (curve->name.empty()) return Corruption("name: missing; expected a weight's name");
  const nlohmann::json* points = JsonGet(json, "points");
  if (points == nullptr || !points->is_array() || points->empty()) {
    return Corruption("points: expected a list of at least one point");
  }
  for (size_t i = 0; i < points->size(); ++i) {
    Result<SensitivityPoint> point = ReadPoint((*points)[i]);
    if (!point.ok()) return point.status().At(fmt::format("points[{}]", i));
    curve->points.push_back(*point);
  }
  const auto less = [](const SensitivityPoint& a, const SensitivityPoint& b) {
    return a.sparsity < b.sparsity;
  };
  std::sort(curve->points.begin(), curve->points.end(), less);
  for (size_t i = 1; i < curve->points.size(); ++i) {
    if (curve->points[i].sparsity == curve->points[i - 1].sparsity) {
      return Corruption("points: sparsity {} is given twice", curve->points[i].sparsity);
    }
  }
  return OkStatus();
}

// Slope from a to b.
double Slope(const std::pair<double, double>& a, const std::pair<double, double>& b) {
  return (b.second - a.second) / (b.first - a.first);
}

// Those of the points on the lower convex hull.
std::vector<std::pair<double, double>> LowerHull(
    const std::vector<std::pair<double, double>>& points) {
  std::vector<std::pair<double, double>> hull;
  for (const std::pair<double, double>& point : points) {
    while (hull.size() >= 2 &&
           Slope(hull[hull.size() - 2], hull.back()) >= Slope(hull.back(), point)) {
      hull.pop_back();
    }
    hull.push_back(point);
  }
  return hull;
}

// A stretch of a layer's hull.
struct Segment {
  double price = 0;   // loss per weight
  double length = 0;  // of sparsity
  size_t layer = 0;
};

class Sensitivity final : public Allocator {
 public:
  explicit Sensitivity(OptionReader* options)
      : file_(options->String("file", "")),
        kl_(options->Choice("metric", "loss", {"loss", "kl"}) == "kl") {
    if (file_.empty()) {
      options->Fail("file", "missing; what `harrow sensitivity -o json` wrote");
    }
  }

  std::string file() const override { return file_; }
  Result<std::vector<double>> Allocate(const AllocationProblem& problem) const override {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(file_, kMaxFileBytes));
    HARROW_ASSIGN_OR_RETURN(const std::vector<SensitivityCurve> measured,
                            ParseSensitivity(text, file_));
    std::vector<LossCurve> curves;
    for (const AllocationLayer& layer : problem.layers) {
      const auto found = std::find_if(
          measured.begin(), measured.end(),
          [&layer](const SensitivityCurve& c) { return MatchesExactly(c.name, layer.name); });
      if (found == measured.end()) {
        return InvalidArgument("{}: no layer \"{}\", which the step prunes; {} layers are there",
                               file_, layer.name, measured.size());
      }
      LossCurve curve;
      curve.weights = static_cast<double>(layer.weights);
      curve.points.emplace_back(0.0, 0.0);
      curve.min = layer.Low();
      curve.max = layer.High();
      curve.name = layer.name;
      for (const SensitivityPoint& point : found->points) {
        if (kl_ && !point.kl) {
          return InvalidArgument("{}: {} has no `kl` at sparsity {}; use `metric: loss`", file_,
                                 layer.name, point.sparsity);
        }
        curve.points.emplace_back(point.sparsity, kl_ ? *point.kl : point.loss_increase);
      }
      curves.push_back(std::move(curve));
    }
    Result<std::vector<double>> values = MinimizeLoss(curves, problem.sparsity);
    if (!values.ok()) return values.status().At(file_);
    return values;
  }

 private:
  std::string file_;
  bool kl_;
};

}  // namespace

Result<std::vector<SensitivityCurve>> ParseSensitivity(std::string_view text,
                                                       std::string_view where) {
  HARROW_ASSIGN_OR_RETURN(const nlohmann::json root, ParseJsonObject(text, where));
  const nlohmann::json* layers = JsonGet(root, "layers");
  if (layers == nullptr || !layers->is_array() || layers->empty()) {
    return Corruption("{}: layers: expected a list of at least one layer", where);
  }
  std::vector<SensitivityCurve> curves;
  std::set<std::string> names;
  for (size_t i = 0; i < layers->size(); ++i) {
    SensitivityCurve curve;
    if (Status status = ReadCurve((*layers)[i], &curve); !status.ok()) {
      return status.At(
          fmt::format("{}: layers[{}]{}", where, i,
                      curve.name.empty() ? "" : fmt::format(" ({})", PrintableName(curve.name))));
    }
    if (!names.insert(curve.name).second) {
      return Corruption("{}: layers[{}]: {} is given twice", where, i, PrintableName(curve.name));
    }
    curves.push_back(std::move(curve));
  }
  return curves;
}

Result<std::vector<double>> MinimizeLoss(std::span<const LossCurve> curves, double mean) {
  std::vector<double> sparsity;
  std::vector<Segment> segments;
  double total = 0;  // weights
  double least = 0;  // weights that must be pruned
  double reach = 0;  // weights that can be pruned
  for (size_t i = 0; i < curves.size(); ++i) {
    const std::vector<std::pair<double, double>> hull = LowerHull(curves[i].points);
    const double min = curves[i].min;
    const double high = std::min(curves[i].max, hull.back().first);
    if (high < min) {
      return InvalidArgument("{} was measured up to sparsity {}, below its cap `min` of {}",
                             curves[i].name, high, min);
    }
    sparsity.push_back(min);
    for (size_t k = 1; k < hull.size(); ++k) {
      const double begin = std::max(hull[k - 1].first, min);
      const double end = std::min(hull[k].first, high);
      if (end <= begin) continue;
      segments.push_back({Slope(hull[k - 1], hull[k]) / curves[i].weights, end - begin, i});
    }
    total += curves[i].weights;
    least += curves[i].weights * min;
    reach += curves[i].weights * high;
  }
  double budget = mean * total - least;
  // Sums of many terms; a thousandth of a weight is no obstacle.
  constexpr double kSlack = 1e-3;
  if (budget < -kSlack || mean * total > reach + kSlack) {
    return InvalidArgument(
        "a mean sparsity of {} cannot be met: layers can have a mean from {:.4f} to {:.4f}, "
        "limited by the caps and by what was measured",
        mean, least / total, reach / total);
  }
  // Stable, so that the segments of a hull, which are ever dearer, stay in order.
  std::stable_sort(segments.begin(), segments.end(),
                   [](const Segment& a, const Segment& b) { return a.price < b.price; });
  for (const Segment& segment : segments) {
    const double weights = curves[segment.layer].weights;
    const double part = std::min(segment.length, budget / weights);
    if (part <= 0) break;
    sparsity[segment.layer] += part;
    budget -= part * weights;
  }
  return sparsity;
}

std::unique_ptr<Allocator> MakeSensitivity(OptionReader* options, bool) {
  return std::make_unique<Sensitivity>(options);
}

}  // namespace harrow
