#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "text/unicode.h"

namespace harrow {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
// Steps of one match. A tokenizer's split needs a few per character of a word.
constexpr uint32_t kMatchLimit = 2'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
// Processor time of one FindAll; real patterns take about 0.05 s for a megabyte.
constexpr double kSecondsPerCall = 10;
constexpr double kSecondsPerMegabyte = 10;

// \s and \w mean the Unicode properties in Oniguruma. PCRE2's \s adds U+180E, its \w lacks marks.
constexpr std::string_view kWordSet = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
// Outside of a class Oniguruma also takes six superscripts and fractions of Latin-1 for \w.
constexpr std::string_view kWordClass =
    "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE]";

constexpr std::string_view kCategories[] = {"C",  "Cc", "Cf", "Cn", "Co", "L",  "Ll", "Lm", "Lo",
                                            "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd", "Nl",
                                            "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps",
                                            "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
// Scripts: PCRE2 takes a bare name as Script_Extensions, Oniguruma as Script.
constexpr std::string_view kScripts[] = {
    "Arabic",   "Armenian", "Bengali",   "Bopomofo",  "Cyrillic", "Devanagari",
    "Ethiopic", "Georgian", "Greek",     "Gujarati",  "Gurmukhi", "Han",
    "Hangul",   "Hebrew",   "Hiragana",  "Kannada",   "Katakana", "Khmer",
    "Lao",      "Latin",    "Malayalam", "Mongolian", "Myanmar",  "Oriya",
    "Sinhala",  "Tamil",    "Telugu",    "Thai",      "Tibetan"};

template <size_t kCount>
bool Contains(const std::string_view (&list)[kCount], std::string_view item) {
  return std::find(std::begin(list), std::end(list), item) != std::end(list);
}

bool IsHexDigits(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
}

// One left-to-right pass over the pattern.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (pos_ < in_.size()) {
      const Status status = in_class_ ? ClassItem() : Item();
      if (!status.ok()) return status;
    }
    return std::move(out_);
  }

 private:
  bool StartsWith(std::string_view prefix) const {
    return in_.substr(pos_, prefix.size()) == prefix;
  }
  void Copy(size_t count) {
    out_ += in_.substr(pos_, count);
    pos_ += count;
  }
  void Replace(size_t count, std::string_view by) {
    out_ += by;
    pos_ += count;
  }
  Status Refuse(std::string_view what) const {
    return Unsupported("regular expression '{}': {} at byte {} is not supported", in_, what, pos_);
  }

  Status Item() {
    switch (in_[pos_]) {
      case '\\': return Escape();
      case '(': return Group();
      case '[':
        Copy(1);
        if (StartsWith("^")) Copy(1);
        if (StartsWith("]")) return Refuse("']' as the first item of a class");
        in_class_ = true;
        return OkStatus();
      case '{': return Interval();
      default: Copy(1); return OkStatus();
    }
  }

  Status ClassItem() {
    if (StartsWith("[")) return Refuse("a class within a class");
    if (StartsWith("&&")) return Refuse("an intersection of classes");
    if (StartsWith("\\")) return Escape();
    if (StartsWith("]")) in_class_ = false;
    Copy(1);
    return OkStatus();
  }

  Status Group() {
    if (StartsWith("(*")) return Refuse("'(*'");
    if (!StartsWith("(?")) {
      Copy(1);
      return OkStatus();
    }
    // Oniguruma ends the reach of a later (?i) at the next '|', PCRE2 at the end of the group.
    if (StartsWith("(?i)") && pos_ != 0) return Refuse("'(?i)' that is not at the start");
    for (const std::string_view open :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?i)"}) {
      if (StartsWith(open)) {
        Copy(open.size());
        return OkStatus();
      }
    }
    return Refuse("this kind of group");
  }

  // "{n}", "{n,}", "{,m}", "{n,m}"; anything else in braces is literal in both.
  Status Interval() {
    size_t end = pos_ + 1;
    size_t digits = 0;
    size_t commas = 0;
    for (; end < in_.size() && in_[end] != '}'; ++end) {
      if (in_[end] == ',') {
        ++commas;
      } else if (std::isdigit(static_cast<unsigned char>(in_[end]))) {
        ++digits;
      } else {
        digits = 0;
        break;
      }
    }
    if (end == in_.size() || digits == 0 || commas > 1) {
      Replace(1, "\\{");
      return OkStatus();
    }
    if (in_[pos_ + 1] == ',') {
      Replace(1, "{0");
    } else {
      Copy(1);
    }
    Copy(end + 1 - pos_);
    // In Ruby's dialect "{n,m}+" repeats the repetition, in PCRE2 it forbids backtracking.
    if (StartsWith("+")) return Refuse("'+' behind an interval");
    // Ruby's "{n}?" is an optional repetition, PCRE2's a lazy one.
    if (commas == 0 && StartsWith("?")) return Refuse("'?' behind an interval");
    return OkStatus();
  }

  Status Escape() {
    if (pos_ + 1 == in_.size()) return Refuse("'\\' as the last character");
    const char c = in_[pos_ + 1];
    switch (c) {
      case 's': Replace(2, "\\p{White_Space}"); return OkStatus();
      case 'S': Replace(2, "\\P{White_Space}"); return OkStatus();
      case 'w': Replace(2, in_class_ ? kWordSet : kWordClass); return OkStatus();
      case 'W':
        if (in_class_) return Refuse("'\\W' in a class");
        out_ += "[^";
        Replace(2, kWordClass.substr(1));
        return OkStatus();
      case 'b':
      case 'B': return WordBoundary(c == 'B');
      case 'v': Replace(2, "\\x0B"); return OkStatus();
      case 'p':
      case 'P': return Property();
      case 'x': return HexEscape();
      case 'u':
        if (pos_ + 6 > in_.size() || !IsHexDigits(in_.substr(pos_ + 2, 4))) {
          return Refuse("a '\\u' without four hexadecimal digits");
        }
        out_ += "\\x{" + std::string(in_.substr(pos_ + 2, 4)) + "}";
        pos_ += 6;
        return OkStatus();
      default: break;
    }
    const bool is_alnum = std::isalnum(static_cast<unsigned char>(c)) != 0;
    constexpr std::string_view kSameMeaning = "dDnrtfae";
    constexpr std::string_view kSameMeaningOutside = "Az";
    if (is_alnum && kSameMeaning.find(c) == std::string_view::npos &&
        (in_class_ || kSameMeaningOutside.find(c) == std::string_view::npos)) {
      return Refuse(fmt::format("'\\{}'", c));
    }
    Copy(1);
    // A character of more than one byte needs no escape and PCRE2 takes the whole of it.
    Copy(std::max<size_t>(1, Utf8CharLength(in_, pos_)));
    return OkStatus();
  }

  Status WordBoundary(bool negated) {
    if (in_class_) return Refuse("'\\b' in a class");
    pos_ += 2;
    out_ += negated ? fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", kWordClass)
                    : fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", kWordClass);
    return OkStatus();
  }

  Status Property() {
    const size_t close = in_.find('}', pos_);
    if (!(pos_ + 2 < in_.size() && in_[pos_ + 2] == '{') || close == std::string_view::npos) {
      return Refuse("a property without braces");
    }
    const bool caret = in_[pos_ + 3] == '^';
    const size_t begin = pos_ + 3 + (caret ? 1 : 0);
    const std::string_view name = in_.substr(begin, close - begin);
    const bool negated = (in_[pos_ + 1] == 'P') != caret;
    const bool script = Contains(kScripts, name);
    if (!script && !Contains(kCategories, name)) {
      return Refuse(fmt::format("the property '{}'", name));
    }
    out_ += fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', script ? "sc:" : "", name);
    pos_ = close + 1;
    return OkStatus();
  }

  Status HexEscape() {
    if (StartsWith("\\x{")) {
      const size_t close = in_.find('}', pos_);
      if (close == std::string_view::npos || close == pos_ + 3 || close > pos_ + 11 ||
          !IsHexDigits(in_.substr(pos_ + 3, close - pos_ - 3))) {
        return Refuse("this '\\x{...}'");
      }
      Copy(close + 1 - pos_);
      return OkStatus();
    }
    // Above 7F, two digits are a raw byte in Oniguruma and a character in PCRE2.
    if (pos_ + 4 > in_.size() || !IsHexDigits(in_.substr(pos_ + 2, 2)) || in_[pos_ + 2] > '7') {
      return Refuse("this '\\x'");
    }
    Copy(4);
    return OkStatus();
  }

  std::string_view in_;
  std::string out_;
  size_t pos_ = 0;
  bool in_class_ = false;
};

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct MatchState {
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free),
        context(pcre2_match_context_create(nullptr), pcre2_match_context_free) {}
  bool ok() const { return data != nullptr && context != nullptr; }
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context;
};

}  // namespace

Result<std::string> TranslateRegex(std::string_view pattern) {
  return Translator(pattern).Run();
}

Result<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return Unsupported("regular expression of {} bytes, at most {} are supported", pattern.size(),
                       kMaxPatternBytes);
  }
  Result<std::string> translated = TranslateRegex(pattern);
  if (!translated.ok()) return translated.status();

  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (context == nullptr) return Error(StatusCode::kResourceLimit, "regular expression: no memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ stand at every line.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, context.get());
  if (code == nullptr) {
    return Corruption("regular expression '{}': {}", pattern, ErrorText(error));
  }
  Regex regex;
  regex.pattern_ = pattern;
  regex.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  // Where PCRE2 has no JIT compiler it interprets: slower, the same matches.
  static_cast<void>(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
  return regex;
}

Result<std::vector<ByteRange>> Regex::FindAll(std::string_view text) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const MatchState state(code);
  if (!state.ok()) return Error(StatusCode::kResourceLimit, "regular expression: no memory");
  pcre2_set_match_limit(state.context.get(), kMatchLimit);
  pcre2_set_heap_limit(state.context.get(), kHeapLimitKib);
  const double deadline = ThreadSeconds() + kSecondsPerCall +
                          kSecondsPerMegabyte * 1e-6 * static_cast<double>(text.size());

  std::vector<ByteRange> matches;
  size_t pos = 0;
  uint32_t calls = 0;
  while (pos <= text.size()) {
    if ((++calls & 63) == 0 && ThreadSeconds() > deadline) {
      return Error(StatusCode::kResourceLimit,
                   "regular expression '{}' takes too long, stopped at byte {} of {}", pattern_,
                   pos, text.size());
    }
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code, subject, text.size(), pos, PCRE2_NO_UTF_CHECK, state.data.get(),
                         state.context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code, subject, text.size(), pos, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       state.data.get(), state.context.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return Error(StatusCode::kResourceLimit, "regular expression '{}' at byte {} of {}: {}",
                   pattern_, pos, text.size(), ErrorText(rc));
    }
    const PCRE2_SIZE* ovector = pcre2_get_ovector_pointer(state.data.get());
    const ByteRange match{ovector[0], ovector[1]};
    if (match.begin == match.end && !matches.empty() && matches.back().end == match.end) {
      if (pos == text.size()) break;
      pos += std::max<size_t>(1, Utf8CharLength(text, pos));
      continue;
    }
    matches.push_back(match);
    pos = match.end;
  }
  return matches;
}

}  // namespace harrow
