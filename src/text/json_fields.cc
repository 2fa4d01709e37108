#include "text/json_fields.h"

namespace harrow {
namespace {

constexpr int kMaxDepth = 32;
// Openings and commas. Gemma 3's tokenizer.json has about 2 million; the parsed form of the
// costliest JSON within the bound takes some 400 MB.
constexpr size_t kMaxValues = 4'000'000;
// nlohmann's messages quote the token that it read last, however long that is.
constexpr size_t kMaxMessageBytes = 300;

// Refuses what would cost too much: nlohmann's parser would build any depth, and code that walks
// the result would recurse as deeply; an empty array of three characters takes 72 bytes.
Status CheckCost(std::string_view text) {
  int depth = 0;
  size_t values = 0;
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
      if (++depth > kMaxDepth) {
        return Corruption("JSON nested more than {} levels deep at byte {}", kMaxDepth, i);
      }
      ++values;
    } else if (c == ',') {
      ++values;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  if (values > kMaxValues) {
    return Error(StatusCode::kResourceLimit, "JSON of {} values, at most {} are supported", values,
                 kMaxValues);
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
  if (const Status status = CheckCost(text); !status.ok()) return status;
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    const std::string_view what = e.what();
    return Corruption("not JSON: {}{}", what.substr(0, kMaxMessageBytes),
                      what.size() > kMaxMessageBytes ? "..." : "");
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
