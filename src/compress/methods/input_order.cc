#include "compress/methods/input_order.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

#include "base/check.h"
#include "compress/methods/assignment.h"

namespace harrow {
namespace {

// The inputs of one run; where runs share their order, input d stands for the d-th of each.
class Run {
 public:
  Run(const std::vector<double>& scores, int64_t first, const InputRuns& runs, const NmPattern& nm,
      const LayerWork& layer)
      : width_(runs.width), height_(layer.rows * runs.shared), nm_(nm), layer_(layer) {
    columns_.resize(static_cast<size_t>(width_ * height_));
    for (int64_t d = 0; d < width_; ++d) {
      double* column = columns_.data() + d * height_;
      for (int64_t s = 0; s < runs.shared; ++s) {
        const int64_t input = first + s * width_ + d;
        for (int64_t row = 0; row < layer.rows; ++row)
          *column++ = scores[static_cast<size_t>(row * layer.cols + input)];
      }
    }
  }

  // Sum of the scores that the pattern leaves when the inputs stand in this order.
  double Kept(const std::vector<int32_t>& order) const {
    std::vector<double> kept(static_cast<size_t>(Groups()), 0.0);
    layer_.pool->ParallelFor(Groups(), 4, [&](int64_t begin, int64_t end) {
      std::vector<double> group(static_cast<size_t>(nm_.of));
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t row = 0; row < height_; ++row) {
          Gather(order, g, -1, row, group.data());
          std::nth_element(group.begin(), group.begin() + (nm_.keep - 1), group.end(),
                           std::greater<>());
          kept[static_cast<size_t>(g)] +=
              std::accumulate(group.begin(), group.begin() + nm_.keep, 0.0);
        }
      }
    });
    return std::accumulate(kept.begin(), kept.end(), 0.0);
  }

  // Inputs from the lowest to the highest sum; the first G of them take the first slot of the
  // groups 0 to G - 1, the next G the second slot of G - 1 to 0, and so on.
  std::vector<int32_t> Deal() const {
    std::vector<double> sums(static_cast<size_t>(width_));
    for (int64_t d = 0; d < width_; ++d) {
      const double* column = columns_.data() + d * height_;
      sums[static_cast<size_t>(d)] = std::accumulate(column, column + height_, 0.0);
    }
    std::vector<int32_t> sorted(static_cast<size_t>(width_));
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(), [&sums](int32_t a, int32_t b) {
      return sums[static_cast<size_t>(a)] < sums[static_cast<size_t>(b)];
    });
    std::vector<int32_t> order(sorted.size());
    for (int64_t slot = 0; slot < nm_.of; ++slot) {
      for (int64_t i = 0; i < Groups(); ++i) {
        const int64_t group = slot % 2 == 0 ? i : Groups() - 1 - i;
        order[static_cast<size_t>(group * nm_.of + slot)] =
            sorted[static_cast<size_t>(slot * Groups() + i)];
      }
    }
    return order;
  }

  // Gives the inputs in `slot` of all groups to the groups where they keep most.
  void Assign(int64_t slot, std::vector<int32_t>* order) const {
    // Beside the others of its group, an input of score x keeps max(x, t) more than their N - 1
    // highest scores, with t the N-th highest.
    const int64_t groups = Groups();
    std::vector<double> rivals(static_cast<size_t>(groups * height_));
    layer_.pool->ParallelFor(groups, 4, [&](int64_t begin, int64_t end) {
      std::vector<double> others(static_cast<size_t>(nm_.of));
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t row = 0; row < height_; ++row) {
          Gather(*order, g, slot, row, others.data());
          std::nth_element(others.begin(), others.begin() + (nm_.keep - 1), others.end() - 1,
                           std::greater<>());
          rivals[static_cast<size_t>(g * height_ + row)] =
              others[static_cast<size_t>(nm_.keep - 1)];
        }
      }
    });
    std::vector<double> value(static_cast<size_t>(groups * groups));
    // Inputs in the outer tiles: each group's rivals are read once for all inputs of a tile.
    constexpr int64_t kTile = 16;
    layer_.pool->ParallelFor(groups, kTile, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; tile += kTile) {
        for (int64_t g = 0; g < groups; ++g) {
          for (int64_t i = tile; i < std::min(tile + kTile, end); ++i) {
            const int32_t input = (*order)[static_cast<size_t>(i * nm_.of + slot)];
            value[static_cast<size_t>(i * groups + g)] =
                SumOfMaxima(columns_.data() + input * height_, rivals.data() + g * height_);
          }
        }
      }
    });
    const std::vector<int32_t> group_of = MaximizeAssignment(value, groups);
    const std::vector<int32_t> before = *order;
    for (int64_t i = 0; i < groups; ++i) {
      (*order)[static_cast<size_t>(group_of[static_cast<size_t>(i)] * nm_.of + slot)] =
          before[static_cast<size_t>(i * nm_.of + slot)];
    }
  }

 private:
  int64_t Groups() const { return width_ / nm_.of; }

  // The scores of group `g` in a row, without the one in `skip`.
  void Gather(const std::vector<int32_t>& order, int64_t g, int64_t skip, int64_t row,
              double* out) const {
    for (int64_t slot = 0; slot < nm_.of; ++slot) {
      if (slot == skip) continue;
      *out++ = columns_[static_cast<size_t>(
          order[static_cast<size_t>(g * nm_.of + slot)] * height_ + row)];
    }
  }

  double SumOfMaxima(const double* a, const double* b) const {
    constexpr int64_t kLanes = 8;  // independent sums, so that the loop becomes vector code
    std::array<double, kLanes> sums{};
    int64_t i = 0;
    for (; i + kLanes <= height_; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        sums[static_cast<size_t>(lane)] += a[i + lane] > b[i + lane] ? a[i + lane] : b[i + lane];
    }
    for (; i < height_; ++i)
      sums[0] += std::max(a[i], b[i]);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  const int64_t width_;
  const int64_t height_;
  const NmPattern nm_;
  const LayerWork& layer_;
  std::vector<double> columns_;  // [width, height]
};

}  // namespace

Result<InputOrder> FindInputOrder(const std::vector<double>& scores, const NmPattern& nm,
                                  const InputRuns& runs, OrderSearch search,
                                  const LayerWork& layer) {
  const int64_t span = runs.width * runs.shared;
  HARROW_CHECK(runs.width % nm.of == 0 && layer.cols % span == 0);
  InputOrder result;
  std::vector<int32_t> order(static_cast<size_t>(layer.cols));
  bool changed = false;
  for (int64_t first = 0; first < layer.cols; first += span) {
    const Run run(scores, first, runs, nm, layer);
    std::vector<int32_t> best(static_cast<size_t>(runs.width));
    std::iota(best.begin(), best.end(), 0);
    double kept = run.Kept(best);
    result.kept_before += kept;
    const auto offer = [&](std::vector<int32_t> candidate) {
      const double candidate_kept = run.Kept(candidate);
      if (candidate_kept <= kept) return;
      best = std::move(candidate);
      kept = candidate_kept;
      changed = true;
    };
    offer(run.Deal());
    for (int64_t slot = 0; search == OrderSearch::kAssignment && slot < nm.of; ++slot) {
      if (layer.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
      std::vector<int32_t> candidate = best;
      run.Assign(slot, &candidate);
      offer(std::move(candidate));
    }
    result.kept_after += kept;
    for (int64_t s = 0; s < runs.shared; ++s) {
      const int64_t base = first + s * runs.width;
      for (int64_t d = 0; d < runs.width; ++d) {
        order[static_cast<size_t>(base + d)] =
            static_cast<int32_t>(base + best[static_cast<size_t>(d)]);
      }
    }
  }
  if (changed) result.order = std::move(order);
  return result;
}

}  // namespace harrow
