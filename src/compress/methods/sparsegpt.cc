// SparseGPT: the mask by w^2 / U_jj^2, and an update of the weights that are still to come for the
// error that pruning made (optimal brain surgeon, obs.h). With `quantize` the weights that are kept
// are rounded in the same pass, so that one update makes up for both errors.
// Source: Frantar and Alistarh, arXiv 2301.00774, algorithm 1; sparsegpt.py fasterprune.
//
// As the authors' code: one threshold for a whole block of columns (all rows), N:M groups chosen
// with all updates applied so far. Differences: float64 throughout; exactly int(block * s) weights
// of a block are pruned, ties to the lower index, where their `<= sort(score)[int(block * s)]`
// takes at least one more; grids in groups as GPTQ finds them, where theirs has one a row, found
// before any update.
#include "compress/methods/obs.h"

namespace harrow {
namespace {

class SparseGpt final : public Method {
 public:
  explicit SparseGpt(OptionReader* options) {
    decisions_.target = SparsityTarget::Read(options, std::nullopt);
    options_ = ObsOptions::Read(options);
    options_.CheckPattern(decisions_.target->pattern, options);
    options->Nested("quantize", [this](OptionReader* nested) {
      decisions_.quantization = ReadQuantization(nested);
      decisions_.sweeps = ObsOptions::ReadSweeps(nested, 5);
    });
    if (decisions_.quantization) options_.CheckGroup(decisions_.quantization->group, options);
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kHessian; }
  const SparsityTarget* target() const override { return &*decisions_.target; }
  bool needs_original() const override { return decisions_.sweeps > 0; }
  bool quantizes() const override { return decisions_.quantization.has_value(); }
  Status Check(int64_t rows, int64_t cols) const override {
    return decisions_.target->Check(rows, cols);
  }
  Status Apply(LayerWork* layer) const override { return RunObs(options_, decisions_, layer); }

 private:
  ObsOptions options_;
  ObsDecisions decisions_;
};

}  // namespace

std::unique_ptr<Method> MakeSparseGpt(OptionReader* options) {
  return std::make_unique<SparseGpt>(options);
}

}  // namespace harrow
