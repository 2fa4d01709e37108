// One linear weight through its steps and into its stored form.
#ifndef HARROW_COMPRESS_LAYER_H_
#define HARROW_COMPRESS_LAYER_H_

#include <memory>
#include <string>
#include <vector>

#include "compress/plan.h"
#include "compress/statistics.h"
#include "harrow/compress.h"
#include "model/model.h"

namespace harrow {

struct CompressedLayer {
  LinearWeight weight;
  LayerReport report;
};

// A layer as it was before its inputs or outputs were scaled (rescale.h), which is how the steps
// before the one that asked for it see it.
struct UnscaledLayer {
  LinearWeight weight;
  std::shared_ptr<InputStatistics> statistics;  // null: the inputs were not scaled
  std::vector<double> row_scales;  // [rows] that the weight was multiplied by; empty: 1
  std::vector<double> col_scales;  // [cols]
};

// The weight as float32 and what an earlier run pruned of it, without statistics and pool;
// kNumerical where it is not finite.
Result<LayerWork> UnpackLayer(const LinearLayer& layer);

// `layer` must be loaded and not quantized; it is not changed. `statistics` may be null when the
// plan needs none. `unscaled` is null where `layer` is not scaled or all steps are to see it so.
// Errors name the weight and the method.
Result<CompressedLayer> CompressLayer(const LinearLayer& layer, const LayerPlan& plan, Store store,
                                      InputStatistics* statistics, ThreadPool* pool,
                                      const RunControl* control,
                                      const UnscaledLayer* unscaled = nullptr);

// Stores other values in place of those of `done`, in the same form, and brings its report up to
// date. `w` [rows, cols] must be 0 where the weight of `done` is; `layer` is the source.
Status ReplaceValues(const LinearLayer& layer, std::vector<float> w, InputStatistics* statistics,
                     CompressedLayer* done);

// What can be told of a stored weight without having compressed it: a block that an interrupted
// run finished and whose notes are lost.
LayerReport DescribeStored(const std::string& name, const LinearWeight& weight, int64_t nonzeros,
                           const LayerPlan& plan);

}  // namespace harrow

#endif  // HARROW_COMPRESS_LAYER_H_
