// tokenizer.json and tokenizer_config.json. The input is JSON, optionally followed by a NUL and the
// config, and by another NUL and a text to encode.
#include <string_view>

#include "base/check.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::string_view parts[3] = {"", "", "Hello, w\xC3\xB6rld! 123 \xE2\x96\x81 <s>  \n"};
  for (std::string_view& part : parts) {
    const size_t end = rest.find('\0');
    part = rest.substr(0, end);
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  const auto tokenizer = harrow::ParseTokenizerJson(parts[0], parts[1], "fuzz");
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode(parts[2], harrow::SpecialTokens::kModelDefault);
  if (!ids.ok()) return 0;
  // What encoding gives, decoding takes, unless the decoder lets the text grow without measure.
  const auto text = (*tokenizer)->Decode(*ids);
  HARROW_CHECK(text.ok() || text.status().code() == harrow::StatusCode::kResourceLimit);
  harrow::StreamingDetokenizer stream(*tokenizer);
  for (const int32_t id : *ids)
    stream.Push(id);
  stream.Flush();
  return 0;
}
