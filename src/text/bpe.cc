#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "text/unicode.h"

namespace harrow {
namespace {

// Ids index a table, so a few tokens must not ask for a huge one. Published vocabularies have holes
// of some tens of ids (the specials of o200k).
constexpr int64_t kMaxHoles = 65536;
constexpr uint64_t kEmptyKey = ~uint64_t{0};
// Longer words hardly repeat.
constexpr size_t kMaxCachedWord = 256;
constexpr size_t kMaxCachedWords = 1 << 16;

}  // namespace

void Bpe::MergeTable::Reserve(size_t count) {
  const size_t slots = std::bit_ceil(std::max<size_t>(16, 2 * count));
  keys_.assign(slots, kEmptyKey);
  merges_.assign(slots, {0, -1});
  shift_ = 64 - std::countr_zero(slots);
}

size_t Bpe::MergeTable::Slot(uint64_t key) const {
  // Multiplicative hashing (Knuth 6.4) with linear probing; at most half of the slots are taken.
  size_t slot = static_cast<size_t>((key ^ key >> 29) * 0x9E3779B97F4A7C15u >> shift_);
  while (keys_[slot] != key && keys_[slot] != kEmptyKey)
    slot = (slot + 1) & (keys_.size() - 1);
  return slot;
}

void Bpe::MergeTable::Set(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  const size_t slot = Slot(key);
  keys_[slot] = key;
  merges_[slot] = merge;
}

const Bpe::Merge* Bpe::MergeTable::Find(int32_t left, int32_t right) const {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  const Merge& merge = merges_[Slot(key)];
  return merge.id < 0 ? nullptr : &merge;
}

Result<Bpe> Bpe::Parse(const Json& spec) {
  Bpe bpe;
  const Json* dropout = spec.contains("dropout") ? &spec["dropout"] : nullptr;
  if (dropout != nullptr && !dropout->is_null() && *dropout != 0.0) {
    return Unsupported("model BPE: dropout {} (it would make encoding random)", dropout->dump());
  }
  struct StringOption {
    const char* key;
    std::string* value;
  };
  for (const StringOption& option :
       {StringOption{"unk_token", &bpe.unk_token_},
        StringOption{"continuing_subword_prefix", &bpe.continuing_subword_prefix_},
        StringOption{"end_of_word_suffix", &bpe.end_of_word_suffix_}}) {
    Result<std::string> value = Field<std::string>(spec, option.key, std::string());
    if (!value.ok()) return value.status().At("model");
    *option.value = *std::move(value);
  }
  struct BoolOption {
    const char* key;
    bool* value;
  };
  for (const BoolOption& option :
       {BoolOption{"fuse_unk", &bpe.fuse_unk_}, BoolOption{"byte_fallback", &bpe.byte_fallback_},
        BoolOption{"ignore_merges", &bpe.ignore_merges_}}) {
    const Result<bool> value = Field<bool>(spec, option.key, false);
    if (!value.ok()) return value.status().At("model");
    *option.value = *value;
  }
  if (const Status status = bpe.ParseVocab(spec); !status.ok()) return status.At("model");
  if (const Status status = bpe.ParseMerges(spec); !status.ok()) return status.At("model");
  // A name that is not in the vocabulary only matters when an unknown character comes.
  bpe.unk_id_ = bpe.TokenId(bpe.unk_token_);
  for (int byte = 0; byte < 256; ++byte) {
    bpe.byte_ids_[byte] = bpe.TokenId(fmt::format("<0x{:02X}>", byte));
  }
  return bpe;
}

Status Bpe::ParseVocab(const Json& spec) {
  const Result<const Json*> vocab = ChildObject(spec, "vocab");
  if (!vocab.ok()) return vocab.status();
  if (*vocab == nullptr) return Corruption("'vocab' is missing");
  const int64_t id_end = static_cast<int64_t>((*vocab)->size()) + kMaxHoles;
  vocab_.reserve((*vocab)->size());
  for (const auto& item : (*vocab)->items()) {
    const Json& value = item.value();
    if (!value.is_number_integer()) {
      return Corruption("vocab: the id of '{}' must be an integer, got {}", item.key(),
                        value.type_name());
    }
    const int64_t id = value.get<int64_t>();
    if (id < 0 || id >= id_end) {
      return Corruption("vocab: '{}' has id {}; {} tokens should have ids from 0 to about {}",
                        item.key(), value.dump(), (*vocab)->size(), (*vocab)->size());
    }
    const size_t index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (!tokens_[index].empty()) {
      return Corruption("vocab: '{}' and '{}' both have id {}", tokens_[index], item.key(), id);
    }
    if (item.key().empty()) return Corruption("vocab: the token with id {} is empty", id);
    tokens_[index] = item.key();
    vocab_.emplace(item.key(), static_cast<int32_t>(id));
  }
  return OkStatus();
}

Status Bpe::ParseMerges(const Json& spec) {
  const Result<const Json*> merges = ChildArray(spec, "merges");
  if (!merges.ok()) return merges.status();
  if (*merges == nullptr) return Corruption("'merges' is missing");
  merges_.Reserve((*merges)->size());
  uint32_t rank = 0;
  for (const Json& item : **merges) {
    std::string_view left, right;
    if (item.is_string()) {
      const std::string_view both = item.get_ref<const std::string&>();
      // A header line that files converted from merges.txt may still have.
      if (both.substr(0, 8) == "#version") continue;
      const size_t space = both.find(' ');
      if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
        return Corruption("merges[{}]: '{}' must be two tokens with one space between", rank, both);
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get_ref<const std::string&>();
      right = item[1].get_ref<const std::string&>();
    } else {
      return Corruption("merges[{}] must be \"a b\" or [\"a\", \"b\"], got {}", rank,
                        item.type_name());
    }
    const size_t prefix = continuing_subword_prefix_.size();
    if (right.substr(0, prefix) != continuing_subword_prefix_) {
      return Corruption("merges[{}]: '{}' lacks the continuing_subword_prefix '{}'", rank, right,
                        continuing_subword_prefix_);
    }
    const std::string merged = std::string(left) + std::string(right.substr(prefix));
    for (const std::string_view token : {left, right, std::string_view(merged)}) {
      if (TokenId(token) < 0) {
        return Corruption("merges[{}]: '{}' is not in the vocabulary", rank, token);
      }
    }
    // Of a pair that is listed twice the last rank counts.
    merges_.Set(TokenId(left), TokenId(right), {rank, TokenId(merged)});
    ++rank;
  }
  return OkStatus();
}

int32_t Bpe::TokenId(std::string_view token) const {
  const auto it = vocab_.find(token);
  return it == vocab_.end() ? -1 : it->second;
}

Status Bpe::Characters(std::string_view word, std::vector<Symbol>* symbols) const {
  symbols->reserve(word.size());
  const auto add = [symbols](int32_t id) {
    const int32_t index = static_cast<int32_t>(symbols->size());
    if (index > 0) symbols->back().next = index;
    symbols->push_back({id, index - 1, -1, false});
  };
  // An unknown token is held back, so that the next one can fuse with it. Byte tokens overtake it:
  // odd, but so does the reference.
  bool unk_pending = false;
  std::string decorated;
  for (size_t pos = 0; pos < word.size();) {
    const size_t begin = pos;
    NextChar(word, &pos);
    std::string_view character = word.substr(begin, pos - begin);
    const bool prefix = begin > 0 && !continuing_subword_prefix_.empty();
    const bool suffix = pos == word.size() && !end_of_word_suffix_.empty();
    if (prefix || suffix) {
      decorated = prefix ? continuing_subword_prefix_ : std::string();
      decorated += character;
      if (suffix) decorated += end_of_word_suffix_;
      character = decorated;
    }
    const int32_t id = TokenId(character);
    if (id >= 0) {
      if (unk_pending) add(unk_id_);
      unk_pending = false;
      add(id);
      continue;
    }
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), [this](char c) {
          return byte_ids_[static_cast<uint8_t>(c)] >= 0;
        })) {
      for (const char c : character)
        add(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    if (unk_id_ < 0) {
      return InvalidArgument("the character '{}' is not in the vocabulary, and {}", character,
                             unk_token_.empty()
                                 ? "there is no unknown token"
                                 : "neither is the unknown token '" + unk_token_ + "'");
    }
    if (unk_pending && !fuse_unk_) add(unk_id_);
    unk_pending = true;
  }
  if (unk_pending) add(unk_id_);
  return OkStatus();
}

void Bpe::MergeAll(std::vector<Symbol>* symbols) const {
  // Lowest rank first, then leftmost: rank and position in one key. An entry is out of date when
  // its left symbol has gone or the pair there no longer merges to the same token.
  struct Candidate {
    uint64_t key;
    int32_t id;
  };
  const auto later = [](const Candidate& a, const Candidate& b) { return a.key > b.key; };
  std::vector<Candidate> heap;
  std::vector<Symbol>& s = *symbols;
  const auto candidate = [&](int32_t left, int32_t right) {
    const Merge* merge =
        merges_.Find(s[static_cast<size_t>(left)].id, s[static_cast<size_t>(right)].id);
    if (merge == nullptr) return false;
    heap.push_back(
        {static_cast<uint64_t>(merge->rank) << 32 | static_cast<uint32_t>(left), merge->id});
    return true;
  };
  for (size_t i = 0; i + 1 < s.size(); ++i) {
    candidate(static_cast<int32_t>(i), static_cast<int32_t>(i + 1));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const int32_t position = static_cast<int32_t>(static_cast<uint32_t>(best.key));
    Symbol& left = s[static_cast<size_t>(position)];
    if (left.merged_away || left.next < 0) continue;
    Symbol& right = s[static_cast<size_t>(left.next)];
    const Merge* merge = merges_.Find(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    right.merged_away = true;
    left.next = right.next;
    if (left.next >= 0) s[static_cast<size_t>(left.next)].previous = position;
    if (left.previous >= 0 && candidate(left.previous, position)) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
    if (left.next >= 0 && candidate(position, left.next)) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  std::erase_if(s, [](const Symbol& symbol) { return symbol.merged_away; });
}

Status Bpe::Encode(const std::string& word, Cache* cache, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const int32_t id = TokenId(word); id >= 0) {
      ids->push_back(id);
      return OkStatus();
    }
  }
  const bool cacheable = word.size() <= kMaxCachedWord;
  if (cacheable) {
    if (const auto it = cache->find(word); it != cache->end()) {
      ids->insert(ids->end(), it->second.begin(), it->second.end());
      return OkStatus();
    }
  }
  if (word.size() > INT32_MAX / 4) {
    return Error(StatusCode::kResourceLimit, "a word of {} bytes", word.size());
  }
  std::vector<Symbol> symbols;
  if (const Status status = Characters(word, &symbols); !status.ok()) return status;
  MergeAll(&symbols);
  const size_t before = ids->size();
  for (const Symbol& symbol : symbols)
    ids->push_back(symbol.id);
  if (cacheable && cache->size() < kMaxCachedWords) {
    cache->emplace(word,
                   std::vector<int32_t>(ids->begin() + static_cast<ptrdiff_t>(before), ids->end()));
  }
  return OkStatus();
}

}  // namespace harrow
