#include "text/pattern.h"

namespace harrow {

Status OutputLimitError(size_t max_bytes) {
  return Error(StatusCode::kResourceLimit, "the text grows beyond the limit of {} bytes",
               max_bytes);
}

Result<Pattern> Pattern::Parse(const Json& component) {
  const Result<const Json*> object = ChildObject(component, "pattern");
  if (!object.ok()) return object.status();
  if (*object == nullptr) return Corruption("'pattern' is missing");
  const Json& spec = **object;
  Pattern pattern;
  if (spec.size() == 1 && spec.contains("String")) {
    Result<std::string> literal = Field<std::string>(spec, "String");
    if (!literal.ok()) return literal.status();
    if (literal->empty()) return Unsupported("an empty 'pattern'");
    pattern.literal_ = *std::move(literal);
    return pattern;
  }
  if (spec.size() == 1 && spec.contains("Regex")) {
    const Result<std::string> text = Field<std::string>(spec, "Regex");
    if (!text.ok()) return text.status();
    Result<Regex> regex = Regex::Compile(*text);
    if (!regex.ok()) return regex.status();
    pattern.regex_ = *std::move(regex);
    return pattern;
  }
  return Corruption("'pattern' must be an object with one member, 'String' or 'Regex'");
}

Result<std::vector<ByteRange>> Pattern::FindAll(std::string_view text) const {
  if (regex_.has_value()) return regex_->FindAll(text);
  std::vector<ByteRange> matches;
  for (size_t pos = text.find(literal_); pos != std::string_view::npos;
       pos = text.find(literal_, pos + literal_.size())) {
    matches.push_back({pos, pos + literal_.size()});
  }
  return matches;
}

Result<std::string> Pattern::ReplaceAll(std::string_view text, std::string_view by,
                                        size_t max_bytes) const {
  const Result<std::vector<ByteRange>> matches = FindAll(text);
  if (!matches.ok()) return matches.status();
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (const ByteRange match : *matches) {
    if (out.size() > max_bytes) return OutputLimitError(max_bytes);
    out.append(text, done, match.begin - done);
    out += by;
    done = match.end;
  }
  out.append(text, done);
  if (out.size() > max_bytes) return OutputLimitError(max_bytes);
  return out;
}

Result<SplitBehavior> ParseSplitBehavior(const std::string& name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return Corruption("unknown split behavior '{}'", name);
}

std::vector<ByteRange> SplitAt(const std::vector<ByteRange>& matches, size_t size,
                               SplitBehavior behavior, bool invert) {
  // The whole text as alternating runs, each a match or not.
  struct Run {
    ByteRange range;
    bool match;
  };
  std::vector<Run> runs;
  runs.reserve(2 * matches.size() + 1);
  size_t done = 0;
  for (const ByteRange match : matches) {
    if (match.begin > done) runs.push_back({{done, match.begin}, invert});
    runs.push_back({match, !invert});
    done = match.end;
  }
  if (done < size) runs.push_back({{done, size}, invert});

  std::vector<ByteRange> parts;
  parts.reserve(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const bool match = runs[i].match;
    const bool after_match = i > 0 && runs[i - 1].match;
    bool join = false;  // with the part before
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (match) continue;
        break;
      case SplitBehavior::kIsolated: break;
      case SplitBehavior::kMergedWithPrevious: join = match && !after_match && i > 0; break;
      // Of several neighbouring matches only the last one joins what follows.
      case SplitBehavior::kMergedWithNext: join = i > 0 && after_match && !match; break;
      case SplitBehavior::kContiguous: join = i > 0 && match == after_match; break;
    }
    if (join) {
      parts.back().end = runs[i].range.end;
    } else {
      parts.push_back(runs[i].range);
    }
  }
  std::erase_if(parts, [](ByteRange part) { return part.begin == part.end; });
  return parts;
}

}  // namespace harrow
