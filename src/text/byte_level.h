// GPT-2's printable stand-ins for the 256 bytes: "Ġ" is the space (openai/gpt-2, encoder.py).
#ifndef HARROW_TEXT_BYTE_LEVEL_H_
#define HARROW_TEXT_BYTE_LEVEL_H_

#include <string>
#include <string_view>

namespace harrow {

// Every byte of `bytes` as its character.
std::string BytesToByteLevel(std::string_view bytes);
// The bytes that `text` stands for; false when it is not well-formed UTF-8 or one of its characters
// is no stand-in.
bool ByteLevelToBytes(std::string_view text, std::string* bytes);

}  // namespace harrow

#endif  // HARROW_TEXT_BYTE_LEVEL_H_
