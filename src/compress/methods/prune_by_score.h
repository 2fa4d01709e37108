// Pruning without a weight update: zero the weights with the lowest scores.
#ifndef HARROW_COMPRESS_METHODS_PRUNE_BY_SCORE_H_
#define HARROW_COMPRESS_METHODS_PRUNE_BY_SCORE_H_

#include <functional>

#include "compress/methods/selection.h"

namespace harrow {

// `score(row, out)` writes the scores of one row, [cols], non-negative. It may be called from
// several threads.
using RowScore = std::function<void(int64_t row, double* out)>;
Status PruneByScore(const SparsityTarget& target, const RowScore& score, LayerWork* layer);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_PRUNE_BY_SCORE_H_
