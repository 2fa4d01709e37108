#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace harrow {
namespace {

// Real ones have some tens of bytes. The bound keeps the search, size x longest, harmless.
constexpr size_t kMaxPatternBytes = 1024;
// Gemma has the most added tokens, 6 thousand. The bound keeps the trie below 300 MB.
constexpr size_t kMaxNodes = size_t{1} << 22;

template <class Children>
auto FindChild(Children& children, uint8_t byte) {
  return std::find_if(children.begin(), children.end(),
                      [byte](const auto& child) { return child.first == byte; });
}

}  // namespace

Status AddedTokenMatcher::Add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return OkStatus();
  if (pattern.size() > kMaxPatternBytes) {
    return Unsupported("added token {} has {} bytes, at most {} are supported", token.id,
                       pattern.size(), kMaxPatternBytes);
  }
  uint32_t node = 0;
  for (const char c : pattern) {
    const uint8_t byte = static_cast<uint8_t>(c);
    const auto child = FindChild(nodes_[node].children, byte);
    if (child != nodes_[node].children.end()) {
      node = child->second;
    } else {
      if (nodes_.size() >= kMaxNodes) {
        return Error(StatusCode::kResourceLimit,
                     "the added tokens need a trie of more than {} nodes", kMaxNodes);
      }
      const uint32_t next = static_cast<uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, next);
      nodes_.emplace_back();
      node = next;
    }
  }
  if (nodes_[node].token >= 0) {
    return Corruption("added tokens {} and {} are both '{}'",
                      tokens_[static_cast<size_t>(nodes_[node].token)].id, token.id, pattern);
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  starts_[static_cast<uint8_t>(pattern[0])] = true;
  tokens_.push_back(token);
  return OkStatus();
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text, size_t pos, size_t* end) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (size_t i = pos; i < text.size(); ++i) {
    const auto& children = nodes_[node].children;
    const auto child = FindChild(children, static_cast<uint8_t>(text[i]));
    if (child == children.end()) break;
    node = child->second;
    if (nodes_[node].token >= 0) {
      longest = nodes_[node].token;
      *end = i + 1;
    }
  }
  return longest;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::Split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    size_t end = 0;
    int32_t index = -1;
    if (starts_[static_cast<uint8_t>(text[pos])]) index = LongestAt(text, pos, &end);
    if (index < 0) {
      ++pos;
      continue;
    }
    // The search goes on behind the token's own characters, whatever becomes of the match.
    size_t begin = pos;
    pos = end;
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    if (token.single_word) {
      const auto word_at = [text](size_t p) { return IsWordChar(NextChar(text, &p)); };
      if (begin > 0 && word_at(PreviousCharStart(text, begin))) continue;
      if (end < text.size() && word_at(end)) continue;
    }
    if (token.lstrip) {
      while (begin > done) {
        const size_t before = PreviousCharStart(text, begin);
        size_t p = before;
        if (!IsWhitespace(NextChar(text, &p))) break;
        begin = before;
      }
    }
    if (token.rstrip) {
      while (end < text.size()) {
        size_t p = end;
        if (!IsWhitespace(NextChar(text, &p))) break;
        end = p;
      }
    }
    if (begin > done) parts.push_back({{done, begin}, -1});
    parts.push_back({{begin, end}, token.id});
    done = end;
    pos = std::max(pos, done);
  }
  if (done < text.size()) parts.push_back({{done, text.size()}, -1});
  return parts;
}

}  // namespace harrow
