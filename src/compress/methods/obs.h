// Optimal brain surgeon, column by column: what SparseGPT and GPTQ share. Each column of W is
// decided on in turn, by pruning, by rounding to a grid, or by both; its error moves the columns
// that are still to come so that the layer's output over the calibration changes least.
// Source: Frantar and Alistarh, arXiv 2301.00774, algorithm 1 (sparsegpt.py fasterprune); Frantar
// et al., arXiv 2210.17323, algorithm 1 (gptq.py fasterquant).
#ifndef HARROW_COMPRESS_METHODS_OBS_H_
#define HARROW_COMPRESS_METHODS_OBS_H_

#include <cstdint>
#include <optional>

#include "base/status.h"
#include "compress/methods/method.h"
#include "compress/methods/quantization.h"
#include "compress/methods/selection.h"
#include "compress/option_reader.h"

namespace harrow {

// The keys `damping`, `allow_damping_escalation` and `block_size`.
struct ObsOptions {
  double damping = 0.01;
  bool escalate = false;
  int64_t block_size = 128;  // columns that share a threshold and are updated together

  static ObsOptions Read(OptionReader* options);
  // The key `sweeps`, of steps that round.
  static int64_t ReadSweeps(OptionReader* options, int64_t default_sweeps);
  // A key error unless `block_size` is a multiple of the width of the pattern's units.
  void CheckPattern(const Pattern& pattern, OptionReader* options) const;
  // A key error unless groups begin where all updates of the columns in them have been made: one of
  // block_size and group must be a multiple of the other.
  void CheckGroup(int32_t group, OptionReader* options) const;
};

// What is decided about a column.
struct ObsDecisions {
  // Prunes by w^2 / U_jj^2 what the target asks for; none: what layer->pruned says, and no more.
  std::optional<SparsityTarget> target;
  // Rounds what is not pruned; none: leaves it.
  std::optional<Quantization> quantization;
  // Columns by falling H_jj instead of input order, with the grids of all groups found on the
  // weights before any update. Not with a target, whose patterns lie in input order.
  bool act_order = false;
  // Sweeps of RefineCodes after the pass; they need layer->original. With a target the mask may
  // change too.
  int64_t sweeps = 0;
};

// Rewrites layer->w and layer->pruned; when it rounds also layer->quantization, on whose grid w
// then lies exactly. float64 throughout; the result does not depend on the number of threads.
//
// H = (2 / sequences) X^T X of the layer's statistics, which must have it; dead columns are zeroed;
// exactly int(block * s) weights of a block of columns are pruned, ties to the lower index; N:M
// groups are chosen with all updates so far. The grid of a group is found at its first column, on
// its weights with all updates so far, without those that are known to be pruned.
Status RunObs(const ObsOptions& options, const ObsDecisions& decisions, LayerWork* layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_OBS_H_
