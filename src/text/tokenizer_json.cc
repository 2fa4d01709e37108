// tokenizer.json (Hugging Face tokenizers) with a BPE model.
#include <algorithm>
#include <optional>
#include <unordered_set>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"

namespace harrow {
namespace {

// Ids before a text, and behind it. Real templates have one or two; a file could name a long list
// of ids many times.
constexpr size_t kMaxTemplateIds = 1024;

// What a post_processor puts around the ids of a text.
struct Template {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

class JsonTokenizer : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> Parse(const Json& root,
                                                        const TokenizerConfig& config);

  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens special) const override;
  Result<std::string> Decode(const std::vector<int32_t>& ids) const override;
  std::string TokenBytes(int32_t id) const override {
    return id < 0 || id >= vocab_size() ? std::string() : bytes_[static_cast<size_t>(id)];
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  bool adds_bos() const override {
    return bos_id_ >= 0 && !template_.prefix.empty() && template_.prefix.front() == bos_id_;
  }
  std::string_view kind() const override { return kind_; }

 private:
  explicit JsonTokenizer(Bpe bpe) : bpe_(std::move(bpe)) {}

  Status ParseAddedTokens(const Json& root, const TokenizerConfig& config);
  Status ParsePostProcessor(const Json& spec);
  Status ParseTemplate(const Json& spec);
  Status ApplyConfig(const TokenizerConfig& config);
  Status ComputeTokenBytes();
  // Id of a token by its content, added or not; -1 when there is none.
  int32_t TokenId(std::string_view content) const;
  Result<int32_t> ConfiguredToken(const char* key, const std::string& content) const;
  int32_t FirstSpecialOf(std::initializer_list<std::string_view> names) const;
  // `*budget`: bytes that the words of this and the following parts may have.
  Status EncodePart(std::string_view part, bool at_start, size_t* budget, Bpe::Cache* cache,
                    std::vector<int32_t>* ids) const;

  Bpe bpe_;
  std::unique_ptr<const Normalizer> normalizer_;       // may be null
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;  // may be null
  std::unique_ptr<const Decoder> decoder_;
  AddedTokenMatcher raw_matcher_;         // searches the text as it came
  AddedTokenMatcher normalized_matcher_;  // searches it normalized
  Template template_;
  std::vector<std::string> tokens_;  // by id; empty for a hole
  std::vector<bool> special_;        // by id
  std::vector<std::string> bytes_;   // by id, TokenBytes
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
  std::string_view kind_;
};

int32_t JsonTokenizer::TokenId(std::string_view content) const {
  if (const int32_t id = bpe_.TokenId(content); id >= 0) return id;
  // Ids that only added tokens have are behind the model's, or in its holes.
  const auto it =
      content.empty() ? tokens_.end() : std::find(tokens_.begin(), tokens_.end(), content);
  return it == tokens_.end() ? -1 : static_cast<int32_t>(it - tokens_.begin());
}

Status JsonTokenizer::ParseAddedTokens(const Json& root, const TokenizerConfig& config) {
  tokens_ = bpe_.tokens();
  const Result<const Json*> list = ChildArray(root, "added_tokens");
  if (!list.ok()) return list.status();
  std::vector<AddedToken> added;
  std::unordered_set<std::string> contents;
  if (*list != nullptr) {
    for (const Json& item : **list) {
      const Result<int64_t> id = Field<int64_t>(item, "id");
      if (!id.ok()) return id.status().At(fmt::format("added_tokens[{}]", added.size()));
      Result<AddedToken> token = ParseAddedToken(item, *id);
      if (!token.ok()) return token.status().At(fmt::format("added_tokens[{}]", added.size()));
      contents.insert(token->content);
      added.push_back(*std::move(token));
    }
  }
  // Tokens that only tokenizer_config.json has; transformers adds them when it loads.
  for (const AddedToken& token : config.added_tokens) {
    if (contents.insert(token.content).second) added.push_back(token);
  }
  // The reference ignores the file's id: a token of the vocabulary keeps its id there, any other
  // one gets the next free id. A file that says otherwise means something else than it would do.
  const int64_t vocab_count = static_cast<int64_t>(bpe_.size());
  int64_t next_id = vocab_count;
  for (const AddedToken& token : added) {
    if (token.content.empty()) continue;
    int64_t id = bpe_.TokenId(token.content);
    if (id < 0) id = next_id++;
    if (id != token.id) {
      return Corruption("added token '{}' has id {}, {} was expected", token.content, token.id, id);
    }
    const size_t index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (!tokens_[index].empty() && tokens_[index] != token.content) {
      return Corruption("'{}' and added token '{}' both have id {}", tokens_[index], token.content,
                        id);
    }
    tokens_[index] = token.content;
  }
  special_.assign(tokens_.size(), false);
  for (const AddedToken& token : added) {
    if (token.content.empty()) continue;
    special_[static_cast<size_t>(token.id)] = token.special;
    std::string pattern = token.content;
    if (token.normalized && normalizer_ != nullptr) {
      if (const Status status = normalizer_->Apply(OutputLimit(pattern.size()), &pattern);
          !status.ok()) {
        return status.At(fmt::format("added token {}", token.id));
      }
    }
    AddedTokenMatcher& matcher = token.normalized ? normalized_matcher_ : raw_matcher_;
    if (const Status status = matcher.Add(token, pattern); !status.ok()) return status;
  }
  return OkStatus();
}

// One side of the template: {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}}.
Status JsonTokenizer::ParseTemplate(const Json& spec) {
  const Result<const Json*> single = ChildArray(spec, "single");
  if (!single.ok()) return single.status();
  const Result<const Json*> tokens = ChildObject(spec, "special_tokens");
  if (!tokens.ok()) return tokens.status();
  if (*single == nullptr) return Corruption("'single' is missing");
  Template around;
  bool text_seen = false;
  for (const Json& piece : **single) {
    const Result<const Json*> special = ChildObject(piece, "SpecialToken");
    if (!special.ok()) return special.status();
    if (*special == nullptr) {
      const Result<const Json*> sequence = ChildObject(piece, "Sequence");
      if (!sequence.ok()) return sequence.status();
      if (*sequence == nullptr) return Corruption("a piece must be a SpecialToken or a Sequence");
      const Result<std::string> id = Field<std::string>(**sequence, "id");
      if (!id.ok()) return id.status();
      if (*id != "A" || text_seen) return Corruption("'single' must have sequence A once");
      text_seen = true;
      continue;
    }
    const Result<std::string> name = Field<std::string>(**special, "id");
    if (!name.ok()) return name.status();
    if (*tokens == nullptr || !(*tokens)->contains(*name)) {
      return Corruption("'{}' is not among the special_tokens", *name);
    }
    const Result<const Json*> ids = ChildArray((**tokens)[*name], "ids");
    if (!ids.ok()) return ids.status();
    if (*ids == nullptr) return Corruption("special token '{}' has no 'ids'", *name);
    for (const Json& item : **ids) {
      const int64_t id = item.is_number_integer() ? item.get<int64_t>() : -1;
      if (id < 0 || id >= vocab_size()) {
        return Corruption("special token '{}': {} is not an id below {}", *name,
                          item.is_number() ? item.dump() : item.type_name(), vocab_size());
      }
      std::vector<int32_t>& side = text_seen ? around.suffix : around.prefix;
      if (side.size() + (text_seen ? template_.suffix : template_.prefix).size() >=
          kMaxTemplateIds) {
        return Corruption("more than {} ids on one side of the text", kMaxTemplateIds);
      }
      side.push_back(static_cast<int32_t>(id));
    }
  }
  if (!text_seen) return Corruption("'single' lacks the sequence A");
  // A second template in a Sequence goes around the first.
  template_.prefix.insert(template_.prefix.begin(), around.prefix.begin(), around.prefix.end());
  template_.suffix.insert(template_.suffix.end(), around.suffix.begin(), around.suffix.end());
  return OkStatus();
}

Status JsonTokenizer::ParsePostProcessor(const Json& spec) {
  if (spec.is_null()) return OkStatus();
  const Result<std::string> type = Field<std::string>(spec, "type");
  if (!type.ok()) return type.status();
  if (*type == "ByteLevel") return OkStatus();  // changes offsets only
  if (*type == "TemplateProcessing") return ParseTemplate(spec).At(*type);
  if (*type == "Sequence") {
    const Result<const Json*> list = ChildArray(spec, "processors");
    if (!list.ok()) return list.status();
    if (*list == nullptr) return Corruption("'processors' is missing");
    for (const Json& item : **list) {
      if (const Status status = ParsePostProcessor(item); !status.ok()) return status;
    }
    return OkStatus();
  }
  return Unsupported("type '{}'", *type);
}

Result<int32_t> JsonTokenizer::ConfiguredToken(const char* key, const std::string& content) const {
  if (content.empty()) return -1;
  const int32_t id = TokenId(content);
  if (id < 0) {
    return Corruption("tokenizer_config.json: {} '{}' is not in the vocabulary", key, content);
  }
  return id;
}

int32_t JsonTokenizer::FirstSpecialOf(std::initializer_list<std::string_view> names) const {
  for (const std::string_view name : names) {
    const int32_t id = TokenId(name);
    if (id >= 0 && special_[static_cast<size_t>(id)]) return id;
  }
  return -1;
}

Status JsonTokenizer::ApplyConfig(const TokenizerConfig& config) {
  const Result<int32_t> bos = ConfiguredToken("bos_token", config.bos);
  if (!bos.ok()) return bos.status();
  const Result<int32_t> eos = ConfiguredToken("eos_token", config.eos);
  if (!eos.ok()) return eos.status();
  bos_id_ = *bos;
  eos_id_ = *eos;
  // Without a name in the config: what the template puts around a text, else the customary names.
  if (bos_id_ < 0) {
    bos_id_ = !template_.prefix.empty() ? template_.prefix.front()
                                        : FirstSpecialOf({"<s>", "<|begin_of_text|>", "<bos>"});
  }
  if (eos_id_ < 0) {
    eos_id_ = !template_.suffix.empty()
                  ? template_.suffix.back()
                  : FirstSpecialOf({"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>"});
  }
  const auto set = [](std::optional<bool> add, int32_t id, bool front, const char* key,
                      std::vector<int32_t>* ids) {
    if (!add.has_value()) return OkStatus();
    if (!*add) {
      std::erase(*ids, id);
    } else if (id < 0) {
      return Corruption("tokenizer_config.json: {} is true, but there is no such token", key);
    } else if (std::find(ids->begin(), ids->end(), id) == ids->end()) {
      ids->insert(front ? ids->begin() : ids->end(), id);
    }
    return OkStatus();
  };
  if (const Status s = set(config.add_bos, bos_id_, true, "add_bos_token", &template_.prefix);
      !s.ok()) {
    return s;
  }
  return set(config.add_eos, eos_id_, false, "add_eos_token", &template_.suffix);
}

Status JsonTokenizer::ComputeTokenBytes() {
  bytes_.resize(tokens_.size());
  size_t content_bytes = 0;
  for (const std::string& token : tokens_)
    content_bytes += token.size();
  size_t budget = OutputLimit(content_bytes);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (special_[id]) continue;
    std::vector<std::string> token = {tokens_[id]};
    const size_t max_bytes = std::min(budget, OutputLimit(tokens_[id].size()));
    const Status status = decoder_->Apply(Decoder::Scope::kMiddleToken, max_bytes, &token);
    if (!status.ok()) return status.At(fmt::format("token {}", id));
    for (const std::string& part : token)
      bytes_[id] += part;
    budget -= std::min(budget, bytes_[id].size());
  }
  return OkStatus();
}

Result<std::shared_ptr<const Tokenizer>> JsonTokenizer::Parse(const Json& root,
                                                              const TokenizerConfig& config) {
  const Result<std::string> version = Field<std::string>(root, "version", "1.0");
  if (!version.ok()) return version.status();
  if (*version != "1.0") return Unsupported("version '{}' of tokenizer.json", *version);
  const Result<const Json*> model = ChildObject(root, "model");
  if (!model.ok()) return model.status();
  if (*model == nullptr) return Corruption("'model' is missing");
  // Files from before tokenizers 0.6 have no type; a model with merges is a BPE.
  const bool has_merges = (*model)->contains("merges");
  const Result<std::string> type = Field<std::string>(
      **model, "type", has_merges ? std::optional<std::string>("BPE") : std::nullopt);
  if (!type.ok()) return type.status().At("model");
  if (*type != "BPE") return Unsupported("model type '{}' (BPE is)", *type);

  Result<Bpe> bpe = Bpe::Parse(**model);
  if (!bpe.ok()) return bpe.status();
  const std::shared_ptr<JsonTokenizer> tokenizer(new JsonTokenizer(*std::move(bpe)));
  const auto component = [&root](const char* key) {
    const auto it = root.find(key);
    return it == root.end() ? Json() : *it;
  };
  Result<std::unique_ptr<const Normalizer>> normalizer = ParseNormalizer(component("normalizer"));
  if (!normalizer.ok()) return normalizer.status();
  tokenizer->normalizer_ = *std::move(normalizer);
  Result<std::unique_ptr<const PreTokenizer>> pre_tokenizer =
      ParsePreTokenizer(component("pre_tokenizer"));
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  tokenizer->pre_tokenizer_ = *std::move(pre_tokenizer);
  Result<std::unique_ptr<const Decoder>> decoder = ParseDecoder(component("decoder"));
  if (!decoder.ok()) return decoder.status();
  tokenizer->decoder_ = *std::move(decoder);

  if (const Status status = tokenizer->ParseAddedTokens(root, config); !status.ok()) return status;
  if (tokenizer->tokens_.empty()) return Corruption("the vocabulary is empty");
  if (const Status status = tokenizer->ParsePostProcessor(component("post_processor"));
      !status.ok()) {
    return status.At("post_processor");
  }
  if (const Status status = tokenizer->ApplyConfig(config); !status.ok()) return status;
  if (const Status status = tokenizer->ComputeTokenBytes(); !status.ok()) return status;
  const bool byte_level =
      tokenizer->decoder_->is_byte_level() ||
      (tokenizer->pre_tokenizer_ != nullptr && tokenizer->pre_tokenizer_->is_byte_level());
  tokenizer->kind_ = byte_level                        ? "bpe-byte-level"
                     : tokenizer->bpe_.byte_fallback() ? "bpe-byte-fallback"
                                                       : "bpe";
  return std::shared_ptr<const Tokenizer>(tokenizer);
}

Status JsonTokenizer::EncodePart(std::string_view part, bool at_start, size_t* budget,
                                 Bpe::Cache* cache, std::vector<int32_t>* ids) const {
  std::string normalized(part);
  if (normalizer_ != nullptr) {
    if (const Status status = normalizer_->Apply(*budget, &normalized); !status.ok()) {
      return status;
    }
  }
  for (const AddedTokenMatcher::Part& piece : normalized_matcher_.Split(normalized)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
      continue;
    }
    std::vector<Word> words;
    words.push_back({normalized.substr(piece.range.begin, piece.range.end - piece.range.begin),
                     at_start && piece.range.begin == 0});
    if (pre_tokenizer_ != nullptr) {
      if (const Status status = pre_tokenizer_->Apply(*budget, &words); !status.ok()) {
        return status;
      }
    }
    *budget -= std::min(*budget, TotalBytes(words));
    for (const Word& word : words) {
      if (const Status status = bpe_.Encode(word.text, cache, ids); !status.ok()) return status;
    }
  }
  return OkStatus();
}

Result<std::vector<int32_t>> JsonTokenizer::Encode(std::string_view text,
                                                   SpecialTokens special) const {
  if (const size_t invalid = FindInvalidUtf8(text); invalid != text.size()) {
    return InvalidArgument("the text is not valid UTF-8 at byte {} of {}", invalid, text.size());
  }
  std::vector<int32_t> ids;
  if (special == SpecialTokens::kModelDefault) ids = template_.prefix;
  Bpe::Cache cache;
  size_t budget = OutputLimit(text.size());
  for (const AddedTokenMatcher::Part& part : raw_matcher_.Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const Status status =
        EncodePart(text.substr(part.range.begin, part.range.end - part.range.begin),
                   part.range.begin == 0, &budget, &cache, &ids);
    if (!status.ok()) return status;
  }
  if (special == SpecialTokens::kModelDefault) {
    ids.insert(ids.end(), template_.suffix.begin(), template_.suffix.end());
  }
  return ids;
}

Result<std::string> JsonTokenizer::Decode(const std::vector<int32_t>& ids) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  size_t bytes = 0;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || tokens_[static_cast<size_t>(id)].empty()) {
      return InvalidArgument("id {} is not a token (the vocabulary ends at {})", id,
                             vocab_size() - 1);
    }
    if (special_[static_cast<size_t>(id)]) continue;
    tokens.push_back(tokens_[static_cast<size_t>(id)]);
    bytes += tokens.back().size();
  }
  if (const Status status = decoder_->Apply(Decoder::Scope::kText, OutputLimit(bytes), &tokens);
      !status.ok()) {
    return status;
  }
  std::string text;
  for (const std::string& token : tokens)
    text += token;
  return text;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> ParseTokenizerJson(std::string_view json,
                                                            std::string_view config_json,
                                                            std::string_view where) {
  const Result<TokenizerConfig> config = ParseTokenizerConfig(config_json);
  if (!config.ok()) return config.status().At("tokenizer_config.json").At(where);
  const Result<Json> root = ParseJson(json);
  if (!root.ok()) return root.status().At(where);
  if (!root->is_object()) {
    return Corruption("{}: an object was expected, got {}", where, root->type_name());
  }
  Result<std::shared_ptr<const Tokenizer>> tokenizer = JsonTokenizer::Parse(*root, *config);
  if (!tokenizer.ok()) return tokenizer.status().At(where);
  return tokenizer;
}

}  // namespace harrow
