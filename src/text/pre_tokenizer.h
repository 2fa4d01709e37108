// The "pre_tokenizer" graph of tokenizer.json: cuts a normalized text into the words that the model
// encodes one by one.
#ifndef HARROW_TEXT_PRE_TOKENIZER_H_
#define HARROW_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "text/json_fields.h"

namespace harrow {

struct Word {
  std::string text;        // never empty
  bool at_start_of_input;  // begins at byte 0 of what the user gave
};

size_t TotalBytes(const std::vector<Word>& words);

// Immutable; safe to share between threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts and rewrites each of `words`. ResourceLimit when steps of a Sequence make them longer than
  // `max_bytes` together.
  virtual Status Apply(size_t max_bytes, std::vector<Word>* words) const = 0;
  // Whether it turns bytes into GPT-2's stand-in characters.
  virtual bool is_byte_level() const { return false; }
};

// ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace, and Sequence of
// them; any other type is Unsupported. `spec` null gives null.
Result<std::unique_ptr<const PreTokenizer>> ParsePreTokenizer(const Json& spec);

}  // namespace harrow

#endif  // HARROW_TEXT_PRE_TOKENIZER_H_
