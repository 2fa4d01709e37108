// Typed access to the members of a JSON object, with errors that name the member.
#ifndef HARROW_TEXT_JSON_FIELDS_H_
#define HARROW_TEXT_JSON_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include <nlohmann/json.hpp>

#include "base/status.h"

namespace harrow {

using Json = nlohmann::json;

// Parses untrusted JSON. Corruption with the position for text that is not JSON or is nested more
// deeply than any tokenizer file; ResourceLimit for more values than any has.
Result<Json> ParseJson(std::string_view text);

// Member `key` of `object` as a bool, int64_t or std::string. A member that is missing or null is
// `fallback`, or an error when there is none.
template <class T>
Result<T> Field(const Json& object, const char* key, std::optional<T> fallback = std::nullopt) {
  static_assert(std::is_same_v<T, bool> || std::is_same_v<T, int64_t> ||
                std::is_same_v<T, std::string>);
  if (!object.is_object()) return Corruption("an object was expected, got {}", object.type_name());
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    if (fallback.has_value()) return *std::move(fallback);
    return Corruption("'{}' is missing", key);
  }
  const char* expected = nullptr;
  if constexpr (std::is_same_v<T, bool>) {
    if (!it->is_boolean()) expected = "true or false";
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!it->is_string()) expected = "a string";
  } else {
    if (!it->is_number_integer() ||
        (it->is_number_unsigned() && it->template get<uint64_t>() > INT64_MAX)) {
      expected = "an integer";
    }
  }
  if (expected != nullptr) {
    return Corruption("'{}' must be {}, got {}", key, expected, it->type_name());
  }
  return it->template get<T>();
}

// Member `key` of `object`: an object or array; null when it is missing or null.
Result<const Json*> ChildArray(const Json& object, const char* key);
Result<const Json*> ChildObject(const Json& object, const char* key);

}  // namespace harrow

#endif  // HARROW_TEXT_JSON_FIELDS_H_
