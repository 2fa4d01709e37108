// The "decoder" graph of tokenizer.json: turns the tokens of a text back into its bytes.
#ifndef HARROW_TEXT_DECODER_H_
#define HARROW_TEXT_DECODER_H_

#include <memory>
#include <string>
#include <vector>

#include "text/json_fields.h"

namespace harrow {

// Immutable; safe to share between threads.
class Decoder {
 public:
  enum class Scope {
    kText,        // all tokens of a text
    kMiddleToken  // one token from the middle of a text: nothing is stripped, bytes stay bytes
  };
  virtual ~Decoder() = default;
  // Rewrites `tokens`; the text is what they make together in the end. Ill-formed UTF-8 becomes
  // U+FFFD as in the reference, but an incomplete character at the very end stays as it is.
  // ResourceLimit when a Replace makes the tokens longer than `max_bytes` together.
  virtual Status Apply(Scope scope, size_t max_bytes, std::vector<std::string>* tokens) const = 0;
  // Whether it ends the work on single tokens, so that steps behind it see the text as a whole.
  virtual bool fuses() const { return false; }
  virtual bool is_byte_level() const { return false; }
};

// ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, and Sequence of them; any other type,
// and none at all, is Unsupported.
Result<std::unique_ptr<const Decoder>> ParseDecoder(const Json& spec);

// Bytes of "<0x0A>"; -1 when `token` is not of this form.
int ParseByteToken(std::string_view token);

}  // namespace harrow

#endif  // HARROW_TEXT_DECODER_H_
