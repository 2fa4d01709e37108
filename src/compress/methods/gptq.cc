// GPTQ: rounds to a grid column by column, and the columns still to come make up for it (optimal
// brain surgeon, obs.h). Weights that an earlier step pruned stay zero.
// Source: Frantar et al., arXiv 2210.17323, algorithm 1; gptq.py fasterquant.
//
// As the authors' code: damping, blocks, grids found at a group's first column on the updated
// weights; with act_order columns by falling H_jj. Their act-order with moving groups stores groups
// in that order; ours is their `--static-groups`: groups in input order, grids found before any
// update, so that the stored layout is that of every other quantizer. Differences: float64
// throughout; groups narrower than block_size see the updates made inside their block, which the
// authors' grids miss; the grids are those of the weight formats (docs/decisions/026).
#include "compress/methods/obs.h"

namespace harrow {
namespace {

class Gptq final : public Method {
 public:
  explicit Gptq(OptionReader* options) {
    decisions_.quantization = ReadQuantization(options);
    decisions_.act_order = options->Boolean("act_order", true);
    decisions_.sweeps = ObsOptions::ReadSweeps(options, 0);
    options_ = ObsOptions::Read(options);
    options_.CheckGroup(decisions_.quantization->group, options);
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kHessian; }
  bool quantizes() const override { return true; }
  bool needs_original() const override { return decisions_.sweeps > 0; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override { return RunObs(options_, decisions_, layer); }

 private:
  ObsOptions options_;
  ObsDecisions decisions_;
};

}  // namespace

std::unique_ptr<Method> MakeGptq(OptionReader* options) {
  return std::make_unique<Gptq>(options);
}

}  // namespace harrow
