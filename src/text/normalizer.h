// The "normalizer" graph of tokenizer.json: what happens to a text before it is split.
#ifndef HARROW_TEXT_NORMALIZER_H_
#define HARROW_TEXT_NORMALIZER_H_

#include <memory>
#include <string>

#include "text/json_fields.h"

namespace harrow {

// Immutable; safe to share between threads.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // `text` is well-formed UTF-8 and stays so. ResourceLimit when a step that puts text in makes it
  // longer than `max_bytes`.
  virtual Status Apply(size_t max_bytes, std::string* text) const = 0;
};

// Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, and Sequence of them; any other type is
// Unsupported. `spec` null gives null.
Result<std::unique_ptr<const Normalizer>> ParseNormalizer(const Json& spec);

}  // namespace harrow

#endif  // HARROW_TEXT_NORMALIZER_H_
