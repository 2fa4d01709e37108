#include "checkpoint/json_util.h"

#include <algorithm>

namespace harrow {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
// Values and keys: a parsed one takes up to some 100 bytes, however short its text. The largest
// files of real models have a few 100,000.
constexpr int64_t kMaxElements = 1 << 20;
constexpr size_t kMaxReason = 240;  // characters; the parser quotes the last token, however long

}  // namespace

std::string JsonErrorText(const nlohmann::json::exception& error) {
  std::string_view text = error.what();
  if (const size_t prefix = text.find("] "); prefix != std::string_view::npos) {
    text.remove_prefix(prefix + 2);
  }
  if (text.size() <= kMaxReason) return std::string(text);
  size_t end = kMaxReason;  // not inside a UTF-8 sequence
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u)
    --end;
  return std::string(text.substr(0, end)) + "...";
}

Result<json> ParseJsonObject(std::string_view text, std::string_view where) {
  if (text.find('\0') != std::string_view::npos) {  // which the parser takes for the end
    return Corruption("{}: not valid JSON: it has a NUL byte", where);
  }
  bool too_deep = false;
  int64_t elements = 0;
  // Dropping what lies too deep, or is too much, as it is read keeps it from becoming a tree first.
  const auto keep = [&](int depth, json::parse_event_t event, json&) {
    if (depth > kMaxDepth) too_deep = true;
    if (event != json::parse_event_t::object_end && event != json::parse_event_t::array_end)
      ++elements;
    return depth <= kMaxDepth && elements <= kMaxElements;
  };
  try {
    json value = json::parse(text, keep);
    if (too_deep) return Corruption("{}: JSON nested deeper than {} levels", where, kMaxDepth);
    if (elements > kMaxElements) {
      return Error(StatusCode::kResourceLimit,
                   "{}: JSON of {} values and keys, at most {} expected", where, elements,
                   kMaxElements);
    }
    if (!value.is_object()) {
      return Corruption("{}: holds a JSON {}, expected an object", where, value.type_name());
    }
    return value;
  } catch (const json::exception& error) {
    return Corruption("{}: not valid JSON: {}", where, JsonErrorText(error));
  }
}

Result<std::string> DumpJson(const nlohmann::json& value) {
  try {
    return value.dump(2) + "\n";
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("cannot write JSON: {}", JsonErrorText(error));
  }
}

const json* JsonGet(const json& object, std::string_view key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string JsonQuote(const json& value) {
  if (value.is_structured()) return std::string("a JSON ") + value.type_name();
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);  // so that cutting is safe
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  return text;
}

bool HasControlCharacters(std::string_view text) {
  unsigned char before = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return true;
    if (before == 0xC2 && byte >= 0x80 && byte < 0xA0) return true;  // U+0080 .. U+009F
    before = byte;
  }
  return false;
}

std::string PrintableName(const std::string& name) {
  const bool plain = name.size() <= kMaxReason && !HasControlCharacters(name);
  return plain ? name : JsonQuote(name);
}

Status JsonToInt(const json& value, std::string_view key, int64_t min, int64_t max, int64_t* out) {
  const bool fits =
      value.is_number_integer() &&
      !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  const int64_t got = fits ? value.get<int64_t>() : 0;
  if (!fits || got < min || got > max) {
    return Corruption("{}: {}, expected an integer in [{}, {}]", key, JsonQuote(value), min, max);
  }
  *out = got;
  return OkStatus();
}

Status ReadJsonInt(const json& object, std::string_view key, int64_t min, int64_t max,
                   int64_t* out) {
  const json* value = JsonGet(object, key);
  return value == nullptr ? OkStatus() : JsonToInt(*value, key, min, max, out);
}

Status RequireJsonInt(const json& object, std::string_view key, int64_t min, int64_t max,
                      int64_t* out) {
  const json* value = JsonGet(object, key);
  return value == nullptr ? Corruption("{} is missing", key)
                          : JsonToInt(*value, key, min, max, out);
}

Status ReadJsonPositive(const json& object, std::string_view key, double max, double* out) {
  const json* value = JsonGet(object, key);
  if (value == nullptr) return OkStatus();
  const double got = value->is_number() ? value->get<double>() : -1;
  if (!(got > 0 && got <= max)) {
    return Corruption("{}: {}, expected a number in (0, {:g}]", key, JsonQuote(*value), max);
  }
  *out = got;
  return OkStatus();
}

Status ReadJsonBool(const json& object, std::string_view key, bool* out) {
  const json* value = JsonGet(object, key);
  if (value == nullptr) return OkStatus();
  if (!value->is_boolean()) {
    return Corruption("{}: {}, expected true or false", key, JsonQuote(*value));
  }
  *out = value->get<bool>();
  return OkStatus();
}

Status ReadJsonString(const json& object, std::string_view key, std::string* out) {
  const json* value = JsonGet(object, key);
  if (value == nullptr) return OkStatus();
  if (!value->is_string()) return Corruption("{}: {}, expected a string", key, JsonQuote(*value));
  *out = value->get<std::string>();
  return OkStatus();
}

}  // namespace harrow
