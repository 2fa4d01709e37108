// tokenizer.model through libsentencepiece (BPE and unigram).
#include <sentencepiece_processor.h>

#include <algorithm>
#include <exception>

#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"

namespace harrow {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Appends `bytes` with every byte that is not part of a character as U+FFFD.
void AppendBytewise(std::string_view bytes, std::string* text) {
  for (size_t pos = 0; pos < bytes.size();) {
    const size_t length = Utf8CharLength(bytes, pos);
    text->append(length == 0 ? "\xEF\xBF\xBD" : bytes.substr(pos, length));
    pos += std::max<size_t>(1, length);
  }
}

// Whether the first line is "<base64> <rank>".
bool IsTiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) return false;
  const auto all = [](std::string_view text, const char* more, bool letters) {
    return std::all_of(text.begin(), text.end(), [&](char c) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      return (c >= '0' && c <= '9') || (letters && letter) ||
             std::string_view(more).find(c) != std::string_view::npos;
    });
  };
  return all(line.substr(0, space), "+/=", true) && all(line.substr(space + 1), "\r", false);
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> Parse(std::string_view bytes,
                                                        const TokenizerConfig& config);

  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens special) const override;
  Result<std::string> Decode(const std::vector<int32_t>& ids) const override;
  std::string TokenBytes(int32_t id) const override {
    return id < 0 || id >= vocab_size() ? std::string() : tokens_[static_cast<size_t>(id)].bytes;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return add_bos_; }
  std::string_view kind() const override { return kind_; }

 private:
  struct Token {
    std::string bytes;
    bool special = false;  // left out when decoding
    bool byte = false;     // bytes is one byte of a character
    bool space_first = false;
  };

  Status AddPieces(const SentencePieceModel& model);
  Status AddConfiguredTokens(const SentencePieceModel& model, const TokenizerConfig& config);
  Status ApplyConfig(const SentencePieceModel& model, const TokenizerConfig& config);

  sentencepiece::SentencePieceProcessor processor_;
  AddedTokenMatcher matcher_;
  std::vector<Token> tokens_;
  bool strips_ = false;       // decoding takes off the leading space that encoding put there
  bool strips_once_ = false;  // else off every token until there is text
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
  bool add_bos_ = false;
  bool add_eos_ = false;
  std::string_view kind_;
};

Status SentencePieceTokenizer::AddPieces(const SentencePieceModel& model) {
  tokens_.reserve(model.pieces.size());
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    Token token;
    token.special =
        piece.type == SentencePieceModel::kControl || piece.type == SentencePieceModel::kUnknown;
    token.byte = piece.type == SentencePieceModel::kByte;
    if (token.byte) {
      token.bytes = static_cast<char>(ParseByteToken(piece.text));
    } else if (!token.special) {
      token.space_first = piece.text.substr(0, kSpaceMark.size()) == kSpaceMark;
      for (size_t pos = 0; pos < piece.text.size();) {
        if (piece.text.substr(pos, kSpaceMark.size()) == kSpaceMark) {
          token.bytes += ' ';
          pos += kSpaceMark.size();
        } else {
          token.bytes += piece.text[pos++];
        }
      }
    }
    const int32_t id = static_cast<int32_t>(tokens_.size());
    if (token.special) {
      const Status status =
          matcher_.Add({.id = id, .content = std::string(piece.text), .special = true}, piece.text);
      if (!status.ok()) return status;
    }
    tokens_.push_back(std::move(token));
  }
  return OkStatus();
}

// Tokens that tokenizer_config.json adds behind the model's pieces. One that names a piece must
// name it rightly.
Status SentencePieceTokenizer::AddConfiguredTokens(const SentencePieceModel& model,
                                                   const TokenizerConfig& config) {
  for (const AddedToken& token : config.added_tokens) {
    const size_t id = static_cast<size_t>(token.id);
    if (id < model.pieces.size()) {
      if (model.pieces[id].text != token.content) {
        return Corruption("tokenizer_config.json: token {} is '{}', but '{}' in the model", id,
                          token.content, model.pieces[id].text);
      }
      continue;
    }
    if (id != tokens_.size()) {
      return Corruption("tokenizer_config.json: added token '{}' has id {}, {} was expected",
                        token.content, id, tokens_.size());
    }
    tokens_.push_back(
        {.bytes = token.special ? std::string() : token.content, .special = token.special});
    if (const Status status = matcher_.Add(token, token.content); !status.ok()) return status;
  }
  return OkStatus();
}

Status SentencePieceTokenizer::ApplyConfig(const SentencePieceModel& model,
                                           const TokenizerConfig& config) {
  struct Named {
    const char* key;
    const std::string* content;
    int32_t* id;
  };
  bos_id_ = processor_.bos_id();
  eos_id_ = processor_.eos_id();
  for (const Named& named :
       {Named{"bos_token", &config.bos, &bos_id_}, Named{"eos_token", &config.eos, &eos_id_}}) {
    if (named.content->empty()) continue;
    const auto piece = std::find_if(model.pieces.begin(), model.pieces.end(),
                                    [&](const auto& p) { return p.text == *named.content; });
    const auto added =
        std::find_if(config.added_tokens.begin(), config.added_tokens.end(),
                     [&](const AddedToken& token) { return token.content == *named.content; });
    if (piece != model.pieces.end()) {
      *named.id = static_cast<int32_t>(piece - model.pieces.begin());
    } else if (added != config.added_tokens.end()) {
      *named.id = added->id;
    } else {
      return Corruption("tokenizer_config.json: {} '{}' is not in the vocabulary", named.key,
                        *named.content);
    }
  }
  add_bos_ = config.add_bos.value_or(bos_id_ >= 0);
  add_eos_ = config.add_eos.value_or(false);
  if ((add_bos_ && bos_id_ < 0) || (add_eos_ && eos_id_ < 0)) {
    return Corruption("tokenizer_config.json: add_{}_token is true, but there is no such token",
                      add_bos_ && bos_id_ < 0 ? "bos" : "eos");
  }
  return OkStatus();
}

Result<std::shared_ptr<const Tokenizer>> SentencePieceTokenizer::Parse(
    std::string_view bytes, const TokenizerConfig& config) {
  const Result<SentencePieceModel> model = ParseSentencePieceModel(bytes);
  if (!model.ok()) return model.status();
  const std::shared_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer);
  switch (model->model_type) {
    case SentencePieceModel::kUnigram: tokenizer->kind_ = "sentencepiece-unigram"; break;
    case SentencePieceModel::kBpe: tokenizer->kind_ = "sentencepiece-bpe"; break;
    case SentencePieceModel::kWord: return Unsupported("a sentencepiece model of words");
    case SentencePieceModel::kChar: return Unsupported("a sentencepiece model of characters");
    default: return Corruption("unknown model_type {}", model->model_type);
  }
  if (model->treat_whitespace_as_suffix) return Unsupported("treat_whitespace_as_suffix");

  try {
    const auto loaded = tokenizer->processor_.LoadFromSerializedProto(model->without_self_tests);
    if (!loaded.ok()) return Corruption("sentencepiece: {}", loaded.message());
  } catch (const std::exception& e) {
    return Corruption("sentencepiece: {}", e.what());
  }
  if (static_cast<size_t>(tokenizer->processor_.GetPieceSize()) != model->pieces.size()) {
    return Corruption("sentencepiece reads {} pieces, not {}", tokenizer->processor_.GetPieceSize(),
                      model->pieces.size());
  }
  tokenizer->strips_ = model->add_dummy_prefix || model->remove_extra_whitespaces;
  tokenizer->strips_once_ = !model->remove_extra_whitespaces;
  Status status = tokenizer->AddPieces(*model);
  if (status.ok()) status = tokenizer->AddConfiguredTokens(*model, config);
  if (status.ok()) status = tokenizer->ApplyConfig(*model, config);
  if (!status.ok()) return status;
  return std::shared_ptr<const Tokenizer>(tokenizer);
}

Result<std::vector<int32_t>> SentencePieceTokenizer::Encode(std::string_view text,
                                                            SpecialTokens special) const {
  if (const size_t invalid = FindInvalidUtf8(text); invalid != text.size()) {
    return InvalidArgument("the text is not valid UTF-8 at byte {} of {}", invalid, text.size());
  }
  // The library counts bytes of the normalized text, up to three times as long, in an int.
  if (text.size() > INT32_MAX / 8) {
    return Error(StatusCode::kResourceLimit, "a text of {} bytes, at most {} are supported",
                 text.size(), INT32_MAX / 8);
  }
  std::vector<int32_t> ids;
  if (special == SpecialTokens::kModelDefault && add_bos_) ids.push_back(bos_id_);
  std::vector<int> part_ids;
  for (const AddedTokenMatcher::Part& part : matcher_.Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const auto status = processor_.Encode(
        text.substr(part.range.begin, part.range.end - part.range.begin), &part_ids);
    if (!status.ok()) {
      return Error(StatusCode::kInvalidArgument, "sentencepiece: {}", status.message());
    }
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  }
  if (special == SpecialTokens::kModelDefault && add_eos_) ids.push_back(eos_id_);
  return ids;
}

// As SentencePieceProcessor::Decode, but for special tokens (it writes the unknown one as " ⁇ ")
// and an incomplete character at the end, which stays as it is.
Result<std::string> SentencePieceTokenizer::Decode(const std::vector<int32_t>& ids) const {
  std::string text;
  std::string run;  // of byte tokens
  bool at_start = strips_;
  bool stripped = false;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return InvalidArgument("id {} is not a token (the vocabulary ends at {})", id,
                             vocab_size() - 1);
    }
    const Token& token = tokens_[static_cast<size_t>(id)];
    if (token.byte) {
      run += token.bytes;
      continue;
    }
    if (token.special) continue;
    AppendBytewise(run, &text);
    run.clear();
    if (!text.empty() || (stripped && strips_once_)) at_start = false;
    stripped = at_start && token.space_first;
    text.append(token.bytes, stripped ? 1 : 0);
  }
  std::string incomplete = run;
  std::string whole;
  TakeCharacters(&incomplete, &whole);
  AppendBytewise(std::string_view(run).substr(0, run.size() - incomplete.size()), &text);
  return text + incomplete;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> ParseSentencePiece(std::string_view model,
                                                            std::string_view config_json,
                                                            std::string_view where) {
  const Result<TokenizerConfig> config = ParseTokenizerConfig(config_json);
  if (!config.ok()) return config.status().At("tokenizer_config.json").At(where);
  if (IsTiktoken(model)) {
    return Unsupported(
        "{}: this is a tiktoken vocabulary (lines of base64 and rank), not a sentencepiece model; "
        "use the tokenizer.json of the same model",
        where);
  }
  Result<std::shared_ptr<const Tokenizer>> tokenizer =
      SentencePieceTokenizer::Parse(model, *config);
  if (!tokenizer.ok()) return tokenizer.status().At(where);
  return tokenizer;
}

}  // namespace harrow
