// The sentencepiece ModelProto (google/sentencepiece, src/sentencepiece_model.proto), as far as
// Harrow must know it. libsentencepiece trusts a model's tables; this checks them before it sees
// them.
#ifndef HARROW_TEXT_SENTENCEPIECE_MODEL_H_
#define HARROW_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace harrow {

struct SentencePieceModel {
  enum PieceType {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  enum ModelType { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  struct Piece {
    std::string_view text;  // into the parsed bytes
    float score = 0;
    int32_t type = kNormal;
  };
  std::vector<Piece> pieces;
  int32_t model_type = kUnigram;
  bool treat_whitespace_as_suffix = false;
  // The model without its self-tests: libsentencepiece would run them and print.
  std::string without_self_tests;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
};

// Corruption when `bytes` is not a sound model: broken wire format, pieces that are empty, no UTF-8
// or too long, scores that are no numbers, a normalization table that points outside itself.
// Unsupported for models with a denormalizer. The result refers to `bytes`.
Result<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

}  // namespace harrow

#endif  // HARROW_TEXT_SENTENCEPIECE_MODEL_H_
