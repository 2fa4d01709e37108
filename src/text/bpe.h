// The "BPE" model of tokenizer.json (Sennrich et al. 2016, arXiv:1508.07909; the rules for unknown
// characters, bytes and ties are those of Hugging Face tokenizers, models/bpe).
#ifndef HARROW_TEXT_BPE_H_
#define HARROW_TEXT_BPE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/json_fields.h"

namespace harrow {

// Immutable; safe to share between threads.
class Bpe {
 public:
  // Ids may leave holes, but not many.
  static Result<Bpe> Parse(const Json& spec);

  // Words already encoded in this call; one per thread.
  using Cache = std::unordered_map<std::string, std::vector<int32_t>>;

  // Appends the ids of `word`. InvalidArgument for a character that has no token where the model
  // has neither bytes nor an unknown token to fall back to.
  Status Encode(const std::string& word, Cache* cache, std::vector<int32_t>* ids) const;

  // -1 when there is no such token.
  int32_t TokenId(std::string_view token) const;
  // Number of tokens.
  size_t size() const { return vocab_.size(); }
  // By id; empty for a hole.
  const std::vector<std::string>& tokens() const { return tokens_; }
  bool byte_fallback() const { return byte_fallback_; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;  // of the merged token; -1 in an empty slot
  };
  // A flat hash table of pairs of ids: the merge loop asks it for every neighbouring pair.
  class MergeTable {
   public:
    void Reserve(size_t count);  // before Set
    void Set(int32_t left, int32_t right, Merge merge);
    const Merge* Find(int32_t left, int32_t right) const;

   private:
    size_t Slot(uint64_t key) const;
    std::vector<uint64_t> keys_;
    std::vector<Merge> merges_;
    int shift_ = 64;
  };
  struct Symbol {
    int32_t id;
    int32_t previous;  // index; -1 at the ends
    int32_t next;
    bool merged_away;
  };
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  Status ParseVocab(const Json& spec);
  Status ParseMerges(const Json& spec);
  // The characters of `word` as symbols.
  Status Characters(std::string_view word, std::vector<Symbol>* symbols) const;
  void MergeAll(std::vector<Symbol>* symbols) const;

  std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>> vocab_;
  std::vector<std::string> tokens_;
  MergeTable merges_;
  int32_t byte_ids_[256];  // of "<0x00>" and so on; -1 when missing
  std::string unk_token_;  // empty: none
  int32_t unk_id_ = -1;
  std::string continuing_subword_prefix_;
  std::string end_of_word_suffix_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace harrow

#endif  // HARROW_TEXT_BPE_H_
