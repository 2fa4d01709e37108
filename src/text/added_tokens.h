// Tokens that are found in a text before the model sees it: "<|endoftext|>", runs of spaces.
#ifndef HARROW_TEXT_ADDED_TOKENS_H_
#define HARROW_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/regex.h"

namespace harrow {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // left out when decoding
  bool single_word = false;  // no match within a word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // searched for in the normalized text
};

// Searches a text for a set of tokens; at each position the longest one wins (the rule of Hugging
// Face tokenizers, added_vocabulary.rs). Immutable after Add; safe to share between threads.
class AddedTokenMatcher {
 public:
  // `pattern` is what to look for: the content, normalized where token.normalized. Corruption when
  // another token has the same pattern. Unsupported when it is absurdly long, ResourceLimit when
  // all of them are.
  Status Add(const AddedToken& token, std::string_view pattern);
  bool empty() const { return tokens_.empty(); }

  struct Part {
    ByteRange range;
    int32_t id;  // -1: text between the tokens
  };
  // Parts of well-formed `text` in order, none empty; they cover it.
  std::vector<Part> Split(std::string_view text) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;  // byte -> node, few
    int32_t token = -1;                                  // index in tokens_
  };
  // Index of the longest token that starts at `pos`, -1 if none; its end goes to `*end`.
  int32_t LongestAt(std::string_view text, size_t pos, size_t* end) const;

  std::vector<Node> nodes_{1};  // a trie
  std::vector<AddedToken> tokens_;
  bool starts_[256] = {};
};

}  // namespace harrow

#endif  // HARROW_TEXT_ADDED_TOKENS_H_
