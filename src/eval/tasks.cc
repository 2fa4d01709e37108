#include "eval/tasks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/statistics.h"
#include "kernels/elementwise.h"
#include "runtime/session.h"

namespace harrow {
namespace {

constexpr size_t kMaxChoices = 1000;

Result<std::string> StringField(const nlohmann::json& object, const char* key,
                                const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) {
    return Corruption("{}: \"{}\" must be a string", where, key);
  }
  return it->get<std::string>();
}

// A string or a number, as text.
Result<std::optional<std::string>> LabelField(const nlohmann::json& object, const char* key,
                                              const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return std::optional<std::string>();
  if (it->is_string()) return std::optional<std::string>(it->get<std::string>());
  if (it->is_number()) return std::optional<std::string>(it->dump());
  return Corruption("{}: \"{}\" must be a string or a number", where, key);
}

Result<TaskItem> ParseItem(const nlohmann::json& object, std::string where,
                           const std::string& default_part) {
  if (!object.is_object()) return Corruption("{}: must be a JSON object", where);
  TaskItem item;
  HARROW_ASSIGN_OR_RETURN(const auto id, LabelField(object, "id", where));
  if (id) {
    where += " (" + *id + ")";
    item.id = *id;
  }
  HARROW_ASSIGN_OR_RETURN(const auto part, LabelField(object, "part", where));
  item.part = part.value_or(default_part);
  HARROW_ASSIGN_OR_RETURN(item.distance, LabelField(object, "distance", where));
  HARROW_ASSIGN_OR_RETURN(item.context, StringField(object, "context", where));
  const auto choices = object.find("choices");
  if (choices == object.end() || !choices->is_array() || choices->size() < 2 ||
      choices->size() > kMaxChoices) {
    return Corruption("{}: \"choices\" must be an array of 2 to {} strings", where, kMaxChoices);
  }
  for (const nlohmann::json& choice : *choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
      return Corruption("{}: every choice must be a non-empty string", where);
    }
    item.choices.push_back(choice.get<std::string>());
  }
  const auto answer = object.find("answer");
  const int64_t count = static_cast<int64_t>(item.choices.size());
  if (answer == object.end() || !answer->is_number_integer() ||
      (answer->is_number_unsigned() && answer->get<uint64_t>() >= item.choices.size()) ||
      answer->get<int64_t>() < 0 || answer->get<int64_t>() >= count) {
    return Corruption("{}: \"answer\" must be the index of a choice, 0 .. {}", where, count - 1);
  }
  item.answer = answer->get<int64_t>();
  item.where = std::move(where);
  return item;
}

// Unicode characters of valid UTF-8, as lm-eval's len() of a Python string counts them.
int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

struct Tally {
  int64_t n = 0;
  int64_t correct = 0;
  int64_t correct_norm = 0;
  double chance = 0;

  void Add(const ItemScore& item) {
    ++n;
    correct += item.correct ? 1 : 0;
    correct_norm += item.correct_norm ? 1 : 0;
    chance += item.chance;
  }
  TaskRow Row(std::string part, std::optional<std::string> distance) const {
    TaskRow row;
    row.part = std::move(part);
    row.distance = std::move(distance);
    row.n = n;
    const double count = static_cast<double>(n);
    row.acc = static_cast<double>(correct) / count;
    row.acc_stderr = FractionStandardError(row.acc, n);
    row.acc_norm = static_cast<double>(correct_norm) / count;
    row.acc_norm_stderr = FractionStandardError(row.acc_norm, n);
    row.chance = chance / count;
    return row;
  }
};

// Numbers by value and before words, words alphabetically.
struct DistanceLess {
  bool operator()(const std::string& a, const std::string& b) const {
    char* end_a = nullptr;
    char* end_b = nullptr;
    const double x = std::strtod(a.c_str(), &end_a);
    const double y = std::strtod(b.c_str(), &end_b);
    const bool number_a = !a.empty() && *end_a == '\0' && !std::isnan(x);
    const bool number_b = !b.empty() && *end_b == '\0' && !std::isnan(y);
    if (number_a != number_b) return number_a;
    if (number_a && x != y) return x < y;
    return a < b;
  }
};

// The tokens that a session holds, so that the choices of a question share its context.
struct CachedSession {
  Session session;
  std::vector<int32_t> ids;
};

// Sum of log-likelihoods of pair.ids[split..). Longer than the context: the oldest tokens are left
// out as lm-eval does (HFLM._loglikelihood_tokens keeps the last context + 1 tokens, the last of
// which is only a target).
Result<double> LogLikelihood(CachedSession* cached, const ModelConfig& config, ScoredPair pair,
                             bool* truncated) {
  const int64_t context = config.max_context;
  const int64_t vocab = config.vocab;
  const int64_t excess = static_cast<int64_t>(pair.ids.size()) - (context + 1);
  if (excess > 0) {
    if (pair.split - excess < 1) {
      return InvalidArgument("the choice alone has {} tokens, more than the model's context of {}",
                             pair.ids.size() - pair.split, context);
    }
    pair.ids.erase(pair.ids.begin(), pair.ids.begin() + excess);
    pair.split -= excess;
    *truncated = true;
  }
  const auto inputs = static_cast<int64_t>(pair.ids.size()) - 1;
  // The logits before the first scored token are needed anew.
  const int64_t limit = std::min(pair.split - 1, static_cast<int64_t>(cached->ids.size()));
  int64_t shared = 0;
  while (shared < limit && cached->ids[shared] == pair.ids[shared])
    ++shared;
  cached->session.Rewind(shared);
  cached->ids.clear();  // until it is known that the session holds them
  double sum = 0;
  HARROW_RETURN_IF_ERROR(cached->session.AppendAll(
      pair.ids.data() + shared, inputs - shared, [&](int64_t i, const float* logits) {
        const int64_t next = shared + i + 1;
        if (next >= pair.split) sum += logits[pair.ids[next]] - LogSumExp(logits, vocab);
      }));
  cached->ids.assign(pair.ids.begin(), pair.ids.end() - 1);
  if (!std::isfinite(sum)) return Error(StatusCode::kNumerical, "log-likelihood is {}", sum);
  return sum;
}

}  // namespace

Result<std::vector<TaskItem>> ParseTaskFile(std::string_view jsonl, std::string_view where,
                                            const std::string& default_part, int64_t limit) {
  std::vector<TaskItem> items;
  int64_t line_number = 0;
  while (!jsonl.empty() && (limit == 0 || static_cast<int64_t>(items.size()) < limit)) {
    const size_t end = jsonl.find('\n');
    const std::string_view line = jsonl.substr(0, end);
    jsonl.remove_prefix(end == std::string_view::npos ? jsonl.size() : end + 1);
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}:{}", where, line_number);
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (object.is_discarded()) return Corruption("{}: is not valid JSON", place);
    HARROW_ASSIGN_OR_RETURN(TaskItem item, ParseItem(object, place, default_part));
    items.push_back(std::move(item));
  }
  if (items.empty()) return Corruption("{}: holds no question", where);
  return items;
}

Result<ScoredPair> EncodePair(const Encoder& encode, std::string_view context,
                              std::string_view choice, int32_t prefix_id) {
  const size_t last = context.find_last_not_of(' ');
  const size_t kept = last == std::string_view::npos ? 0 : last + 1;
  const std::string whole = std::string(context) + std::string(choice);
  ScoredPair pair;
  HARROW_ASSIGN_OR_RETURN(pair.ids, encode(whole));
  HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> head, encode(context.substr(0, kept)));
  pair.split = static_cast<int64_t>(head.size());
  if (pair.split == 0) {
    if (prefix_id < 0) {
      return Unsupported("an empty context needs a begin- or end-of-text token to start from");
    }
    pair.ids.insert(pair.ids.begin(), prefix_id);
    pair.split = 1;
  }
  if (pair.split >= static_cast<int64_t>(pair.ids.size())) {
    return Unsupported("choice '{}' adds no token of its own to the context", choice);
  }
  return pair;
}

ItemScore JudgeItem(const TaskItem& item, const std::vector<double>& log_likelihoods) {
  size_t best = 0;
  size_t best_norm = 0;
  const auto norm = [&](size_t i) {
    return log_likelihoods[i] / static_cast<double>(Characters(item.choices[i]));
  };
  for (size_t i = 1; i < log_likelihoods.size(); ++i) {
    if (log_likelihoods[i] > log_likelihoods[best]) best = i;
    if (norm(i) > norm(best_norm)) best_norm = i;
  }
  ItemScore score;
  score.part = item.part;
  score.distance = item.distance;
  score.correct = static_cast<int64_t>(best) == item.answer;
  score.correct_norm = static_cast<int64_t>(best_norm) == item.answer;
  score.chance = 1.0 / static_cast<double>(item.choices.size());
  return score;
}

std::vector<TaskRow> TabulateItems(const std::vector<ItemScore>& items) {
  Tally all;
  std::vector<std::string> order;
  std::map<std::string, Tally> parts;
  std::map<std::string, std::map<std::string, Tally, DistanceLess>> distances;
  for (const ItemScore& item : items) {
    all.Add(item);
    if (parts.find(item.part) == parts.end()) order.push_back(item.part);
    parts[item.part].Add(item);
    if (item.distance) distances[item.part][*item.distance].Add(item);
  }
  std::vector<TaskRow> rows;
  if (all.n == 0) return rows;
  rows.push_back(all.Row("all", std::nullopt));
  for (const std::string& part : order) {
    rows.push_back(parts[part].Row(part, std::nullopt));
    for (const auto& entry : distances[part]) {
      rows.push_back(entry.second.Row(part, entry.first));
    }
  }
  return rows;
}

Result<std::vector<std::string>> TaskFiles(const std::vector<std::string>& entries) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const std::string& entry : entries) {
    std::error_code error;
    if (!fs::is_directory(entry, error)) {
      files.push_back(entry);
      continue;
    }
    std::vector<std::string> inside;
    for (fs::directory_iterator it(entry, error), end; !error && it != end; it.increment(error)) {
      if (it->path().extension() == ".jsonl") inside.push_back(it->path().string());
    }
    if (error) return Error(StatusCode::kIoError, "--tasks: {}: {}", entry, error.message());
    if (inside.empty()) return NotFound("--tasks: {}: holds no *.jsonl", entry);
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  }
  std::set<std::string> seen;
  for (const std::string& file : files) {
    if (!seen.insert(fs::path(file).lexically_normal().string()).second) {
      return InvalidArgument("--tasks: {} is given twice", file);
    }
  }
  return files;
}

Result<TaskReport> MeasureTasks(const LoadedModel& model, const TaskOptions& options,
                                const RunControl* control) {
  if (options.bos != "model" && options.bos != "none") {
    return InvalidArgument("--bos: '{}' is unknown; it may be model or none", options.bos);
  }
  const SpecialTokens special =
      options.bos == "model" ? SpecialTokens::kModelDefault : SpecialTokens::kNone;
  TaskReport report;
  std::vector<TaskItem> items;
  HARROW_ASSIGN_OR_RETURN(const std::vector<std::string> files, TaskFiles(options.tasks));
  for (const std::string& file : files) {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadText(file));
    report.files.push_back(file);
    report.file_hashes.push_back(TextHash(text));
    HARROW_ASSIGN_OR_RETURN(
        std::vector<TaskItem> parsed,
        ParseTaskFile(text, file, std::filesystem::path(file).stem().string(), options.limit));
    std::move(parsed.begin(), parsed.end(), std::back_inserter(items));
  }
  const Encoder encode = [&](std::string_view text) { return Tokenize(model, text, special); };
  // Fails here, with its reason, when there is no tokenizer.
  HARROW_RETURN_IF_ERROR(encode("").status());
  const int32_t prefix_id =
      model.tokenizer->bos_id() >= 0 ? model.tokenizer->bos_id() : model.tokenizer->eos_id();

  const ModelConfig& config = model.model->config();
  HARROW_ASSIGN_OR_RETURN(const KvType cache_type, ResolveCacheType(options.cache_type, config));
  CachedSession session = {Session(model.model.get(), model.pool.get(), {.cache_type = cache_type}),
                           {}};
  std::string samples;
  const auto start = std::chrono::steady_clock::now();
  std::vector<ItemScore> scores;
  for (const TaskItem& item : items) {
    if (control != nullptr) {
      if (control->Cancelled()) return Status(StatusCode::kCancelled, "tasks interrupted");
      control->Progress("tasks: questions", static_cast<int64_t>(scores.size()),
                        static_cast<int64_t>(items.size()));
    }
    std::vector<double> log_likelihoods;
    for (const std::string& choice : item.choices) {
      Result<ScoredPair> pair = EncodePair(encode, item.context, choice, prefix_id);
      if (!pair.ok()) return pair.status().At(item.where);
      bool truncated = false;
      const Result<double> value =
          LogLikelihood(&session, config, std::move(pair).value(), &truncated);
      if (!value.ok()) {
        return AtText(BlameWeights(model, value.status()), item.where);
      }
      report.truncated += truncated ? 1 : 0;
      log_likelihoods.push_back(*value);
    }
    scores.push_back(JudgeItem(item, log_likelihoods));
    if (!options.log_samples.empty()) {
      samples += nlohmann::ordered_json{{"id", item.id},
                                        {"part", item.part},
                                        {"answer", item.answer},
                                        {"log_likelihoods", log_likelihoods},
                                        {"correct", scores.back().correct}}
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                 "\n";
    }
  }
  if (control != nullptr && report.truncated > 0) {
    control->Warn(fmt::format("{} choices were cut on the left to fit the model's context of {}",
                              report.truncated, config.max_context));
  }
  if (!options.log_samples.empty()) {
    HARROW_RETURN_IF_ERROR(WriteFileAtomically(options.log_samples, samples));
  }
  report.rows = TabulateItems(scores);
  report.bos = special == SpecialTokens::kModelDefault && model.tokenizer->adds_bos()
                   ? "every question"
                   : "none";
  report.kernels = model.model->KernelNames(512);
  report.cache_type = options.cache_type;
  report.threads = model.pool->size();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace harrow
