#include "text/json_fields.h"

namespace harrow {
namespace {

constexpr int kMaxDepth = 32;

// Depth of the nesting, and where it first exceeds kMaxDepth: nlohmann's parser would build any
// depth, and code that walks the result would recurse as deeply.
std::optional<size_t> FindTooDeep(std::string_view text) {
  int depth = 0;
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
      if (++depth > kMaxDepth) return i;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return std::nullopt;
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
  if (const std::optional<size_t> deep = FindTooDeep(text)) {
    return Corruption("JSON nested more than {} levels deep at byte {}", kMaxDepth, *deep);
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return Corruption("not JSON: {}", e.what());
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
