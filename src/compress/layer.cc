#include "compress/layer.h"

#include <chrono>
#include <cmath>

#include "compress/methods/selection.h"
#include "compress/storage.h"

namespace harrow {
namespace {

std::string MethodNames(const LayerPlan& plan) {
  std::string names;
  for (const RecipeStep* step : plan.steps) {
    names += (names.empty() ? "" : "+") + step->method_name;
  }
  return names;
}

bool IsSparseFormat(const WeightSpec& spec) {
  return spec.format == FormatId::kBitmask || spec.format == FormatId::kNm;
}

Result<LayerWork> Unpack(const LinearLayer& layer) {
  if (layer.weight.spec.values == ValueType::kI8) {
    return InvalidArgument(
        "{}: is stored as {} already; compress the original model, or leave this weight out with "
        "`ignore`",
        layer.name, SpecName(layer.weight.spec));
  }
  LayerWork work;
  work.name = layer.name;
  work.rows = layer.rows;
  work.cols = layer.cols;
  work.w.resize(static_cast<size_t>(layer.rows * layer.cols));
  work.pruned.resize(work.w.size());
  UnpackRows(layer.weight, 0, layer.rows, work.w.data());
  // What an earlier run pruned stays pruned.
  const bool sparse = IsSparseFormat(layer.weight.spec);
  for (size_t i = 0; i < work.w.size(); ++i) {
    if (!std::isfinite(work.w[i])) {
      return Error(StatusCode::kNumerical, "{}: the weight is {} at row {}, column {}", layer.name,
                   work.w[i], static_cast<int64_t>(i) / layer.cols,
                   static_cast<int64_t>(i) % layer.cols);
    }
    work.pruned[i] = sparse && work.w[i] == 0.0f;
  }
  if (layer.weight.spec.format == FormatId::kNm) {
    work.pattern = NmPattern{layer.weight.spec.keep_n, layer.weight.spec.of_m};
  }
  return work;
}

LayerReport BasicReport(const std::string& name, const LinearWeight& weight, int64_t nonzeros,
                        const LayerPlan& plan) {
  LayerReport report;
  report.name = name;
  report.method = MethodNames(plan);
  report.rows = weight.rows;
  report.cols = weight.cols;
  report.nonzeros = nonzeros;
  report.sparsity = 1.0 - static_cast<double>(nonzeros) / static_cast<double>(weight.rows) /
                              static_cast<double>(weight.cols);
  report.spec = SpecName(weight.spec);
  report.values = ValueTypeName(weight.spec.values);
  report.bytes = weight.data.size();
  return report;
}

}  // namespace

Result<CompressedLayer> CompressLayer(const LinearLayer& layer, const LayerPlan& plan,
                                      bool store_dense, InputStatistics* statistics,
                                      ThreadPool* pool, const RunControl* control) {
  const auto start = std::chrono::steady_clock::now();
  HARROW_ASSIGN_OR_RETURN(LayerWork work, Unpack(layer));
  work.statistics = statistics;
  work.pool = pool;
  work.control = control;
  for (const RecipeStep* step : plan.steps) {
    if (Status status = step->method->Apply(&work); !status.ok()) {
      return status.At(layer.name + ": " + step->method_name);
    }
  }

  CompressedLayer result;
  const WeightSpec spec = ChooseSpec(work, layer.weight.spec.values, store_dense);
  Result<LinearWeight> packed = PackWeight(spec, work.rows, work.cols, work.w.data());
  if (!packed.ok()) return packed.status().At(layer.name + ": store as " + SpecName(spec));
  result.weight = std::move(packed).value();
  const Result<int64_t> nonzeros = ValidateWeight(result.weight);
  if (!nonzeros.ok()) return nonzeros.status().At(layer.name);

  LayerReport& report = result.report;
  report = BasicReport(layer.name, result.weight, *nonzeros, plan);
  report.requested_sparsity = work.requested_sparsity;
  if (work.pattern) {
    report.pattern = PatternText(*work.pattern);
  } else if (work.requested_sparsity) {
    report.pattern = "unstructured";
  }
  report.dead_columns = work.dead_columns;
  report.damping = work.damping;
  report.bytes_before = layer.weight.data.size();
  // Only BF16 rounds what the steps computed without being asked to.
  const bool rounds = spec.values == ValueType::kBf16 && layer.weight.spec.values != spec.values;
  const bool has_hessian = statistics != nullptr && statistics->has_hessian();
  if (rounds || has_hessian) {
    std::vector<float> stored(work.w.size());
    UnpackRows(result.weight, 0, work.rows, stored.data());
    for (size_t i = 0; rounds && i < stored.size(); ++i)
      report.rounded += stored[i] != work.w[i];
    if (has_hessian) {
      UnpackRows(layer.weight, 0, work.rows, work.w.data());
      report.relative_error =
          statistics->RelativeOutputError(work.w.data(), stored.data(), work.rows);
    }
  }
  if (work.dead_columns > 0) {
    report.warnings.push_back(
        fmt::format("{}: {} of {} inputs were zero in all of the calibration text", layer.name,
                    work.dead_columns, work.cols));
  }
  for (const std::string& warning : work.warnings) {
    report.warnings.push_back(layer.name + ": " + warning);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

LayerReport DescribeStored(const std::string& name, const LinearWeight& weight, int64_t nonzeros,
                           const LayerPlan& plan) {
  return BasicReport(name, weight, nonzeros, plan);
}

}  // namespace harrow
