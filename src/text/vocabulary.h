// A tokenizer's tables as llama.cpp wants them: what a GGUF file says of tokens.
#ifndef HARROW_TEXT_VOCABULARY_H_
#define HARROW_TEXT_VOCABULARY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace harrow {

struct Vocabulary {
  // llama.cpp's numbers (llama_token_type).
  enum Type : int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  // "gpt2": byte-level BPE by merges; "llama": sentencepiece BPE by scores.
  std::string model;
  // Of "gpt2": how text is cut into words, by llama.cpp's name ("gpt-2", "smollm", "llama-bpe",
  // "qwen2").
  std::string pre_tokenizer;
  std::vector<std::string> tokens;  // by id; byte-level tokens in GPT-2's alphabet
  std::vector<int32_t> types;
  std::vector<float> scores;        // of "llama", otherwise empty
  std::vector<std::string> merges;  // of "gpt2", "left right" by rank, otherwise empty
  bool add_space_prefix = false;    // of "llama"
  std::shared_ptr<const Tokenizer> tokenizer;
};

// The vocabulary of a Hugging Face directory, filled up to `size` ids with unused tokens. Errors as
// LoadTokenizer; Unsupported for a tokenizer that llama.cpp would not read the same way (unigram
// models, other word rules than those above, BPE with byte fallback and no tokenizer.model).
Result<Vocabulary> LoadVocabulary(const std::string& directory, int64_t size);

}  // namespace harrow

#endif  // HARROW_TEXT_VOCABULARY_H_
