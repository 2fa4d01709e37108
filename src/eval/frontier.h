// Which points of a study are worth having.
#ifndef HARROW_EVAL_FRONTIER_H_
#define HARROW_EVAL_FRONTIER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "harrow/study.h"

namespace harrow {

struct CostAndLoss {
  double cost = 0;
  double loss = 0;
};
// For each point the indices of those that dominate it: neither more cost nor more loss, and one of
// them less. Ascending. A point with a NaN neither dominates nor is dominated.
std::vector<std::vector<size_t>> Dominators(const std::vector<CostAndLoss>& points);

// Fills dominated_bytes, dominated_decode and dominated_prefill.
void MarkDominated(std::vector<StudyPoint>* points);

// "sparse", "smaller dense" (removed structure, low rank), "dense quantized" or "dense"; the first
// that holds.
const char* FormOf(const StudyPoint& point);

// Sentences: for each point to beat, and for each of the recipes' own points without zeros that is
// the best of its kind in bytes, whether a sparse one of no more KL costs less, in bytes, decode
// time and prefill time; and which sparse points store no fewer bits a weight than a point to beat.
std::vector<std::string> JudgeSparse(const std::vector<StudyPoint>& points);

}  // namespace harrow

#endif  // HARROW_EVAL_FRONTIER_H_
