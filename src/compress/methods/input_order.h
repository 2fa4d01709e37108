// Channel permutation: which inputs should share a group of an N:M pattern, so that the pattern
// has to remove less.
#ifndef HARROW_COMPRESS_METHODS_INPUT_ORDER_H_
#define HARROW_COMPRESS_METHODS_INPUT_ORDER_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "compress/methods/method.h"

namespace harrow {

enum class OrderSearch : uint8_t {
  kHeuristic,   // inputs sorted by summed score are dealt out to the groups
  kAssignment,  // then, slot by slot, the best assignment of inputs to groups
};

// The order found for `scores` [layer.rows, layer.cols], non-negative, where each run is a multiple
// of M wide. Never keeps less than the order there is: where the search finds nothing better,
// inputs stay. Independent of the number of threads. kCancelled.
// Source: Zhang et al., "Plug-and-Play" (RIA), ICLR 2024, lib/prune.py prune_ria: --reallocation
// with importance_score "sum", and --lsa.
Result<InputOrder> FindInputOrder(const std::vector<double>& scores, const NmPattern& nm,
                                  const InputRuns& runs, OrderSearch search,
                                  const LayerWork& layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_INPUT_ORDER_H_
