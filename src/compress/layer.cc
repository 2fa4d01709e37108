#include "compress/layer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "compress/methods/selection.h"
#include "compress/row_slices.h"
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

// A weight whose inputs the calibration never showed, such as an expert that no text is routed to,
// would be zeroed or left to chance.
Status CheckSeen(const LayerPlan& plan, const InputStatistics& statistics) {
  if (statistics.DeadColumns() < statistics.cols()) return OkStatus();
  for (const RecipeStep* step : plan.steps) {
    if (step->method->needs() == StatisticsNeed::kNone) continue;
    return InvalidArgument(
        "{} goes by the weight's inputs, but {}; calibrate on more or other text, or leave the "
        "weight out with `ignore`",
        step->method_name,
        statistics.tokens() == 0 ? "no calibration token reached it"
                                 : fmt::format("all of them were zero in all {} calibration tokens",
                                               statistics.tokens()));
  }
  return OkStatus();
}

// Empty when the calibration gave the layer's input enough to work with.
std::string CoverageWarning(const InputStatistics& statistics) {
  if (statistics.DeadColumns() == statistics.cols()) {
    return "its inputs were zero in all of the calibration text, so its relative error says "
           "nothing";
  }
  if (statistics.tokens() < statistics.cols()) {
    return fmt::format("its input saw {} calibration tokens, fewer than its width of {}",
                       statistics.tokens(), statistics.cols());
  }
  return "";
}

bool IsSparseFormat(const WeightSpec& spec) {
  return spec.format != FormatId::kDense && spec.format != FormatId::kDensePanel;
}

// With `rewritten` false the elements are only checked and counted, not kept: a head of 128k x 4096
// would be 2 GB of float32.
Result<LayerWork> Unpack(const std::string& name, const LinearWeight& weight, bool rewritten,
                         int64_t* nonzeros) {
  LayerWork work;
  work.name = name;
  work.rows = weight.rows;
  work.cols = weight.cols;
  if (rewritten) {
    work.w.resize(static_cast<size_t>(work.rows * work.cols));
    work.pruned.resize(work.w.size());
  }
  // What an earlier run pruned stays pruned.
  const bool sparse = IsSparseFormat(weight.spec);
  *nonzeros = 0;
  HARROW_RETURN_IF_ERROR(
      ForRowSlices(name, weight, [&](int64_t begin, const float* values, int64_t count) {
        *nonzeros += count - std::count(values, values + count, 0.0f);
        if (!rewritten) return;
        std::copy_n(values, count, work.w.begin() + begin * work.cols);
        for (int64_t i = 0; sparse && i < count; ++i) {
          work.pruned[static_cast<size_t>(begin * work.cols + i)] = values[i] == 0.0f;
        }
      }));
  if (weight.spec.format == FormatId::kNm) {
    work.pattern.nm = NmPattern{weight.spec.keep_n, weight.spec.of_m};
  } else if (weight.spec.block_rows > 0) {
    work.pattern.block = BlockShape{weight.spec.block_rows, weight.spec.block_cols};
  }
  return work;
}

// Brings what earlier steps made of an unscaled weight, and their target, to the scaled one's
// scale.
void Scale(const UnscaledLayer& unscaled, LayerWork* work) {
  for (std::vector<float>* values : {&work->w, &work->original}) {
    for (size_t i = 0; i < values->size(); ++i) {
      const size_t row = i / static_cast<size_t>(work->cols);
      const size_t col = i % static_cast<size_t>(work->cols);
      double factor = unscaled.row_scales.empty() ? 1.0 : unscaled.row_scales[row];
      if (!unscaled.col_scales.empty()) factor *= unscaled.col_scales[col];
      (*values)[i] = static_cast<float>((*values)[i] * factor);
    }
  }
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

// Packs w and the low-rank product, if there is one.
Result<LinearWeight> Pack(const LayerWork& work, const WeightSpec& spec) {
  const QuantGrid* grid = work.quantization ? work.quantization->grid.get() : nullptr;
  if (!work.low_rank) return PackWeight(spec, work.rows, work.cols, work.w.data(), grid);
  const LowRankProduct& product = *work.low_rank;
  LinearWeight weight;
  if (product.residual) {
    HARROW_ASSIGN_OR_RETURN(weight, PackWeight(spec, work.rows, work.cols, work.w.data(), grid));
  }
  const WeightSpec dense = {FormatId::kDense, ValueType::kBf16};
  auto factors = std::make_shared<LowRankFactors>();
  HARROW_ASSIGN_OR_RETURN(factors->a, PackWeight(dense, product.rank, work.cols, product.a.data()));
  HARROW_ASSIGN_OR_RETURN(factors->b, PackWeight(dense, work.rows, product.rank, product.b.data()));
  weight.rows = work.rows;
  weight.cols = work.cols;
  weight.low_rank = std::move(factors);
  return weight;
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
  report.spec = FormatText(weight);
  report.values = ValueTypeName(weight.spec.values);
  report.rank = weight.low_rank != nullptr ? weight.low_rank->a.rows : 0;
  report.bytes = WeightBytes(weight);
  return report;
}

// Notes in the report what storing did to the values w, which are overwritten.
void MeasureStored(const LinearLayer& layer, const InputStatistics* statistics,
                   std::vector<float>* w, CompressedLayer* result) {
  const LinearWeight& weight = result->weight;
  const bool has_hessian = statistics != nullptr && statistics->has_hessian();
  // Only BF16 rounds what the steps computed without being asked to.
  const bool rounds = weight.spec.values == ValueType::kBf16 &&
                      layer.weight.spec.values != weight.spec.values && weight.has_residual();
  result->report.rounded = 0;
  std::vector<float> stored(rounds || has_hessian ? w->size() : 0);
  if (rounds) {
    LinearWeight residual = weight;
    residual.low_rank = nullptr;
    UnpackRows(residual, 0, weight.rows, stored.data());
    for (size_t i = 0; i < stored.size(); ++i)
      result->report.rounded += stored[i] != (*w)[i];
  }
  if (!has_hessian) return;
  UnpackRows(weight, 0, weight.rows, stored.data());
  UnpackRows(layer.weight, 0, weight.rows, w->data());
  result->report.relative_error =
      statistics->RelativeOutputError(w->data(), stored.data(), weight.rows);
}

}  // namespace

Result<LayerWork> UnpackLayer(const LinearLayer& layer) {
  int64_t nonzeros = 0;
  return Unpack(layer.name, layer.weight, /*rewritten=*/true, &nonzeros);
}

Result<CompressedLayer> CompressLayer(const LinearLayer& layer, const LayerPlan& plan, Store store,
                                      InputStatistics* statistics, ThreadPool* pool,
                                      const RunControl* control, const UnscaledLayer* unscaled) {
  const auto start = std::chrono::steady_clock::now();
  if (statistics != nullptr) HARROW_RETURN_IF_ERROR(CheckSeen(plan, *statistics).At(layer.name));
  const bool has_hessian = statistics != nullptr && statistics->has_hessian();
  // Quantizers only say how to store; the Hessian's error needs all values.
  const bool rewritten =
      has_hessian || !std::all_of(plan.steps.begin(), plan.steps.end(),
                                  [](const RecipeStep* s) { return !s->method->rewrites(); });
  int64_t kept = 0;
  const LinearWeight& source = unscaled != nullptr ? unscaled->weight : layer.weight;
  HARROW_ASSIGN_OR_RETURN(LayerWork work, Unpack(layer.name, source, rewritten, &kept));
  work.statistics = unscaled != nullptr && unscaled->statistics != nullptr
                        ? unscaled->statistics.get()
                        : statistics;
  work.pool = pool;
  work.control = control;
  if (std::any_of(plan.steps.begin(), plan.steps.end(),
                  [](const RecipeStep* s) { return s->method->needs_original(); })) {
    work.original = work.w;
  }
  const auto count_nonzeros = [&work] {
    return std::count_if(work.w.begin(), work.w.end(), [](float value) { return value != 0.0f; });
  };
  std::optional<double> allocated;
  std::optional<int64_t> before_rounding;  // weights that are not zero
  for (const RecipeStep* step : plan.steps) {
    if (step->method->quantizes() && step->method->target() == nullptr) {
      before_rounding = rewritten ? count_nonzeros() : kept;
    }
    work.allocated_sparsity.reset();
    if (const auto given = plan.allocated.find(step); given != plan.allocated.end()) {
      work.allocated_sparsity = allocated = given->second;
    }
    if (unscaled != nullptr && step->method->scales_inputs()) {
      Scale(*unscaled, &work);
      work.statistics = statistics;
    }
    if (Status status = step->method->Apply(&work); !status.ok()) {
      return status.At(layer.name + ": " + step->method_name);
    }
  }

  CompressedLayer result;
  if (rewritten) kept = count_nonzeros();
  const WeightSpec spec = ChooseSpec(work, kept, layer.weight.spec.values, store);
  Result<LinearWeight> packed = rewritten ? Pack(work, spec) : Repack(layer, spec);
  if (!packed.ok()) return packed.status().At(layer.name + ": store as " + SpecName(spec));
  result.weight = std::move(packed).value();
  const Result<int64_t> nonzeros = ValidateWeight(result.weight);
  if (!nonzeros.ok()) return nonzeros.status().At(layer.name);

  LayerReport& report = result.report;
  report = BasicReport(layer.name, result.weight, *nonzeros, plan);
  report.requested_sparsity = work.requested_sparsity;
  report.allocated_sparsity = allocated;
  if (work.requested_sparsity || work.pattern != Pattern()) {
    report.pattern = PatternText(work.pattern);
  }
  report.dead_columns = work.dead_columns;
  report.damping = work.damping;
  report.notes = work.notes;
  report.bytes_before = WeightBytes(layer.weight);
  if (before_rounding) {
    LinearWeight residual = result.weight;
    residual.low_rank = nullptr;
    HARROW_ASSIGN_OR_RETURN(const int64_t stored, ValidateWeight(residual));
    report.rounded_to_zero = std::max<int64_t>(0, *before_rounding - stored);
  }
  MeasureStored(layer, statistics, &work.w, &result);
  if (statistics != nullptr) {
    report.calibration_tokens = statistics->tokens();
    if (const std::string warning = CoverageWarning(*statistics); !warning.empty()) {
      report.warnings.push_back(layer.name + ": " + warning);
    }
  }
  if (result.weight.low_rank != nullptr && report.bytes > report.bytes_before) {
    report.warnings.push_back(
        fmt::format("{}: takes {} bytes with its low-rank product, more than the {} of the source",
                    layer.name, report.bytes, report.bytes_before));
  }
  if (work.dead_columns > 0) {
    report.warnings.push_back(
        fmt::format("{}: {} of {} inputs were zero in all of the calibration text", layer.name,
                    work.dead_columns, work.cols));
  }
  for (const std::string& warning : work.warnings) {
    report.warnings.push_back(layer.name + ": " + warning);
  }
  report.notes = std::move(work.notes);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

Status ReplaceValues(const LinearLayer& layer, std::vector<float> w, InputStatistics* statistics,
                     CompressedLayer* done) {
  Result<LinearWeight> packed = PackWeight(done->weight.spec, layer.rows, layer.cols, w.data());
  if (!packed.ok()) return packed.status().At(layer.name);
  done->weight = std::move(packed).value();
  const Result<int64_t> nonzeros = ValidateWeight(done->weight);
  if (!nonzeros.ok()) return nonzeros.status().At(layer.name);
  done->report.nonzeros = *nonzeros;
  done->report.sparsity = 1.0 - static_cast<double>(*nonzeros) / static_cast<double>(w.size());
  done->report.bytes = done->weight.data.size();
  MeasureStored(layer, statistics, &w, done);
  return OkStatus();
}

LayerReport DescribeStored(const std::string& name, const LinearWeight& weight, int64_t nonzeros,
                           const LayerPlan& plan) {
  return BasicReport(name, weight, nonzeros, plan);
}

}  // namespace harrow
