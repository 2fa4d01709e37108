// tokenizer.model. What parses must also encode and decode, inside libsentencepiece too.
#include <algorithm>
#include <string>
#include <string_view>

#include "base/check.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view model(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = harrow::ParseSentencePiece(model, "", "fuzz");
  if (!tokenizer.ok()) return 0;
  // Every character of ASCII and a few more, and what the model itself knows.
  std::string text;
  for (char c = 0; c < 0x7F; ++c)
    text += c;
  text += "e\xCC\x81 \xEF\xAC\x81 \xE3\x80\x80 \xF0\x9F\x99\x82 \xE2\x96\x81 ";
  for (int32_t id = 0; id < std::min((*tokenizer)->vocab_size(), 100); ++id) {
    text += (*tokenizer)->TokenBytes(id);
  }
  const auto ids = (*tokenizer)->Encode(text, harrow::SpecialTokens::kModelDefault);
  if (!ids.ok()) return 0;
  HARROW_CHECK((*tokenizer)->Decode(*ids).ok());
  harrow::StreamingDetokenizer stream(*tokenizer);
  for (const int32_t id : *ids)
    stream.Push(id);
  stream.Flush();
  return 0;
}
