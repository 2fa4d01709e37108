#include "text/pre_tokenizer.h"

#include <utility>

#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace harrow {
namespace {

using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

// The words of GPT-2 (openai/gpt-2, encoder.py).
constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Appends the `parts` of `word` to `out`.
void AppendParts(Word&& word, const std::vector<ByteRange>& parts, std::vector<Word>* out) {
  if (parts.size() == 1 && parts[0].begin == 0 && parts[0].end == word.text.size()) {
    out->push_back(std::move(word));
    return;
  }
  for (const ByteRange part : parts) {
    out->push_back({word.text.substr(part.begin, part.end - part.begin),
                    word.at_start_of_input && part.begin == 0});
  }
}

// Cuts where `find(text)`, a Result<std::vector<ByteRange>>, says.
template <class Find>
Status SplitWords(std::vector<Word>* words, SplitBehavior behavior, bool invert, Find find) {
  std::vector<Word> out;
  out.reserve(words->size());
  for (Word& word : *words) {
    const Result<std::vector<ByteRange>> matches = find(word.text);
    if (!matches.ok()) return matches.status();
    const std::vector<ByteRange> parts = SplitAt(*matches, word.text.size(), behavior, invert);
    AppendParts(std::move(word), parts, &out);
  }
  *words = std::move(out);
  return OkStatus();
}

// Every character with the property `is` is one match.
template <class Is>
std::vector<ByteRange> FindChars(std::string_view text, Is is) {
  std::vector<ByteRange> matches;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (is(NextChar(text, &pos))) matches.push_back({begin, pos});
  }
  return matches;
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> regex)
      : add_prefix_space_(add_prefix_space), regex_(std::move(regex)) {}
  Status Apply(size_t, std::vector<Word>* words) const override {
    if (add_prefix_space_) {
      for (Word& word : *words) {
        if (word.text[0] != ' ') word.text.insert(0, 1, ' ');
      }
    }
    if (regex_.has_value()) {
      const Status status = SplitWords(words, SplitBehavior::kIsolated, false,
                                       [this](const std::string& t) { return regex_->FindAll(t); });
      if (!status.ok()) return status.At("pre_tokenizer ByteLevel");
    }
    for (Word& word : *words)
      word.text = BytesToByteLevel(word.text);
    return OkStatus();
  }
  bool is_byte_level() const override { return true; }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  Status Apply(size_t, std::vector<Word>* words) const override {
    return SplitWords(words, behavior_, invert_,
                      [this](const std::string& t) { return pattern_.FindAll(t); })
        .At("pre_tokenizer Split");
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Cuts at characters of one kind.
class CharSplit : public PreTokenizer {
 public:
  CharSplit(bool (*is)(char32_t), SplitBehavior behavior) : is_(is), behavior_(behavior) {}
  Status Apply(size_t, std::vector<Word>* words) const override {
    return SplitWords(words, behavior_, false, [this](const std::string& t) {
      return Result<std::vector<ByteRange>>(FindChars(t, is_));
    });
  }

 private:
  bool (*is_)(char32_t);
  SplitBehavior behavior_;
};

// The matches of \w+|[^\w\s]+ are the words, white space goes.
class Whitespace : public PreTokenizer {
 public:
  Status Apply(size_t, std::vector<Word>* words) const override {
    return SplitWords(words, SplitBehavior::kRemoved, true, [](const std::string& text) {
      enum Kind { kSpace, kWord, kOther };
      std::vector<ByteRange> matches;
      Kind before = kSpace;
      for (size_t pos = 0; pos < text.size();) {
        const size_t begin = pos;
        const char32_t c = NextChar(text, &pos);
        const Kind kind = IsWordChar(c) ? kWord : IsWhitespace(c) ? kSpace : kOther;
        if (kind != kSpace) {
          if (kind == before) {
            matches.back().end = pos;
          } else {
            matches.push_back({begin, pos});
          }
        }
        before = kind;
      }
      return Result<std::vector<ByteRange>>(std::move(matches));
    });
  }
};

class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)) {}
  Status Apply(size_t, std::vector<Word>* words) const override {
    const std::string& mark = options_.replacement;
    for (Word& word : *words) {
      std::string text;
      text.reserve(word.text.size() + word.text.size() / 2);
      for (const char c : word.text) {
        if (c == ' ') {
          text += mark;
        } else {
          text += c;
        }
      }
      const bool prepend =
          options_.prepend_scheme == PrependScheme::kAlways ||
          (options_.prepend_scheme == PrependScheme::kFirst && word.at_start_of_input);
      if (prepend && text.compare(0, mark.size(), mark) != 0) text.insert(0, mark);
      word.text = std::move(text);
    }
    if (!options_.split) return OkStatus();
    return SplitWords(words, SplitBehavior::kMergedWithNext, false, [&](const std::string& text) {
      std::vector<ByteRange> matches;
      for (size_t pos = text.find(mark); pos != std::string::npos;
           pos = text.find(mark, pos + mark.size())) {
        matches.push_back({pos, pos + mark.size()});
      }
      return Result<std::vector<ByteRange>>(std::move(matches));
    });
  }

 private:
  MetaspaceOptions options_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPtr> steps) : steps_(std::move(steps)) {}
  Status Apply(size_t max_bytes, std::vector<Word>* words) const override {
    for (const PreTokenizerPtr& step : steps_) {
      if (const Status status = step->Apply(max_bytes, words); !status.ok()) return status;
      if (TotalBytes(*words) > max_bytes) {
        return OutputLimitError(max_bytes).At("pre_tokenizer Sequence");
      }
    }
    return OkStatus();
  }
  bool is_byte_level() const override {
    for (const PreTokenizerPtr& step : steps_) {
      if (step->is_byte_level()) return true;
    }
    return false;
  }

 private:
  std::vector<PreTokenizerPtr> steps_;
};

Result<PreTokenizerPtr> ParseSequence(const Json& spec) {
  const Result<const Json*> list = ChildArray(spec, "pretokenizers");
  if (!list.ok()) return list.status();
  if (*list == nullptr) return Corruption("'pretokenizers' is missing");
  std::vector<PreTokenizerPtr> steps;
  for (const Json& item : **list) {
    Result<PreTokenizerPtr> step = ParsePreTokenizer(item);
    if (!step.ok()) return step.status();
    if (*step == nullptr) return Corruption("a null step");
    steps.push_back(*std::move(step));
  }
  return PreTokenizerPtr(std::make_unique<Sequence>(std::move(steps)));
}

Result<PreTokenizerPtr> ParseByteLevel(const Json& spec) {
  const Result<bool> add_prefix_space = Field<bool>(spec, "add_prefix_space");
  if (!add_prefix_space.ok()) return add_prefix_space.status();
  const Result<bool> use_regex = Field<bool>(spec, "use_regex", true);
  if (!use_regex.ok()) return use_regex.status();
  std::optional<Regex> regex;
  if (*use_regex) {
    Result<Regex> compiled = Regex::Compile(kGpt2Words);
    if (!compiled.ok()) return compiled.status();
    regex = *std::move(compiled);
  }
  return PreTokenizerPtr(std::make_unique<ByteLevel>(*add_prefix_space, std::move(regex)));
}

Result<SplitBehavior> BehaviorField(const Json& spec, std::optional<std::string> fallback) {
  const Result<std::string> name = Field<std::string>(spec, "behavior", std::move(fallback));
  if (!name.ok()) return name.status();
  return ParseSplitBehavior(*name);
}

Result<PreTokenizerPtr> ParseSplit(const Json& spec) {
  Result<Pattern> pattern = Pattern::Parse(spec);
  if (!pattern.ok()) return pattern.status();
  const Result<SplitBehavior> behavior = BehaviorField(spec, std::nullopt);
  if (!behavior.ok()) return behavior.status();
  const Result<bool> invert = Field<bool>(spec, "invert");
  if (!invert.ok()) return invert.status();
  return PreTokenizerPtr(std::make_unique<Split>(*std::move(pattern), *behavior, *invert));
}

Result<PreTokenizerPtr> ParseType(const std::string& type, const Json& spec) {
  if (type == "Sequence") return ParseSequence(spec);
  if (type == "ByteLevel") return ParseByteLevel(spec);
  if (type == "Split") return ParseSplit(spec);
  if (type == "Digits") {
    const Result<bool> each = Field<bool>(spec, "individual_digits");
    if (!each.ok()) return each.status();
    return PreTokenizerPtr(std::make_unique<CharSplit>(
        IsNumber, *each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  }
  if (type == "Whitespace") return PreTokenizerPtr(std::make_unique<Whitespace>());
  if (type == "WhitespaceSplit") {
    return PreTokenizerPtr(std::make_unique<CharSplit>(IsWhitespace, SplitBehavior::kRemoved));
  }
  if (type == "Punctuation") {
    const Result<SplitBehavior> behavior = BehaviorField(spec, "Isolated");
    if (!behavior.ok()) return behavior.status();
    return PreTokenizerPtr(std::make_unique<CharSplit>(IsPunctuation, *behavior));
  }
  if (type == "Metaspace") {
    Result<MetaspaceOptions> options = ParseMetaspace(spec);
    if (!options.ok()) return options.status();
    return PreTokenizerPtr(std::make_unique<Metaspace>(*std::move(options)));
  }
  return Unsupported("type '{}'", type);
}

}  // namespace

size_t TotalBytes(const std::vector<Word>& words) {
  size_t bytes = 0;
  for (const Word& word : words)
    bytes += word.text.size();
  return bytes;
}

Result<PreTokenizerPtr> ParsePreTokenizer(const Json& spec) {
  if (spec.is_null()) return PreTokenizerPtr();
  const Result<std::string> type = Field<std::string>(spec, "type");
  if (!type.ok()) return type.status().At("pre_tokenizer");
  Result<PreTokenizerPtr> pre_tokenizer = ParseType(*type, spec);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status().At("pre_tokenizer " + *type);
  return pre_tokenizer;
}

}  // namespace harrow
