// Gathers input statistics during forward passes, through the model's Observer hook.
#ifndef HARROW_COMPRESS_STATISTICS_OBSERVER_H_
#define HARROW_COMPRESS_STATISTICS_OBSERVER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/dense_stream.h"
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
  // As above, with the dense model's inputs from `dense`, which must run each sequence first.
  void WatchDense(const std::vector<const LinearLayer*>& group, StatisticsNeed need,
                  DenseStream* dense) {
    Watch(group, need);
    dense->Watch(group.front()->name);
    dense_ = dense;
  }
  bool empty() const { return first_.empty(); }
  void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) override {
    const auto found = first_.find(name);
    if (found == first_.end() || !status_.ok()) return;
    InputStatistics& statistics = *found->second;
    const int64_t token = statistics.tokens() - tokens_before_[found->first];
    status_ = statistics.Add(x, m).At(name);
    if (statistics.has_dense()) statistics.AddDense(x, dense_->Input(name, token, m, k), m);
  }
  Status EndSequence() {
    for (const auto& [name, statistics] : first_) {
      statistics->EndSequence();
      tokens_before_[name] = statistics->tokens();
    }
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
  std::map<std::string, int64_t, std::less<>> tokens_before_;  // tokens of the sequences before
  DenseStream* dense_ = nullptr;
  Status status_;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_STATISTICS_OBSERVER_H_
