#include "text/json_fields.h"

namespace harrow {
namespace {

constexpr int kMaxDepth = 32;
// Values and keys: a parsed one takes up to some 100 bytes, however short its text. Files with
// 260,000 tokens and twice as many merges have 2 million.
constexpr int64_t kMaxElements = 4 << 20;
constexpr size_t kMaxReason = 240;  // bytes; the parser quotes the last token, however long

// The parser's own words, cut to one line's length between UTF-8 sequences.
std::string Reason(std::string_view text) {
  if (text.size() <= kMaxReason) return std::string(text);
  size_t end = kMaxReason;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u)
    --end;
  return std::string(text.substr(0, end)) + "...";
}

// Limits that the parser lacks: it would build any depth, which code that walks the result would
// follow, and any number of tiny values. Counted before parsing: every value but the first comes
// after one of "[{,:".
Status CheckLimits(std::string_view text) {
  int depth = 0;
  int64_t elements = 1;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++elements;
      if (++depth > kMaxDepth) {
        return Corruption("JSON nested more than {} levels deep at byte {}", kMaxDepth, i);
      }
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' || c == ':') {
      ++elements;
    }
  }
  if (elements > kMaxElements) {
    return Error(StatusCode::kResourceLimit, "JSON of {} values and keys, at most {} expected",
                 elements, kMaxElements);
  }
  return OkStatus();
}

Result<const Json*> Child(const Json& object, const char* key, Json::value_t type,
                          const char* expected) {
  if (!object.is_object()) return Corruption("an object was expected, got {}", object.type_name());
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return static_cast<const Json*>(nullptr);
  if (it->type() != type) {
    return Corruption("'{}' must be {}, got {}", key, expected, it->type_name());
  }
  return &*it;
}

}  // namespace

Result<Json> ParseJson(std::string_view text) {
  HARROW_RETURN_IF_ERROR(CheckLimits(text));
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return Corruption("not JSON: {}", Reason(e.what()));
  } catch (const std::bad_alloc&) {
    return Error(StatusCode::kResourceLimit, "JSON of {} bytes does not fit in memory",
                 text.size());
  }
}

Result<const Json*> ChildArray(const Json& object, const char* key) {
  return Child(object, key, Json::value_t::array, "an array");
}

Result<const Json*> ChildObject(const Json& object, const char* key) {
  return Child(object, key, Json::value_t::object, "an object");
}

}  // namespace harrow
