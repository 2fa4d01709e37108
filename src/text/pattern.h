// What the Split and Replace components of tokenizer.json search for, and how Split cuts there.
#ifndef HARROW_TEXT_PATTERN_H_
#define HARROW_TEXT_PATTERN_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_fields.h"
#include "text/regex.h"

namespace harrow {

// {"String": "..."} or {"Regex": "..."}. Immutable.
class Pattern {
 public:
  // Member "pattern" of a component.
  static Result<Pattern> Parse(const Json& component);
  Result<std::vector<ByteRange>> FindAll(std::string_view text) const;
  // `text` with every match replaced. Needs well-formed UTF-8 when the pattern is a Regex.
  Result<std::string> ReplaceAll(std::string_view text, std::string_view by) const;

 private:
  std::string literal_;  // when regex_ is empty
  std::optional<Regex> regex_;
};

enum class SplitBehavior {
  kRemoved,             // "a-b" -> a b
  kIsolated,            // a - b
  kMergedWithPrevious,  // a- b
  kMergedWithNext,      // a -b
  kContiguous,          // as isolated, but neighbouring matches stay together
};
Result<SplitBehavior> ParseSplitBehavior(const std::string& name);

// The parts of a text of `size` bytes, none empty. `matches` is ascending and without overlap;
// `invert` takes what lies between the matches as the matches.
std::vector<ByteRange> SplitAt(const std::vector<ByteRange>& matches, size_t size,
                               SplitBehavior behavior, bool invert);

}  // namespace harrow

#endif  // HARROW_TEXT_PATTERN_H_
