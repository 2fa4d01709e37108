// The linear sum assignment problem.
#ifndef HARROW_COMPRESS_METHODS_ASSIGNMENT_H_
#define HARROW_COMPRESS_METHODS_ASSIGNMENT_H_

#include <cstdint>
#include <vector>

namespace harrow {

// `value` [n, n], finite: the column of each row so that every column is taken once and the sum of
// value[row, column] is as large as possible. O(n^3) at worst.
// Source: shortest augmenting paths with potentials, Jonker and Volgenant, Computing 38 (1987).
std::vector<int32_t> MaximizeAssignment(const std::vector<double>& value, int64_t n);

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_ASSIGNMENT_H_
