#include "text/tokenizer.h"

#include <filesystem>
#include <utility>

#include "base/mapped_file.h"
#include "text/unicode.h"

namespace harrow {
namespace {

// The largest published tokenizer.json has about 33 MB (Gemma 3), its config about 1 MB.
constexpr uint64_t kMaxFileBytes = 40 << 20;
constexpr uint64_t kMaxConfigBytes = 8 << 20;

Result<std::string> ReadIfThere(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::string();
  return ReadFile(path, kMaxConfigBytes);
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& directory) {
  const Result<std::string> config = ReadIfThere(directory + "/tokenizer_config.json");
  if (!config.ok()) return config.status();
  struct Kind {
    const char* file;
    Result<std::shared_ptr<const Tokenizer>> (*parse)(std::string_view, std::string_view,
                                                      std::string_view);
  };
  for (const Kind& kind :
       {Kind{"tokenizer.json", ParseTokenizerJson}, Kind{"tokenizer.model", ParseSentencePiece}}) {
    const std::string path = directory + "/" + kind.file;
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    const Result<std::string> content = ReadFile(path, kMaxFileBytes);
    if (!content.ok()) return content.status();
    return kind.parse(*content, *config, path);
  }
  return NotFound("{}: neither tokenizer.json nor tokenizer.model is there", directory);
}

StreamingDetokenizer::StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

std::string StreamingDetokenizer::Push(int32_t id) {
  std::string bytes = tokenizer_->TokenBytes(id);
  if (!started_ && !bytes.empty()) {
    // Only Decode knows what the family drops at the start of a text.
    start_.push_back(id);
    const Result<std::string> decoded = tokenizer_->Decode(start_);
    if (decoded.ok()) bytes = *decoded;
    started_ = !bytes.empty();
  }
  pending_ += bytes;
  std::string text;
  TakeCharacters(&pending_, &text);
  return text;
}

std::string StreamingDetokenizer::Flush() {
  return std::exchange(pending_, std::string());
}

}  // namespace harrow
