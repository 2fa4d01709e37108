#include "compress/layer.h"

#include <algorithm>
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
  return spec.format != FormatId::kDense && spec.format != FormatId::kDensePanel;
}

// Rows that are held as float32 at a time where no step rewrites the weight.
constexpr int64_t kSliceRows = 64;

// Calls body(begin, values, count) for slices of rows; checks that they are finite.
template <class Body>
Status ForSlices(const LinearLayer& layer, const Body& body) {
  std::vector<float> values(static_cast<size_t>(kSliceRows * layer.cols));
  for (int64_t begin = 0; begin < layer.rows; begin += kSliceRows) {
    const int64_t count = std::min(kSliceRows, layer.rows - begin) * layer.cols;
    UnpackRows(layer.weight, begin, std::min(begin + kSliceRows, layer.rows), values.data());
    for (int64_t i = 0; i < count; ++i) {
      if (!std::isfinite(values[static_cast<size_t>(i)])) {
        return Error(StatusCode::kNumerical, "{}: the weight is {} at row {}, column {}",
                     layer.name, values[static_cast<size_t>(i)], begin + i / layer.cols,
                     i % layer.cols);
      }
    }
    body(begin, values.data(), count);
  }
  return OkStatus();
}

// With `rewritten` false the elements are only checked and counted, not kept: a head of 128k x 4096
// would be 2 GB of float32.
Result<LayerWork> Unpack(const LinearLayer& layer, bool rewritten, int64_t* nonzeros) {
  LayerWork work;
  work.name = layer.name;
  work.rows = layer.rows;
  work.cols = layer.cols;
  if (rewritten) {
    work.w.resize(static_cast<size_t>(layer.rows * layer.cols));
    work.pruned.resize(work.w.size());
  }
  // What an earlier run pruned stays pruned.
  const bool sparse = IsSparseFormat(layer.weight.spec);
  *nonzeros = 0;
  HARROW_RETURN_IF_ERROR(ForSlices(layer, [&](int64_t begin, const float* values, int64_t count) {
    *nonzeros += count - std::count(values, values + count, 0.0f);
    if (!rewritten) return;
    std::copy_n(values, count, work.w.begin() + begin * layer.cols);
    for (int64_t i = 0; sparse && i < count; ++i) {
      work.pruned[static_cast<size_t>(begin * layer.cols + i)] = values[i] == 0.0f;
    }
  }));
  if (layer.weight.spec.format == FormatId::kNm) {
    work.pattern.nm = NmPattern{layer.weight.spec.keep_n, layer.weight.spec.of_m};
  } else if (layer.weight.spec.format == FormatId::kBlock) {
    work.pattern.block = BlockShape{layer.weight.spec.block_rows, layer.weight.spec.block_cols};
  }
  return work;
}

// Packs the weight as it is, a slice of rows at a time.
Result<LinearWeight> Repack(const LinearLayer& layer, const WeightSpec& spec) {
  std::vector<float> slice(static_cast<size_t>(kSliceRows * layer.cols));
  int64_t held = -1;  // first row of the slice
  return PackWeight(spec, layer.rows, layer.cols, [&](int64_t row, float* out) {
    const int64_t begin = row - row % kSliceRows;
    if (begin != held) {
      UnpackRows(layer.weight, begin, std::min(begin + kSliceRows, layer.rows), slice.data());
      held = begin;
    }
    std::copy_n(slice.begin() + (row - begin) * layer.cols, layer.cols, out);
  });
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
  const bool has_hessian = statistics != nullptr && statistics->has_hessian();
  // Quantizers only say how to store; the Hessian's error needs all values.
  const bool rewritten =
      has_hessian || !std::all_of(plan.steps.begin(), plan.steps.end(),
                                  [](const RecipeStep* s) { return !s->method->rewrites(); });
  int64_t kept = 0;
  HARROW_ASSIGN_OR_RETURN(LayerWork work, Unpack(layer, rewritten, &kept));
  work.statistics = statistics;
  work.pool = pool;
  work.control = control;
  if (std::any_of(plan.steps.begin(), plan.steps.end(),
                  [](const RecipeStep* s) { return s->method->needs_original(); })) {
    work.original = work.w;
  }
  for (const RecipeStep* step : plan.steps) {
    if (Status status = step->method->Apply(&work); !status.ok()) {
      return status.At(layer.name + ": " + step->method_name);
    }
  }

  CompressedLayer result;
  if (rewritten) {
    kept = std::count_if(work.w.begin(), work.w.end(), [](float value) { return value != 0.0f; });
  }
  const WeightSpec spec = ChooseSpec(work, kept, layer.weight.spec.values, store_dense);
  const QuantGrid* grid = work.quantization ? work.quantization->grid.get() : nullptr;
  Result<LinearWeight> packed =
      rewritten ? PackWeight(spec, work.rows, work.cols, work.w.data(), grid) : Repack(layer, spec);
  if (!packed.ok()) return packed.status().At(layer.name + ": store as " + SpecName(spec));
  result.weight = std::move(packed).value();
  const Result<int64_t> nonzeros = ValidateWeight(result.weight);
  if (!nonzeros.ok()) return nonzeros.status().At(layer.name);

  LayerReport& report = result.report;
  report = BasicReport(layer.name, result.weight, *nonzeros, plan);
  report.requested_sparsity = work.requested_sparsity;
  if (work.requested_sparsity || work.pattern != Pattern()) {
    report.pattern = PatternText(work.pattern);
  }
  report.dead_columns = work.dead_columns;
  report.damping = work.damping;
  report.bytes_before = layer.weight.data.size();
  // Only BF16 rounds what the steps computed without being asked to.
  const bool rounds = spec.values == ValueType::kBf16 && layer.weight.spec.values != spec.values;
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
