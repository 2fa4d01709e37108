// Scaling of channels inside a block: inputs of linears are scaled up in their weights and down
// where they are made, so that the block computes the same.
#ifndef HARROW_COMPRESS_RESCALE_H_
#define HARROW_COMPRESS_RESCALE_H_

#include <map>
#include <string>

#include "base/run_control.h"
#include "base/thread_pool.h"
#include "checkpoint/tensor_source.h"
#include "compress/layer.h"
#include "compress/plan.h"
#include "compress/statistics_observer.h"
#include "model/model.h"

namespace harrow {

struct ScaledInputs {
  std::map<std::string, std::string> notes;  // by weight name: what was done, or why nothing was
  std::map<std::string, TensorView> norms;  // those that changed, by name, as they are to be stored
  // Scaled linears with steps before the one that scales, by weight name, as these must see them.
  // None of a linear with a low-rank step, whose product could not follow: it is scaled from the
  // start.
  std::map<std::string, UnscaledLayer> unscaled;
};

// Asks the methods that scale inputs (AWQ) for the scales of each set of linears of `block`, which
// must be loaded, that share an input, and moves them into what makes that input: the norm before
// q, k, v and before gate, up; the rows of v_proj before o_proj, where every query head has a value
// head of its own; the rows of up_proj before down_proj. Weights become float32 until they are
// stored. Norms keep the type that they have in `source`; what that rounds is made up for in the
// weights, so that only float32 rounding is left. Statistics become those of the scaled inputs.
//
// Nothing is scaled where a linear of the set, or the linear that makes its input, has no such step
// or is packed already.
Result<ScaledInputs> ScaleInputs(const CompressionPlan& plan, const TensorSource& source,
                                 const StatisticsObserver& statistics, ThreadPool* pool,
                                 const RunControl* control, Block* block);

}  // namespace harrow

#endif  // HARROW_COMPRESS_RESCALE_H_
