// Gathers input statistics during forward passes, through the model's Observer hook.
#ifndef HARROW_COMPRESS_STATISTICS_OBSERVER_H_
#define HARROW_COMPRESS_STATISTICS_OBSERVER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/statistics.h"
#include "model/hooks.h"
#include "model/model.h"

namespace harrow {

// Gathers the statistics of one block's inputs.
class StatisticsObserver final : public Observer {
 public:
  // Linears of `group` share their input; the first one's call counts.
  void Watch(const std::vector<const LinearLayer*>& group, StatisticsNeed need) {
    const auto statistics = std::make_shared<InputStatistics>(group.front()->cols, need);
    first_[group.front()->name] = statistics;
    for (const LinearLayer* linear : group)
      by_name_[linear->name] = statistics;
  }
  bool empty() const { return first_.empty(); }
  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t) override {
    const auto found = first_.find(name);
    if (found == first_.end() || !status_.ok()) return;
    status_ = found->second->Add(x, m).At(name);
  }
  Status EndSequence() {
    for (const auto& [name, statistics] : first_)
      statistics->EndSequence();
    return status_;
  }
  void Finish() {
    for (const auto& [name, statistics] : first_)
      statistics->Finish();
    first_.clear();
  }
  // The statistics of a linear that nobody has taken; null when there are none.
  InputStatistics* Find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second.get();
  }
  // Hands the statistics of a linear over; they are freed with their last user.
  std::shared_ptr<InputStatistics> Take(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return nullptr;
    std::shared_ptr<InputStatistics> statistics = std::move(found->second);
    by_name_.erase(found);
    return statistics;
  }

 private:
  std::map<std::string, std::shared_ptr<InputStatistics>, std::less<>> first_;
  std::map<std::string, std::shared_ptr<InputStatistics>, std::less<>> by_name_;
  Status status_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_STATISTICS_OBSERVER_H_
