// The edge to nlohmann-json for untrusted text: exceptions and unbounded nesting stop here.
#ifndef HARROW_CHECKPOINT_JSON_UTIL_H_
#define HARROW_CHECKPOINT_JSON_UTIL_H_

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/status.h"

namespace harrow {

// Parses one JSON object (strict JSON, valid UTF-8, at most 64 levels deep, at most 2^20 values and
// keys, which bounds its memory); duplicate keys keep the last value, as Python does. Errors name
// `where` and the position.
Result<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view where);

// Text of `value`, indented by two spaces with a newline at the end; fails on strings that are not
// UTF-8.
Result<std::string> DumpJson(const nlohmann::json& value);

// The reason in a parse error of nlohmann-json, without its prefix and cut to one line's length.
std::string JsonErrorText(const nlohmann::json::exception& error);

// Readers of one key. Absent keys leave `*out` alone, except with Require, which reports them. A
// key with no value (null) counts as absent, as in transformers. Errors are Corruption, "key: what
// was found, what was expected".
const nlohmann::json* JsonGet(const nlohmann::json& object, std::string_view key);
Status ReadJsonInt(const nlohmann::json& object, std::string_view key, int64_t min, int64_t max,
                   int64_t* out);
Status RequireJsonInt(const nlohmann::json& object, std::string_view key, int64_t min, int64_t max,
                      int64_t* out);
// In (0, max].
Status ReadJsonPositive(const nlohmann::json& object, std::string_view key, double max,
                        double* out);
Status ReadJsonBool(const nlohmann::json& object, std::string_view key, bool* out);
Status ReadJsonString(const nlohmann::json& object, std::string_view key, std::string* out);
// A value already found under `key`.
Status JsonToInt(const nlohmann::json& value, std::string_view key, int64_t min, int64_t max,
                 int64_t* out);
// What an error quotes of a value: short, whatever the file holds.
std::string JsonQuote(const nlohmann::json& value);
// Whether UTF-8 text has characters that a terminal would obey: C0, DEL or C1.
bool HasControlCharacters(std::string_view text);
// A tensor's name for an error: as it is, or quoted and cut when it is long or has control
// characters (which a terminal would obey).
std::string PrintableName(const std::string& name);

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_JSON_UTIL_H_
