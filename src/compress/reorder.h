// Channel permutation inside a block: inputs of a linear change places together with the outputs
// that feed them, so that the block computes the same.
#ifndef HARROW_COMPRESS_REORDER_H_
#define HARROW_COMPRESS_REORDER_H_

#include <map>
#include <string>

#include "base/run_control.h"
#include "base/thread_pool.h"
#include "compress/plan.h"
#include "compress/statistics_observer.h"
#include "model/model.h"

namespace harrow {

// Asks the methods that order inputs for the inputs of o_proj, which may change places within a
// head as the rows of v_proj do (alike in all query heads of a key-value head), and for those of
// down_proj, as the rows of gate_proj and up_proj do. All other inputs are the residual stream,
// which the whole model shares, and stay. Rewrites the weights of `block`, which must be loaded,
// and the statistics of what is reordered. Returns a note for each weight whose method would have
// its inputs ordered, by weight name.
Result<std::map<std::string, std::string>> ReorderInputs(const CompressionPlan& plan,
                                                         int32_t head_dim,
                                                         const StatisticsObserver& statistics,
                                                         ThreadPool* pool,
                                                         const RunControl* control, Block* block);

}  // namespace harrow

#endif  // HARROW_COMPRESS_REORDER_H_
