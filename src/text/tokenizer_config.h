// What Harrow reads of tokenizer_config.json.
#ifndef HARROW_TEXT_TOKENIZER_CONFIG_H_
#define HARROW_TEXT_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/json_fields.h"

namespace harrow {

struct TokenizerConfig {
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;
  std::string bos;  // contents; empty: not given
  std::string eos;
  std::vector<AddedToken> added_tokens;  // "added_tokens_decoder"
};

// `json` empty gives an empty config.
Result<TokenizerConfig> ParseTokenizerConfig(std::string_view json);

// The flags and content of one added token; `spec` has them as members.
Result<AddedToken> ParseAddedToken(const Json& spec, int64_t id);

}  // namespace harrow

#endif  // HARROW_TEXT_TOKENIZER_CONFIG_H_
