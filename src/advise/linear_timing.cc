#include "advise/linear_timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/machine.h"
#include "base/rng.h"
#include "formats/random_weight.h"

namespace harrow {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Result<WeightStack> WeightStack::Make(const WeightSpec& spec, int64_t rows, int64_t cols,
                                      double density, uint64_t bytes) {
  HARROW_ASSIGN_OR_RETURN(const LinearWeight weight,
                          PackRandomWeight(spec, rows, cols, density, /*seed=*/1));
  const uint64_t each = (weight.data.size() + 63) / 64 * 64;
  const uint64_t count = std::max<uint64_t>(2, (bytes + each - 1) / each);
  WeightStack stack;
  stack.memory_ = AlignedArray<std::byte>(count * each);
  for (uint64_t i = 0; i < count; ++i) {
    std::byte* const at = stack.memory_.data() + i * each;
    std::memcpy(at, weight.data.data(), weight.data.size());
    LinearWeight copy = weight;
    copy.owner = nullptr;
    copy.data = {at, weight.data.size()};
    stack.copies_.push_back(std::move(copy));
  }
  return stack;
}

const LinearWeight& WeightStack::Next() {
  const LinearWeight& weight = copies_[static_cast<size_t>(next_)];
  next_ = (next_ + 1) % size();
  return weight;
}

void WeightStack::MoveTo(std::shared_ptr<const MappedFile> file) {
  HARROW_CHECK(file->bytes().size() == memory_.size());
  for (LinearWeight& copy : copies_) {
    const auto at = static_cast<size_t>(copy.data.data() - memory_.data());
    copy.data = file->bytes().subspan(at, copy.data.size());
    copy.owner = file;
  }
  memory_ = {};
}

uint64_t DefaultStackBytes() {
  return std::clamp<uint64_t>(3 * LastLevelCacheBytes(), uint64_t{64} << 20, uint64_t{512} << 20);
}

ProductTimer::ProductTimer(ThreadPool* pool, int64_t m, int64_t rows, int64_t cols)
    : pool_(pool),
      m_(m),
      x_(static_cast<size_t>(m * cols)),
      y_(static_cast<size_t>(m * rows)),
      scratch_(NewLinearScratch()) {
  Rng rng(2);
  for (float& value : x_)
    value = static_cast<float>(rng.Uniform() * 2 - 1);
}

double ProductTimer::Product(WeightStack* stack, int64_t count) {
  const double begin = Now();
  for (int64_t i = 0; i < count; ++i) {
    const LinearWeight& weight = stack->Next();
    const LinearOp op = {&weight, y_.data(), weight.rows};
    Linear({pool_, scratch_.get()}, {&op, 1}, x_.data(), weight.cols, m_, weight.cols);
  }
  return (Now() - begin) / static_cast<double>(count);
}

std::vector<std::string> RivalKernels(const WeightSpec& spec) {
  std::vector<std::string> names;
  std::set<std::string_view> kinds;
  std::string reference;
  for (const LinearKernelInfo& kernel : ListLinearKernels(spec)) {
    if (!kernel.runs_here) continue;
    const std::string_view kind = kernel.name.substr(0, kernel.name.rfind('.'));
    if (kind == "linear") {  // linear.ref
      reference = kernel.name;
    } else if (kinds.insert(kind).second) {
      names.emplace_back(kernel.name);
    }
  }
  if (names.empty()) names.push_back(reference);
  return names;
}

std::vector<double> TimeRivals(ProductTimer* timer, MemoryRoof* roof, const RivalRounds& rounds,
                               std::vector<Rival>* rivals) {
  constexpr double kLeastSample = 4e-4;  // seconds; shorter ones would time the clock and the fork
  constexpr size_t kMostRounds = 101;
  HARROW_CHECK(ForcedLinearKernel().empty());
  const double end = Now() + rounds.seconds;
  std::vector<int64_t> counts;
  const auto sample = [&](const Rival& rival, int64_t count) {
    HARROW_CHECK(ForceLinearKernel(rival.kernel).ok());
    return timer->Product(rival.stack, count);
  };
  for (const Rival& rival : *rivals) {
    const double seconds = std::max(sample(rival, 1), 1e-9);
    counts.push_back(static_cast<int64_t>(
        std::clamp(std::ceil(kLeastSample / seconds), 1.0, static_cast<double>(1 << 16))));
  }
  const uint64_t first_bytes =
      static_cast<uint64_t>(counts[0]) * rivals->front().stack->weight().data.size();
  std::vector<double> reading;
  while (reading.size() < static_cast<size_t>(rounds.least) ||
         (Now() < end && reading.size() < kMostRounds)) {
    for (size_t step = 0; step < rivals->size(); ++step) {
      const size_t i = reading.size() % 2 == 0 ? step : rivals->size() - 1 - step;
      Rival& rival = (*rivals)[i];
      rival.seconds.push_back(sample(rival, counts[i]));
    }
    reading.push_back(roof->ProbeGbps(first_bytes));
  }
  HARROW_CHECK(ForceLinearKernel("").ok());
  return reading;
}

}  // namespace harrow
