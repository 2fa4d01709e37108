// Multiple-choice tasks scored by log-likelihood, in lm-evaluation-harness's convention.
//
// A task file has one JSON object a line:
//   {"id": "a1", "part": "facts", "context": "The capital of ...is", "choices": [" A", " B"],
//    "answer": 1, "distance": 3}
// "id", "part" (default: the file's name without extension) and "distance" (string or number) are
// optional. A choice follows the context as it is: it brings its own leading space.
#ifndef HARROW_EVAL_TASKS_H_
#define HARROW_EVAL_TASKS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "eval/loaded_model.h"
#include "harrow/eval.h"
#include "harrow/run_control.h"

namespace harrow {

struct TaskItem {
  std::string where;  // "facts.jsonl:12 (a1)"
  std::string id;     // empty when it has none
  std::string part;
  std::optional<std::string> distance;
  std::string context;
  std::vector<std::string> choices;  // at least 2, none empty
  int64_t answer = 0;                // index into choices
};
// Errors name the line. `where` is the file, `default_part` what items without "part" get. The
// parser that is fuzzed.
Result<std::vector<TaskItem>> ParseTaskFile(std::string_view jsonl, std::string_view where,
                                            const std::string& default_part, int64_t limit);

// The files that the entries of --tasks mean: files as they are, folders for their *.jsonl by name.
// An error for a folder without any, and for a file that is meant twice.
Result<std::vector<std::string>> TaskFiles(const std::vector<std::string>& entries);

// The tokens of context + choice, and where the scored part begins. Source: lm-evaluation-harness,
// lm_eval/api/model.py TemplateLM._encode_pair: spaces at the end of the context move to the
// continuation; the whole is encoded at once and split at the length of the encoded context.
struct ScoredPair {
  std::vector<int32_t> ids;
  int64_t split = 0;
};
using Encoder = std::function<Result<std::vector<int32_t>>(std::string_view text)>;
// `prefix_id` (>= 0) stands in for an empty context.
Result<ScoredPair> EncodePair(const Encoder& encode, std::string_view context,
                              std::string_view choice, int32_t prefix_id);

// Sum of log-likelihoods (nats) of each choice, for one item.
struct ItemScore {
  std::string part;
  std::optional<std::string> distance;
  bool correct = false;       // by sum of log-likelihoods; the first of equals wins
  bool correct_norm = false;  // by sum / characters of the choice
  double chance = 0;          // 1 / choices
};
ItemScore JudgeItem(const TaskItem& item, const std::vector<double>& log_likelihoods);

// "all" first, then each part in order of first appearance, each followed by its distances
// (numbers in numeric order).
std::vector<TaskRow> TabulateItems(const std::vector<ItemScore>& items);

Result<TaskReport> MeasureTasks(const LoadedModel& model, const TaskOptions& options,
                                const RunControl* control);

}  // namespace harrow

#endif  // HARROW_EVAL_TASKS_H_
