#include "text/sentencepiece_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "text/unicode.h"

namespace harrow {
namespace {

// libsentencepiece recurses once per character of some pieces.
constexpr size_t kMaxPieceBytes = 4096;
// Its searches write to arrays on the stack: 32 results for the normalizer's trie, 64 for that of
// the user-defined symbols, and count what does not fit as if it were there.
constexpr int kMaxNestedRules = 32;
constexpr size_t kMaxNestedSymbols = 64;
// A rule replaces a few characters by a few; the bound keeps the text from exploding.
constexpr size_t kMaxReplacementBytes = 1024;

// One field of a protocol buffers message.
struct WireField {
  uint32_t number;
  uint32_t type;           // 0 varint, 1 fixed64, 2 bytes, 5 fixed32
  uint64_t value;          // types 0, 1, 5
  std::string_view bytes;  // type 2
  std::string_view whole;  // with its tag
};

class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return pos_ == bytes_.size(); }

  Result<WireField> Next() {
    const size_t start = pos_;
    uint64_t tag = 0;
    WireField field{};
    bool ok = Varint(&tag) && tag >> 3 != 0 && tag >> 32 == 0;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<uint32_t>(tag & 7);
    if (ok) {
      switch (field.type) {
        case 0: ok = Varint(&field.value); break;
        case 1: ok = Fixed(8, &field.value); break;
        case 5: ok = Fixed(4, &field.value); break;
        case 2: {
          uint64_t size = 0;
          ok = Varint(&size) && size <= bytes_.size() - pos_;
          if (ok) {
            field.bytes = bytes_.substr(pos_, size);
            pos_ += size;
          }
          break;
        }
        default: ok = false;
      }
    }
    if (!ok) return Corruption("broken protocol buffer at byte {} of {}", start, bytes_.size());
    field.whole = bytes_.substr(start, pos_ - start);
    return field;
  }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && pos_ < bytes_.size(); shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(bytes_[pos_++]);
      *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Fixed(size_t size, uint64_t* value) {
    if (bytes_.size() - pos_ < size) return false;
    *value = 0;
    for (size_t i = 0; i < size; ++i) {
      *value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[pos_ + i])) << (8 * i);
    }
    pos_ += size;
    return true;
  }

  std::string_view bytes_;
  size_t pos_ = 0;
};

// Calls `visit(field)` for every field of `message`, until one fails.
template <class Visit>
Status ForEachField(std::string_view message, Visit visit) {
  WireReader reader(message);
  while (!reader.done()) {
    const Result<WireField> field = reader.Next();
    if (!field.ok()) return field.status();
    if (const Status status = visit(*field); !status.ok()) return status;
  }
  return OkStatus();
}

Status WrongType(const WireField& field, const char* name) {
  return Corruption("{}: protocol buffer type {}", name, field.type);
}

// The fields that are read must have the type that they have in the .proto: libprotobuf would
// skip others and take the default.
Status ReadBool(const WireField& field, const char* name, bool* value) {
  if (field.type != 0) return WrongType(field, name);
  *value = field.value != 0;
  return OkStatus();
}
Status ReadInt(const WireField& field, const char* name, int32_t* value) {
  if (field.type != 0) return WrongType(field, name);
  if (field.value > INT32_MAX) return Corruption("{}: {}", name, field.value);
  *value = static_cast<int32_t>(field.value);
  return OkStatus();
}
Status ReadBytes(const WireField& field, const char* name, std::string_view* value) {
  if (field.type != 2) return WrongType(field, name);
  *value = field.bytes;
  return OkStatus();
}

Status ParsePiece(std::string_view message, SentencePieceModel::Piece* piece) {
  const Status status = ForEachField(message, [piece](const WireField& field) {
    switch (field.number) {
      case 1: return ReadBytes(field, "piece", &piece->text);
      case 2:
        if (field.type != 5) return WrongType(field, "score");
        piece->score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
        return OkStatus();
      case 3: return ReadInt(field, "type", &piece->type);
      default: return OkStatus();
    }
  });
  if (!status.ok()) return status;
  if (piece->text.empty()) return Corruption("it is empty");
  if (piece->text.size() > kMaxPieceBytes) {
    return Corruption("it has {} bytes, at most {} are allowed", piece->text.size(),
                      kMaxPieceBytes);
  }
  if (FindInvalidUtf8(piece->text) != piece->text.size()) return Corruption("it is not UTF-8");
  // The tries are built from C strings.
  if (piece->text.find('\0') != std::string_view::npos) return Corruption("it has a NUL byte");
  if (!std::isfinite(piece->score)) return Corruption("its score is {}", piece->score);
  if (piece->type < SentencePieceModel::kNormal || piece->type > SentencePieceModel::kByte) {
    return Corruption("its type is {}", piece->type);
  }
  return OkStatus();
}

// precompiled_charsmap: uint32 size of the trie, the trie (a double array of uint32, Darts-clone),
// then NUL-terminated replacements that its values point to (normalizer.cc).
class CharsMapChecker {
 public:
  explicit CharsMapChecker(std::string_view blob) : blob_(blob) {}

  Status Check() {
    if (blob_.size() < 4) return Corruption("{} bytes", blob_.size());
    const size_t trie_bytes = Word(0);
    if (trie_bytes > blob_.size() - 4 || trie_bytes % 4 != 0 || trie_bytes == 0) {
      return Corruption("a trie of {} bytes in {}", trie_bytes, blob_.size());
    }
    units_ = trie_bytes / 4;
    replacements_ = blob_.substr(4 + trie_bytes);
    if (replacements_.empty() || replacements_.back() != '\0') {
      return Corruption("the replacements lack their final NUL");
    }
    if (FindInvalidUtf8(replacements_) != replacements_.size()) {
      return Corruption("the replacements are not UTF-8");
    }
    // A walk over all paths. They may meet again (Darts-clone shares equal ends), but not in a
    // circle. rules[u]: the most rules on one path from u on; -1 not seen, -2 on the current path.
    constexpr int8_t kNew = -1, kOpen = -2;
    std::vector<int8_t> rules(units_, kNew);
    struct Step {
      size_t unit;
      size_t label;  // the next one to try
      int8_t best;   // of the children so far
    };
    std::vector<Step> path = {{0, 0, 0}};
    rules[0] = kOpen;
    if (const Status status = CheckUnit(0); !status.ok()) return status;
    while (!path.empty()) {
      Step& step = path.back();
      const size_t base = Base(step.unit);
      bool down = false;
      for (; step.label < 256 && !down; ++step.label) {
        const size_t child = base ^ step.label;
        if ((Unit(child) & 0x800000FF) != step.label) continue;
        if (rules[child] == kOpen) return Corruption("unit {} is in a circle", child);
        if (rules[child] == kNew) {
          if (const Status status = CheckUnit(child); !status.ok()) return status;
          rules[child] = kOpen;
          path.push_back({child, 0, 0});
          down = true;
          break;  // and look at this child again, then closed
        }
        step.best = std::max(step.best, rules[child]);
      }
      if (down) continue;
      const int8_t most = static_cast<int8_t>(step.best + (HasRule(step.unit) ? 1 : 0));
      if (most > kMaxNestedRules) return Corruption("too many rules for one prefix");
      rules[step.unit] = most;
      path.pop_back();
    }
    return OkStatus();
  }

 private:
  uint32_t Word(size_t pos) const {
    uint32_t word = 0;
    for (size_t i = 0; i < 4; ++i) {
      word |= static_cast<uint32_t>(static_cast<uint8_t>(blob_[pos + i])) << (8 * i);
    }
    return word;
  }
  uint32_t Unit(size_t index) const { return Word(4 + 4 * index); }
  // The 256 units that may be the children of `unit`.
  size_t Base(size_t unit) const {
    const uint32_t bits = Unit(unit);
    return unit ^ size_t { bits >> 10 } << ((bits & 1u << 9) >> 6);
  }
  bool HasRule(size_t unit) const { return (Unit(unit) >> 8 & 1) != 0; }

  Status CheckUnit(size_t unit) const {
    const size_t base = Base(unit);
    // A search reads any of the 256 before it knows whether they belong.
    if ((base | 0xFF) >= units_) return Corruption("unit {} points outside", unit);
    return HasRule(unit) ? CheckReplacement(Unit(base) & 0x7FFFFFFF) : OkStatus();
  }

  Status CheckReplacement(size_t at) const {
    const size_t end = at < replacements_.size() ? replacements_.find('\0', at) : std::string::npos;
    if (end == std::string::npos || end - at > kMaxReplacementBytes ||
        (static_cast<uint8_t>(replacements_[at]) & 0xC0) == 0x80) {
      return Corruption("a rule has no replacement at {}", at);
    }
    return OkStatus();
  }

  std::string_view blob_;
  std::string_view replacements_;
  size_t units_ = 0;
};

Status ParseNormalizer(std::string_view message, SentencePieceModel* model) {
  std::string_view charsmap;
  const Status status = ForEachField(message, [&](const WireField& field) {
    switch (field.number) {
      case 2: return ReadBytes(field, "precompiled_charsmap", &charsmap);
      case 3: return ReadBool(field, "add_dummy_prefix", &model->add_dummy_prefix);
      case 4: return ReadBool(field, "remove_extra_whitespaces", &model->remove_extra_whitespaces);
      default: return OkStatus();
    }
  });
  if (!status.ok() || charsmap.empty()) return status;
  return CharsMapChecker(charsmap).Check().At("precompiled_charsmap");
}

Status ParseDenormalizer(std::string_view message) {
  return ForEachField(message, [](const WireField& field) {
    if (field.number == 2 && !field.bytes.empty()) {
      return Unsupported("a denormalizer with its own rules");
    }
    return OkStatus();
  });
}

Status ParseTrainer(std::string_view message, SentencePieceModel* model) {
  return ForEachField(message, [model](const WireField& field) {
    switch (field.number) {
      case 3: return ReadInt(field, "model_type", &model->model_type);
      case 24:
        return ReadBool(field, "treat_whitespace_as_suffix", &model->treat_whitespace_as_suffix);
      default: return OkStatus();
    }
  });
}

Status CheckNestedSymbols(const SentencePieceModel& model) {
  std::vector<std::string_view> symbols;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type == SentencePieceModel::kUserDefined) symbols.push_back(piece.text);
  }
  std::sort(symbols.begin(), symbols.end());
  std::vector<std::string_view> prefixes;  // of the current symbol, each one of the next
  for (const std::string_view symbol : symbols) {
    while (!prefixes.empty() && symbol.substr(0, prefixes.back().size()) != prefixes.back()) {
      prefixes.pop_back();
    }
    prefixes.push_back(symbol);
    if (prefixes.size() > kMaxNestedSymbols) {
      return Unsupported("more than {} user-defined symbols that begin with one another",
                         kMaxNestedSymbols);
    }
  }
  return OkStatus();
}

}  // namespace

Result<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  const Status status = ForEachField(bytes, [&model](const WireField& field) -> Status {
    constexpr uint32_t kSelfTestData = 4;
    if (field.number != kSelfTestData) model.without_self_tests += field.whole;
    if (field.number > 5) return OkStatus();
    if (field.type != 2) return WrongType(field, "a field of the model");
    switch (field.number) {
      case 1:
        model.pieces.emplace_back();
        return ParsePiece(field.bytes, &model.pieces.back())
            .At(fmt::format("piece {}", model.pieces.size() - 1));
      case 2: return ParseTrainer(field.bytes, &model).At("trainer_spec");
      case 3: return ParseNormalizer(field.bytes, &model).At("normalizer_spec");
      case 5: return ParseDenormalizer(field.bytes).At("denormalizer_spec");
      default: return OkStatus();
    }
  });
  if (!status.ok()) return status;
  if (model.pieces.empty()) return Corruption("no pieces");
  if (const Status nested = CheckNestedSymbols(model); !nested.ok()) return nested;
  return model;
}

}  // namespace harrow
