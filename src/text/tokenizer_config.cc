#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>

namespace harrow {
namespace {

// "bos_token" is a string or an added token with a "content".
Result<std::string> TokenContent(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it != config.end() && it->is_object()) {
    Result<std::string> content = Field<std::string>(*it, "content");
    if (!content.ok()) return content.status().At(key);
    return content;
  }
  return Field<std::string>(config, key, std::string());
}

Result<std::optional<bool>> Flag(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::optional<bool>();
  const Result<bool> flag = Field<bool>(config, key);
  if (!flag.ok()) return flag.status();
  return std::optional<bool>(*flag);
}

}  // namespace

Result<AddedToken> ParseAddedToken(const Json& spec, int64_t id) {
  if (id < 0 || id > INT32_MAX) return Corruption("id {} is out of range", id);
  AddedToken token;
  token.id = static_cast<int32_t>(id);
  Result<std::string> content = Field<std::string>(spec, "content");
  if (!content.ok()) return content.status();
  token.content = *std::move(content);
  struct Option {
    const char* key;
    bool* value;
  };
  for (const Option& option :
       {Option{"special", &token.special}, Option{"single_word", &token.single_word},
        Option{"lstrip", &token.lstrip}, Option{"rstrip", &token.rstrip},
        Option{"normalized", &token.normalized}}) {
    const Result<bool> value = Field<bool>(spec, option.key, false);
    if (!value.ok()) return value.status();
    *option.value = *value;
  }
  return token;
}

Result<TokenizerConfig> ParseTokenizerConfig(std::string_view json) {
  TokenizerConfig config;
  if (json.empty()) return config;
  const Result<Json> root = ParseJson(json);
  if (!root.ok()) return root.status();
  if (!root->is_object()) return Corruption("an object was expected, got {}", root->type_name());

  const Result<std::optional<bool>> add_bos = Flag(*root, "add_bos_token");
  if (!add_bos.ok()) return add_bos.status();
  config.add_bos = *add_bos;
  const Result<std::optional<bool>> add_eos = Flag(*root, "add_eos_token");
  if (!add_eos.ok()) return add_eos.status();
  config.add_eos = *add_eos;
  Result<std::string> bos = TokenContent(*root, "bos_token");
  if (!bos.ok()) return bos.status();
  config.bos = *std::move(bos);
  Result<std::string> eos = TokenContent(*root, "eos_token");
  if (!eos.ok()) return eos.status();
  config.eos = *std::move(eos);

  const Result<const Json*> added = ChildObject(*root, "added_tokens_decoder");
  if (!added.ok()) return added.status();
  if (*added == nullptr) return config;
  for (const auto& item : (*added)->items()) {
    const std::string& key = item.key();
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      return Corruption("added_tokens_decoder: '{}' is not an id", key);
    }
    Result<AddedToken> token = ParseAddedToken(item.value(), id);
    if (!token.ok()) return token.status().At("added_tokens_decoder " + key);
    config.added_tokens.push_back(*std::move(token));
  }
  std::sort(config.added_tokens.begin(), config.added_tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return config;
}

}  // namespace harrow
