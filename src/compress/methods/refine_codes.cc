#include "compress/methods/refine_codes.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "base/check.h"
#include "compress/methods/grid.h"
#include "compress/methods/least_squares.h"

namespace harrow {
namespace {

constexpr int64_t kRows = 256;           // that share one product with A
constexpr int64_t kExchangeInputs = 16;  // of unstructured masks

// One row [cols]: its values, their mask, which of them must stay zero (null: all that are pruned),
// and what they lack: lack = (W - w) A.
struct Row {
  double* w;
  uint8_t* pruned;
  const uint8_t* fixed;
  double* lack;
};

class Refinement {
 public:
  Refinement(const MaskedLeastSquares& least_squares, const LayerWork& layer)
      : hessian_(layer.statistics->hessian()),
        cols_(layer.cols),
        ridge_(least_squares.ridge()),
        quantization_(*layer.quantization),
        groups_((layer.cols + quantization_.group - 1) / quantization_.group),
        blocks_(layer.pattern.block.has_value()),
        run_(layer.pattern.nm ? layer.pattern.nm->of : kExchangeInputs) {}

  // One sweep over a row; how many codes changed.
  int64_t Sweep(int64_t index, const Row& row) const {
    int64_t changes = 0;
    for (int64_t begin = 0; begin < cols_; begin += run_) {
      const int64_t end = std::min(cols_, begin + run_);
      for (int64_t j = begin; j < end; ++j) {
        if (row.pruned[j] != 0 || !Seen(j)) continue;
        const double change = Best(index, j, row.w[j] + row.lack[j] / Diagonal(j)) - row.w[j];
        // Halfway between two codes a change would gain nothing, and come back in the next sweep.
        if (change == 0 || Gain(j, change, row.lack[j]) <= 0) continue;
        Move(j, change, row);
        ++changes;
      }
      if (row.fixed != nullptr && !blocks_) changes += Exchange(index, begin, end, row);
    }
    return changes;
  }

 private:
  double Diagonal(int64_t j) const { return At(j, j) + ridge_; }
  double At(int64_t i, int64_t j) const { return hessian_[static_cast<size_t>(i * cols_ + j)]; }
  // An input that was always zero says nothing about its weight.
  bool Seen(int64_t j) const { return At(j, j) > 0; }
  double Best(int64_t index, int64_t j, double value) const {
    const auto i = static_cast<size_t>(index * groups_ + j / quantization_.group);
    const QuantGrid& grid = *quantization_.grid;
    return RoundToGrid(quantization_.values,
                       {grid.scales[i], grid.zeros.empty() ? 0.0f : grid.zeros[i]}, value);
  }
  // By how much the error falls when weight j alone moves by `change`.
  double Gain(int64_t j, double change, double lack) const {
    return change * (2 * lack - change * Diagonal(j));
  }
  void Move(int64_t j, double change, const Row& row) const {
    row.w[j] += change;
    const double* column = hessian_.data() + j * cols_;
    for (int64_t k = 0; k < cols_; ++k)
      row.lack[k] -= change * column[k];
    row.lack[j] -= change * ridge_;
  }

  // The best exchange of a kept weight and a pruned one of inputs [begin, end), again and again
  // until none gains; each weight comes back at most once.
  int64_t Exchange(int64_t index, int64_t begin, int64_t end, const Row& row) const {
    int64_t exchanges = 0;
    for (int64_t round = begin; round < end; ++round) {
      double best_gain = 0;
      double best_value = 0;
      int64_t leaves = -1;
      int64_t returns = -1;
      for (int64_t k = begin; k < end; ++k) {
        if (row.pruned[k] != 0) continue;
        const double removed = -row.w[k];
        const double loss = Gain(k, removed, row.lack[k]);
        for (int64_t p = begin; p < end; ++p) {
          if (row.pruned[p] == 0 || row.fixed[p] != 0 || !Seen(p)) continue;
          const double lack = row.lack[p] - removed * At(k, p);
          const double value = Best(index, p, lack / Diagonal(p));
          const double gain = loss + Gain(p, value, lack);
          if (value == 0 || gain <= best_gain) continue;
          best_gain = gain;
          best_value = value;
          leaves = k;
          returns = p;
        }
      }
      // Less than rounding could give and take is no gain.
      if (leaves < 0 || best_gain <= 1e-9 * best_value * best_value * Diagonal(returns)) break;
      Move(leaves, -row.w[leaves], row);
      row.w[leaves] = 0;
      Move(returns, best_value, row);
      std::swap(row.pruned[leaves], row.pruned[returns]);
      ++exchanges;
    }
    return exchanges;
  }

  const std::vector<double>& hessian_;
  const int64_t cols_;
  const double ridge_;
  const Quantization& quantization_;
  const int64_t groups_;
  const bool blocks_;
  const int64_t run_;
};

}  // namespace

Status RefineCodes(int64_t sweeps, double damping, const std::vector<uint8_t>* fixed,
                   LayerWork* layer) {
  HARROW_CHECK(layer->quantization && layer->quantization->grid != nullptr);
  HARROW_CHECK(layer->original.size() == layer->w.size());
  const int64_t cols = layer->cols;
  const MaskedLeastSquares least_squares(*layer->statistics, damping);
  const Refinement refinement(least_squares, *layer);
  std::vector<double> w(static_cast<size_t>(std::min(kRows, layer->rows) * cols));
  std::vector<double> lack(w.size());
  double before = 0;
  double after = 0;
  int64_t changes = 0;
  for (int64_t begin = 0; begin < layer->rows; begin += kRows) {
    if (layer->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    const int64_t count = std::min(kRows, layer->rows - begin);
    const int64_t size = count * cols;
    const float* original = layer->original.data() + begin * cols;
    float* stored = layer->w.data() + begin * cols;
    const auto error = [&] {
      for (int64_t i = 0; i < size; ++i)
        w[static_cast<size_t>(i)] = static_cast<double>(original[i]) - stored[i];
      least_squares.Multiply(w.data(), count, lack.data());
      return std::inner_product(w.begin(), w.begin() + size, lack.begin(), 0.0);
    };
    before += error();
    std::copy_n(stored, size, w.begin());
    std::atomic<int64_t> changed = 0;  // a sum of integers: the order of threads does not show
    layer->pool->ParallelFor(count, 4, [&](int64_t from, int64_t to) {
      for (int64_t row = from; row < to; ++row) {
        const int64_t first = (begin + row) * cols;
        const Row work = {w.data() + row * cols, layer->pruned.data() + first,
                          fixed != nullptr ? fixed->data() + first : nullptr,
                          lack.data() + row * cols};
        for (int64_t sweep = 0; sweep < sweeps; ++sweep) {
          const int64_t moved = refinement.Sweep(begin + row, work);
          changed += moved;
          if (moved == 0) break;
        }
      }
    });
    changes += changed;
    std::copy_n(w.begin(), size, stored);
    after += error();
  }
  layer->notes.push_back(
      fmt::format("refined codes: {} changes, the damped error fell to {:.4g} of what it was",
                  changes, before > 0 ? after / before : 1.0));
  return OkStatus();
}

}  // namespace harrow
