// The known name that a misspelt one most likely means, for messages.
#ifndef HARROW_NEAREST_H_
#define HARROW_NEAREST_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace harrow {

// Insertions, deletions and replacements of one character, and exchanges of two neighbours, that
// turn `a` into `b` (optimal string alignment).
inline size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> distance(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        distance[i][j] = i + j;
        continue;
      }
      distance[i][j] =
          std::min({distance[i - 1][j] + 1, distance[i][j - 1] + 1,
                    distance[i - 1][j - 1] + static_cast<size_t>(a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
      }
    }
  }
  return distance[a.size()][b.size()];
}

// The nearest of `names`, the first of several; empty where none is nearer to `name` than a third
// of its length (but one mistake is always allowed, and never more than three).
inline std::string NearestName(std::string_view name, const std::vector<std::string>& names) {
  constexpr size_t kMaxLength = 64;
  if (name.size() > kMaxLength) return "";
  size_t best = std::clamp<size_t>(name.size() / 3, 1, 3) + 1;
  std::string nearest;
  for (const std::string& candidate : names) {
    const size_t distance = EditDistance(name, candidate);
    if (distance >= best) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace harrow

#endif  // HARROW_NEAREST_H_
