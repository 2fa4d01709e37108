#include "compress/calibration.h"

#include <xxhash.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/mapped_file.h"
#include "base/rng.h"

namespace harrow {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";

std::string_view TakeLine(std::string_view* rest) {
  const size_t end = rest->find('\n');
  std::string_view line = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Result<std::vector<std::string>> SplitJsonLines(std::string_view bytes, const std::string& path) {
  std::vector<std::string> documents;
  int64_t number = 0;
  while (!bytes.empty()) {
    const std::string_view line = TakeLine(&bytes);
    ++number;
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const nlohmann::json value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object() || !value.contains("text") || !value["text"].is_string()) {
      return InvalidArgument("{}:{}: expected a JSON object with a string `text`", path, number);
    }
    std::string text = value["text"].get<std::string>();
    if (!text.empty()) documents.push_back(std::move(text));
  }
  return documents;
}

std::vector<std::string> SplitPlainText(std::string_view bytes) {
  std::vector<std::string> documents;
  const char* begin = bytes.data();
  const char* end = begin;  // of the document so far
  const auto flush = [&] {
    const std::string_view text(begin, static_cast<size_t>(end - begin));
    if (text.find_first_not_of(" \t\r\n") != std::string_view::npos) documents.emplace_back(text);
  };
  while (!bytes.empty()) {
    const std::string_view line = TakeLine(&bytes);
    if (line == kSeparator) {
      flush();
      begin = bytes.data();
    }
    end = bytes.data();
  }
  flush();
  return documents;
}

class Sampler {
 public:
  Sampler(const CalibrationSpec& spec, int64_t sequence_length, const Tokenizer& tokenizer,
          const std::vector<std::string>& documents, const RunControl* control)
      : spec_(spec),
        length_(sequence_length),
        tokenizer_(tokenizer),
        documents_(documents),
        control_(control),
        rng_(static_cast<uint64_t>(spec.seed)) {}

  Status Papers(Calibration* out) {
    // Token ids of the long documents drawn so far; an empty list marks a short one.
    std::map<uint64_t, std::vector<int32_t>> drawn;
    size_t too_short = 0;
    int64_t longest = 0;
    for (int64_t sample = 0; sample < spec_.samples;) {
      HARROW_RETURN_IF_ERROR(Tick(sample));
      const uint64_t index = rng_.Below(documents_.size());
      auto found = drawn.find(index);
      if (found == drawn.end()) {
        HARROW_ASSIGN_OR_RETURN(std::vector<int32_t> ids, Encode(index));
        longest = std::max(longest, static_cast<int64_t>(ids.size()));
        if (static_cast<int64_t>(ids.size()) <= length_) {
          ids = {};
          ++too_short;
        }
        found = drawn.emplace(index, std::move(ids)).first;
      }
      const std::vector<int32_t>& ids = found->second;
      if (ids.empty()) {
        ++out->rejected_documents;
        if (too_short == documents_.size()) {
          return InvalidArgument(
              "{}: none of its {} documents has more than {} tokens (the longest has {}); use a "
              "smaller sequence_length, longer documents, or mode: concat, which joins documents",
              spec_.file, documents_.size(), length_, longest);
        }
        continue;
      }
      const uint64_t start = rng_.Below(ids.size() - static_cast<uint64_t>(length_));
      const auto first = ids.begin() + static_cast<int64_t>(start);
      out->ids.insert(out->ids.end(), first, first + length_);
      ++sample;
    }
    const auto used = static_cast<int64_t>(
        std::count_if(drawn.begin(), drawn.end(), [](const auto& d) { return !d.second.empty(); }));
    if (used * 2 < spec_.samples) {
      out->warning = fmt::format(
          "calibration: the {} samples are crops of only {} documents of {}, the others have no "
          "more than {} tokens; `mode: concat` joins documents and sees all of the text",
          spec_.samples, used, spec_.file, length_);
    }
    return OkStatus();
  }

  Status Concat(Calibration* out) {
    std::vector<uint64_t> order(documents_.size());
    std::iota(order.begin(), order.end(), uint64_t{0});
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[rng_.Below(i)]);
    const auto needed = static_cast<size_t>(spec_.samples * length_);
    for (const uint64_t index : order) {
      HARROW_RETURN_IF_ERROR(Tick(static_cast<int64_t>(out->ids.size()) / length_));
      HARROW_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(index));
      out->ids.insert(out->ids.end(), ids.begin(), ids.end());
      // Models whose documents do not begin with a BOS were trained on documents that end in EOS;
      // its activations are often the largest of all, and statistics that never saw them prune what
      // carries them.
      if (!tokenizer_.adds_bos() && tokenizer_.eos_id() >= 0)
        out->ids.push_back(tokenizer_.eos_id());
      if (out->ids.size() >= needed) {
        out->ids.resize(needed);
        return OkStatus();
      }
    }
    return InvalidArgument(
        "{}: its {} documents have {} tokens together, but {} samples of {} tokens need {}; use "
        "fewer samples, a smaller sequence_length or more text",
        spec_.file, documents_.size(), out->ids.size(), spec_.samples, length_, needed);
  }

 private:
  Status Tick(int64_t done) const {
    if (control_ == nullptr) return OkStatus();
    if (control_->Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    control_->Progress("tokenize calibration text", done, spec_.samples);
    return OkStatus();
  }
  Result<std::vector<int32_t>> Encode(uint64_t index) const {
    Result<std::vector<int32_t>> ids =
        tokenizer_.Encode(documents_[index], SpecialTokens::kModelDefault);
    if (!ids.ok()) return ids.status().At(fmt::format("{}: document {}", spec_.file, index));
    return ids;
  }

  const CalibrationSpec& spec_;
  const int64_t length_;
  const Tokenizer& tokenizer_;
  const std::vector<std::string>& documents_;
  const RunControl* control_;
  Rng rng_;
};

}  // namespace

Result<std::vector<std::string>> SplitDocuments(std::string_view bytes, const std::string& path) {
  if (path.ends_with(".jsonl")) return SplitJsonLines(bytes, path);
  if (path.ends_with(".txt")) return SplitPlainText(bytes);
  return InvalidArgument("{}: expected a name that ends in .jsonl or .txt", path);
}

Result<Calibration> TakeCalibration(const CalibrationSpec& spec, int64_t sequence_length,
                                    const Tokenizer& tokenizer, const RunControl* control) {
  Result<std::shared_ptr<const MappedFile>> opened = MappedFile::Open(spec.file);
  if (!opened.ok()) return opened.status().At("--calibration, or the recipe's calibration.file");
  const std::shared_ptr<const MappedFile> file = std::move(opened).value();
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()),
                               file->bytes().size());
  HARROW_ASSIGN_OR_RETURN(const std::vector<std::string> documents,
                          SplitDocuments(bytes, spec.file));
  if (documents.empty()) return InvalidArgument("{}: no text in it", spec.file);

  Calibration calibration;
  calibration.sequence_length = sequence_length;
  calibration.text_hash = XXH3_64bits(bytes.data(), bytes.size());
  calibration.documents = static_cast<int64_t>(documents.size());
  Sampler sampler(spec, sequence_length, tokenizer, documents, control);
  HARROW_RETURN_IF_ERROR(spec.mode == CalibrationMode::kPapers ? sampler.Papers(&calibration)
                                                               : sampler.Concat(&calibration));
  return calibration;
}

std::string CalibrationJson(const Calibration& calibration) {
  std::string text =
      fmt::format("{{\"sequence_length\": {}, \"ids\": [", calibration.sequence_length);
  for (int64_t i = 0; i < calibration.samples(); ++i) {
    const int32_t* ids = calibration.sequence(i);
    text += fmt::format("{}\n [{}]", i == 0 ? "" : ",",
                        fmt::join(ids, ids + calibration.sequence_length, ","));
  }
  return text + "\n]}\n";
}

}  // namespace harrow
