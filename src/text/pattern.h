// What the Split and Replace components of tokenizer.json search for, and how Split cuts there.
#ifndef HARROW_TEXT_PATTERN_H_
#define HARROW_TEXT_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_fields.h"
#include "text/regex.h"

namespace harrow {

// What the steps of a tokenizer.json may make of `bytes` of text: each step can double it, so that
// a short file would ask for any amount of memory. Sound ones grow a text by less than 20 times
// (NFKD of U+FDFA), and short texts by a prefix.
constexpr size_t OutputLimit(size_t bytes) {
  return bytes > (SIZE_MAX >> 7) ? SIZE_MAX : 64 * bytes + 4096;
}
Status OutputLimitError(size_t max_bytes);

// {"String": "..."} or {"Regex": "..."}. Immutable.
class Pattern {
 public:
  // Member "pattern" of a component.
  static Result<Pattern> Parse(const Json& component);
  Result<std::vector<ByteRange>> FindAll(std::string_view text) const;
  // `text` with every match replaced. Needs well-formed UTF-8 when the pattern is a Regex.
  // ResourceLimit when the result would have more than `max_bytes`.
  Result<std::string> ReplaceAll(std::string_view text, std::string_view by,
                                 size_t max_bytes) const;

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
