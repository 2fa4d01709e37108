// Text to token ids and back.
#ifndef HARROW_TEXT_TOKENIZER_H_
#define HARROW_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace harrow {

// Special tokens that encoding adds.
enum class SpecialTokens {
  kModelDefault,  // what the model's own tokenizer adds (its template, add_bos_token)
  kNone,
};

// Immutable after loading; safe to share between threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text` (UTF-8; bytes that are not valid UTF-8 are encoded as the family's reference
  // does, or refused with an error that says at which byte). Text that looks like a special token
  // ("<|endoftext|>") is one.
  virtual Result<std::vector<int32_t>> Encode(std::string_view text,
                                              SpecialTokens special) const = 0;
  // Text of `ids`; special tokens are left out. Ill-formed UTF-8 becomes U+FFFD as in the family's
  // reference; an incomplete character at the end stays as raw bytes. InvalidArgument for an id
  // that is no token.
  virtual Result<std::string> Decode(const std::vector<int32_t>& ids) const = 0;
  // The bytes that one token adds in the middle of a text ("▁the" -> " the", <0x0A> -> "\n");
  // special -> "".
  virtual std::string TokenBytes(int32_t id) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1 when there is none
  virtual int32_t eos_id() const = 0;  // -1 when there is none
  // Whether kModelDefault puts a BOS in front.
  virtual bool adds_bos() const = 0;
  // "bpe-byte-level", "bpe-byte-fallback", "bpe", "sentencepiece-bpe", "sentencepiece-unigram": for
  // reports.
  virtual std::string_view kind() const = 0;
};

// Loads the tokenizer of a Hugging Face directory: tokenizer.json (with tokenizer_config.json when
// present), else tokenizer.model. NotFound when there is neither.
Result<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& directory);

// The parsers themselves, for tools, tests and fuzzers. `where` names the source in errors.
// `config_json` may be empty.
Result<std::shared_ptr<const Tokenizer>> ParseTokenizerJson(std::string_view json,
                                                            std::string_view config_json,
                                                            std::string_view where);
Result<std::shared_ptr<const Tokenizer>> ParseSentencePiece(std::string_view model,
                                                            std::string_view config_json,
                                                            std::string_view where);

// Turns a stream of ids into printable text: holds bytes back until they form whole UTF-8
// characters.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer);
  // Text that became complete with this token. The first token's leading space is dropped where the
  // family's decoder drops it.
  std::string Push(int32_t id);
  // What is still held back (as it is, even if incomplete).
  std::string Flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string pending_;
  // The tokens so far, as long as they make no text; what is dropped at the start depends on all.
  std::vector<int32_t> start_;
  bool started_ = false;
};

}  // namespace harrow

#endif  // HARROW_TEXT_TOKENIZER_H_
