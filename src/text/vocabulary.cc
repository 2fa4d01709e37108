#include "text/vocabulary.h"

#include <algorithm>
#include <filesystem>

#include "base/mapped_file.h"
#include "text/json_fields.h"
#include "text/sentencepiece_model.h"

namespace harrow {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

// The words of GPT-2, Llama 3 and Qwen 2, as their tokenizer.json have them.
constexpr std::string_view kLlama3Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// llama.cpp's name for a pre-tokenizer; empty when it has none.
std::string_view PreTokenizerName(const Json& spec) {
  const auto type = [](const Json& step) { return step.value("type", ""); };
  const auto byte_level = [&](const Json& step, bool regex) {
    return type(step) == "ByteLevel" && !step.value("add_prefix_space", true) &&
           step.value("use_regex", true) == regex;
  };
  if (byte_level(spec, true)) return "gpt-2";
  if (type(spec) != "Sequence" || !spec.contains("pretokenizers")) return "";
  const Json& steps = spec["pretokenizers"];
  if (!steps.is_array() || steps.size() != 2) return "";
  const Json& first = steps[0];
  if (type(first) == "Digits" && first.value("individual_digits", false))
    return byte_level(steps[1], true) ? "smollm" : "";
  if (type(first) != "Split" || first.value("behavior", "") != "Isolated" ||
      first.value("invert", false) || !byte_level(steps[1], false)) {
    return "";
  }
  const Json pattern = first.value("pattern", Json::object());
  const std::string words = pattern.is_object() ? pattern.value("Regex", "") : "";
  return words == kLlama3Words ? "llama-bpe" : words == kQwen2Words ? "qwen2" : "";
}

// `json` has been accepted by ParseTokenizerJson.
Status FromJson(const Json& json, const std::string& path, int64_t size, Vocabulary* out) {
  const Json& model = json["model"];
  const Json* pre = json.contains("pre_tokenizer") ? &json["pre_tokenizer"] : nullptr;
  if (pre != nullptr && pre->is_object()) out->pre_tokenizer = PreTokenizerName(*pre);
  if (out->pre_tokenizer.empty() || !(json.value("normalizer", Json()).is_null())) {
    return Unsupported(
        "{}: llama.cpp has no rule that cuts text into words as this tokenizer does (known: GPT-2, "
        "SmolLM, Llama 3, Qwen 2)",
        path);
  }
  out->model = "gpt2";
  const auto set = [&](int64_t id, std::string token, Vocabulary::Type type) -> Status {
    if (id < 0 || id >= size)
      return InvalidArgument("{}: token \"{}\" has id {}, the model has {} tokens", path, token, id,
                             size);
    out->tokens[static_cast<size_t>(id)] = std::move(token);
    out->types[static_cast<size_t>(id)] = type;
    return OkStatus();
  };
  for (const auto& item : model["vocab"].items())
    HARROW_RETURN_IF_ERROR(set(item.value().get<int64_t>(), item.key(), Vocabulary::kNormal));
  for (const Json& token : json.value("added_tokens", Json::array())) {
    HARROW_RETURN_IF_ERROR(
        set(token.value("id", int64_t{-1}), token.value("content", ""),
            token.value("special", false) ? Vocabulary::kControl : Vocabulary::kUserDefined));
  }
  for (const Json& merge : model["merges"]) {
    if (merge.is_array()) {
      out->merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else if (const auto& text = merge.get_ref<const std::string&>();
               !text.starts_with("#version")) {
      out->merges.push_back(text);
    }
  }
  return OkStatus();
}

Status FromSentencePiece(const SentencePieceModel& model, const std::string& path, int64_t size,
                         Vocabulary* out) {
  if (model.model_type != SentencePieceModel::kBpe) {
    return Unsupported("{}: a sentencepiece model that is not BPE cannot be written as GGUF", path);
  }
  if (static_cast<int64_t>(model.pieces.size()) > size) {
    return InvalidArgument("{}: has {} pieces, the model has {} tokens", path, model.pieces.size(),
                           size);
  }
  out->model = "llama";
  out->add_space_prefix = model.add_dummy_prefix;
  // Below every real score, for what fills the table up.
  out->scores.assign(static_cast<size_t>(size), -1e4f);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model.pieces[id];
    out->tokens[id] = std::string(piece.text);
    out->scores[id] = piece.score;
    out->types[id] = piece.type;  // both count alike
  }
  return OkStatus();
}

}  // namespace

Result<Vocabulary> LoadVocabulary(const std::string& directory, int64_t size) {
  Vocabulary vocabulary;
  // Checks everything that is read below.
  HARROW_ASSIGN_OR_RETURN(vocabulary.tokenizer, LoadTokenizer(directory));
  vocabulary.types.assign(static_cast<size_t>(size), Vocabulary::kUnused);
  for (int64_t id = 0; id < size; ++id)
    vocabulary.tokens.push_back(fmt::format("[PAD{}]", id));

  const std::string json_path = directory + "/tokenizer.json";
  const std::string pieces_path = directory + "/tokenizer.model";
  std::error_code error;
  if (vocabulary.tokenizer->kind() == "bpe-byte-level") {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(json_path, kMaxFileBytes));
    Result<Json> json = ParseJson(text);
    if (!json.ok()) return json.status().At(json_path);
    HARROW_RETURN_IF_ERROR(FromJson(*json, json_path, size, &vocabulary));
  } else if (std::filesystem::exists(pieces_path, error)) {
    HARROW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(pieces_path, kMaxFileBytes));
    const Result<SentencePieceModel> model = ParseSentencePieceModel(bytes);
    if (!model.ok()) return model.status().At(pieces_path);
    HARROW_RETURN_IF_ERROR(FromSentencePiece(*model, pieces_path, size, &vocabulary));
  } else {
    return Unsupported("{}: a tokenizer of kind {} needs its tokenizer.model to be written as GGUF",
                       directory, vocabulary.tokenizer->kind());
  }
  return vocabulary;
}

}  // namespace harrow
