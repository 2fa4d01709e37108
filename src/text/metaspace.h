// The fields that the Metaspace pre-tokenizer and the Metaspace decoder of tokenizer.json share.
#ifndef HARROW_TEXT_METASPACE_H_
#define HARROW_TEXT_METASPACE_H_

#include <string>

#include "text/json_fields.h"

namespace harrow {

enum class PrependScheme { kFirst, kNever, kAlways };

struct MetaspaceOptions {
  std::string replacement;  // one character, usually U+2581
  PrependScheme prepend_scheme;
  bool split;
};
Result<MetaspaceOptions> ParseMetaspace(const Json& spec);

}  // namespace harrow

#endif  // HARROW_TEXT_METASPACE_H_
