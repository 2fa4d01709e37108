// Records with a field list (harrow/fields.h) to JSON, and back from text that nobody vouches for:
// every field that is not optional must be there, of its type and within its limits, and texts must
// be free of control characters, as they go to terminals. Internal to advise/.
#ifndef HARROW_ADVISE_PROFILE_JSON_H_
#define HARROW_ADVISE_PROFILE_JSON_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/status.h"
#include "checkpoint/json_util.h"
#include "harrow/fields.h"

namespace harrow {
namespace internal {

template <class T>
inline constexpr bool kIsList = false;
template <class T>
inline constexpr bool kIsList<std::vector<T>> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsRecord =
    std::is_class_v<T> && !kIsList<T> && !kIsOptional<T> && !std::is_same_v<T, std::string>;

}  // namespace internal

template <class T>
nlohmann::json ToProfileJson(T& value) {
  if constexpr (internal::kIsRecord<T>) {
    nlohmann::json object = nlohmann::json::object();
    value.Visit(
        [&](const char* name, auto& field, auto&&...) { object[name] = ToProfileJson(field); });
    return object;
  } else if constexpr (internal::kIsList<T>) {
    nlohmann::json array = nlohmann::json::array();
    for (auto& element : value)
      array.push_back(ToProfileJson(element));
    return array;
  } else if constexpr (internal::kIsOptional<T>) {
    return value ? ToProfileJson(*value) : nlohmann::json();
  } else {
    return value;
  }
}

// The value of `name` (for errors) into `*out`; numbers must lie within `limits`.
template <class T>
Status FromProfileJson(const nlohmann::json& json, const std::string& name, const Limits& limits,
                       T* out) {
  constexpr size_t kMostText = 256;  // characters
  if constexpr (internal::kIsRecord<T>) {
    if (!json.is_object())
      return Corruption("{}: expected an object, found {}", name, JsonQuote(json));
    Status status;
    const auto read = [&](const char* key, auto& field, const char*, Limits within = Limits()) {
      if (!status.ok()) return;
      const nlohmann::json* value = JsonGet(json, key);
      const std::string path = name.empty() ? std::string(key) : name + "." + key;
      constexpr bool kOptional = internal::kIsOptional<std::remove_reference_t<decltype(field)>>;
      if (value != nullptr) {
        status = FromProfileJson(*value, path, within, &field);
      } else if (!kOptional) {
        status = Corruption("{} is missing", path);
      }
    };
    out->Visit(read);
    return status;
  } else if constexpr (internal::kIsList<T>) {
    if (!json.is_array()) return Corruption("{}: expected a list, found {}", name, JsonQuote(json));
    out->clear();
    for (const nlohmann::json& element : json) {
      const std::string path = fmt::format("{}[{}]", name, out->size());
      HARROW_RETURN_IF_ERROR(FromProfileJson(element, path, limits, &out->emplace_back()));
    }
    return OkStatus();
  } else if constexpr (internal::kIsOptional<T>) {
    out->reset();
    if (json.is_null()) return OkStatus();
    return FromProfileJson(json, name, limits, &out->emplace());
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!json.is_string() || json.get_ref<const std::string&>().size() > kMostText) {
      return Corruption("{}: expected a text of at most {} characters, found {}", name, kMostText,
                        JsonQuote(json));
    }
    *out = json.get<std::string>();
    if (HasControlCharacters(*out))
      return Corruption("{}: control characters in {}", name, JsonQuote(json));
    return OkStatus();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean())
      return Corruption("{}: expected true or false, found {}", name, JsonQuote(json));
    *out = json.get<bool>();
    return OkStatus();
  } else if constexpr (std::is_floating_point_v<T>) {
    const double number = json.is_number() ? json.get<double>() : std::nan("");
    if (!(number >= limits.min && number <= limits.max)) {
      return Corruption("{}: expected a number in [{}, {}], found {}", name, limits.min, limits.max,
                        JsonQuote(json));
    }
    *out = number;
    return OkStatus();
  } else {
    int64_t number = 0;
    HARROW_RETURN_IF_ERROR(JsonToInt(json, name, static_cast<int64_t>(limits.min),
                                     static_cast<int64_t>(limits.max), &number));
    *out = static_cast<T>(number);
    return OkStatus();
  }
}

}  // namespace harrow

#endif  // HARROW_ADVISE_PROFILE_JSON_H_
