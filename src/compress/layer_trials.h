// Compressing single layers of a dense model in memory, on the dense model's own inputs: for
// measuring what a recipe step does to one layer, at leisure and in many variants.
#ifndef HARROW_COMPRESS_LAYER_TRIALS_H_
#define HARROW_COMPRESS_LAYER_TRIALS_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/thread_pool.h"
#include "compress/blas.h"
#include "compress/calibration_run.h"
#include "compress/layer.h"
#include "compress/plan.h"
#include "compress/recipe.h"

namespace harrow {

// One variant: a recipe of its own, and which of its steps are for which weight. Immutable.
struct Trial {
  Recipe recipe;
  CompressionPlan plan;  // points into recipe
};

// Methods that prune to a `sparsity` given by itself.
std::vector<std::string> SparsityMethods();

// What a trial's recipe is made of.
struct TrialRecipe {
  std::string step;                // YAML mapping, e.g. "{method: wanda}"
  std::optional<double> sparsity;  // put into the step, which must take one, when set
  std::string pattern;             // put into the step when not empty
  std::string then;                // YAML mapping of a further step; empty: none
  std::optional<CalibrationSpec> calibration;
  bool output_error = false;
};
// Errors are about the parts: "sparsity: expected ...", or, where it is the calibration, about its
// flag: "--calibration: missing; ...".
Result<std::unique_ptr<const Trial>> MakeTrial(const TrialRecipe& recipe, const Model& model);

// Walks a wholly loaded model block by block and compresses its layers as often as asked. Sets
// OpenBLAS's thread count while it lives. Not thread safe.
class LayerTrials {
 public:
  // `spec` may be empty; then no trial may need statistics. `directory`: the model's, for its
  // tokenizer. `model` and `pool` must outlive it.
  static Result<std::unique_ptr<LayerTrials>> Start(const Model* model,
                                                    const std::string& directory,
                                                    const std::optional<CalibrationSpec>& spec,
                                                    ThreadPool* pool, const RunControl* control);
  // Calls for ascending blocks: gathers what `need` says of the inputs of block b's weights, and
  // forgets the statistics of the block before.
  using NeedOf = std::function<StatisticsNeed(const std::string& name)>;
  using OnSequence = CalibrationRun::OnSequence;
  Status Observe(int32_t b, const NeedOf& need, const OnSequence& on_sequence);
  // The weight of the block last observed, as the trial would store it; the model is not changed.
  Result<CompressedLayer> Compress(const Trial& trial, const LinearLayer& layer);

  int64_t samples() const { return calibration_ ? calibration_->samples() : 0; }
  int64_t tokens() const {
    return calibration_ ? static_cast<int64_t>(calibration_->ids.size()) : 0;
  }
  uint64_t text_hash() const { return calibration_ ? calibration_->text_hash : 0; }

 private:
  LayerTrials(const Model* model, ThreadPool* pool, const RunControl* control);

  const Model* model_;
  ThreadPool* pool_;
  const RunControl* control_;
  BlasThreads blas_threads_;
  std::unique_ptr<ForwardState, void (*)(ForwardState*)> state_;
  std::optional<Calibration> calibration_;
  std::unique_ptr<CalibrationRun> run_;  // in front of block next_
  int32_t next_ = 0;
  std::map<std::string, std::shared_ptr<InputStatistics>> statistics_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_LAYER_TRIALS_H_
