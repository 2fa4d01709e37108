// Regular expressions of tokenizer.json. The files are written for Oniguruma (Ruby's dialect); this
// runs them with PCRE2. Where the two dialects read the same text differently the pattern is
// rewritten, or refused when it cannot be.
#ifndef HARROW_TEXT_REGEX_H_
#define HARROW_TEXT_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace harrow {

// A half-open range of bytes.
struct ByteRange {
  size_t begin;
  size_t end;
};

// Immutable; safe to share between threads.
class Regex {
 public:
  // Corruption for a broken pattern, Unsupported for one whose meaning PCRE2 cannot give.
  static Result<Regex> Compile(std::string_view pattern);

  // All matches from left to right, not overlapping. An empty match right behind the match before
  // it is passed over. Needs well-formed UTF-8. ResourceLimit when matching needs more steps or
  // time than any sound pattern does.
  Result<std::vector<ByteRange>> FindAll(std::string_view text) const;

  const std::string& pattern() const { return pattern_; }

 private:
  Regex() = default;
  std::string pattern_;
  std::shared_ptr<const void> code_;  // pcre2_code
};

// Oniguruma's pattern in PCRE2's words; exposed for tests.
Result<std::string> TranslateRegex(std::string_view pattern);

}  // namespace harrow

#endif  // HARROW_TEXT_REGEX_H_
