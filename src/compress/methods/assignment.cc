#include "compress/methods/assignment.h"

#include <limits>

#include "base/check.h"

namespace harrow {

// Costs are -value. Potentials keep cost - of_row - of_column >= 0 everywhere and 0 on the pairs
// made so far; each row is added along a shortest path of such reduced costs to a free column.
std::vector<int32_t> MaximizeAssignment(const std::vector<double>& value, int64_t n) {
  HARROW_CHECK(static_cast<int64_t>(value.size()) == n * n);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto size = static_cast<size_t>(n);
  std::vector<double> of_row(size, 0.0);
  std::vector<double> of_column(size, 0.0);
  std::vector<int64_t> row_of(size, -1);
  std::vector<int64_t> column_of(size, -1);
  std::vector<double> distance(size);
  std::vector<int64_t> from_row(size);  // the last row on the shortest path to a column
  std::vector<uint8_t> reached(size);
  std::vector<int64_t> path;  // columns whose distance is final

  for (int64_t start = 0; start < n; ++start) {
    distance.assign(size, kInfinity);
    reached.assign(size, 0);
    path.clear();
    int64_t row = start;
    double length = 0;
    int64_t end = -1;
    while (end < 0) {
      const double* values = value.data() + row * n;
      const double base = length - of_row[static_cast<size_t>(row)];
      int64_t nearest = -1;
      double shortest = kInfinity;
      for (int64_t c = 0; c < n; ++c) {
        const auto column = static_cast<size_t>(c);
        if (reached[column] != 0) continue;
        const double through = base - values[c] - of_column[column];
        if (through < distance[column]) {
          distance[column] = through;
          from_row[column] = row;
        }
        if (distance[column] < shortest) {
          shortest = distance[column];
          nearest = c;
        }
      }
      length = shortest;
      reached[static_cast<size_t>(nearest)] = 1;
      const int64_t owner = row_of[static_cast<size_t>(nearest)];
      if (owner < 0) {
        end = nearest;
      } else {
        path.push_back(nearest);
        row = owner;
      }
    }
    of_row[static_cast<size_t>(start)] += length;
    for (const int64_t column : path) {
      const double slack = length - distance[static_cast<size_t>(column)];
      of_column[static_cast<size_t>(column)] -= slack;
      of_row[static_cast<size_t>(row_of[static_cast<size_t>(column)])] += slack;
    }
    for (int64_t column = end; column >= 0;) {
      const int64_t owner = from_row[static_cast<size_t>(column)];
      row_of[static_cast<size_t>(column)] = owner;
      const int64_t next = column_of[static_cast<size_t>(owner)];
      column_of[static_cast<size_t>(owner)] = column;
      column = owner == start ? -1 : next;
    }
  }
  return {column_of.begin(), column_of.end()};
}

}  // namespace harrow
