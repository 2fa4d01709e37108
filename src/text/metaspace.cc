#include "text/metaspace.h"

#include "text/unicode.h"

namespace harrow {

Result<MetaspaceOptions> ParseMetaspace(const Json& spec) {
  Result<std::string> replacement = Field<std::string>(spec, "replacement");
  if (!replacement.ok()) return replacement.status();
  if (replacement->empty() || Utf8CharLength(*replacement, 0) != replacement->size()) {
    return Corruption("'replacement' must be one character, got '{}'", *replacement);
  }
  const Result<std::string> scheme = Field<std::string>(spec, "prepend_scheme", "always");
  const Result<bool> split = Field<bool>(spec, "split", true);
  // The name of the option before prepend_scheme.
  const Result<bool> add_prefix_space = Field<bool>(spec, "add_prefix_space", true);
  for (const Status& status : {scheme.status(), split.status(), add_prefix_space.status()}) {
    if (!status.ok()) return status;
  }
  MetaspaceOptions options{*std::move(replacement), PrependScheme::kAlways, *split};
  if (*scheme == "first") {
    options.prepend_scheme = PrependScheme::kFirst;
  } else if (*scheme == "never") {
    options.prepend_scheme = PrependScheme::kNever;
  } else if (*scheme != "always") {
    return Corruption("unknown 'prepend_scheme' '{}'", *scheme);
  }
  if (!*add_prefix_space && options.prepend_scheme != PrependScheme::kNever) {
    return Corruption("'add_prefix_space' false contradicts 'prepend_scheme' '{}'", *scheme);
  }
  return options;
}

}  // namespace harrow
