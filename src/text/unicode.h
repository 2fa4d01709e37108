// UTF-8 and the character properties that tokenizers split on. Properties and normal forms are
// those of Debian's utf8proc (Unicode 15).
#ifndef HARROW_TEXT_UNICODE_H_
#define HARROW_TEXT_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace harrow {

// Length in bytes of the well-formed character at `text[pos]`: 1 to 4; 0 when the bytes there are
// not one (Unicode 15, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
size_t Utf8CharLength(std::string_view text, size_t pos);

// Position of the first byte that is not part of a well-formed character; text.size() if none.
size_t FindInvalidUtf8(std::string_view text);

// The character at `text[*pos]`, and moves `*pos` past it. Needs well-formed text.
char32_t NextChar(std::string_view text, size_t* pos);
// Start of the character that ends before `pos`. Needs well-formed text and pos > 0.
size_t PreviousCharStart(std::string_view text, size_t pos);

void AppendUtf8(char32_t c, std::string* out);

// Moves from the front of `*bytes` to the end of `*out` what can be decided already: whole
// characters as they are, each maximal ill-formed part as U+FFFD (Unicode 15, 3.9; Python and Rust
// do the same). Bytes at the end that more bytes could still complete stay in `*bytes`.
void TakeCharacters(std::string* bytes, std::string* out);

bool IsWhitespace(char32_t c);   // property White_Space
bool IsNumber(char32_t c);       // Nd, Nl, No
bool IsWordChar(char32_t c);     // \w of UTS 18: Alphabetic, M, Nd, Pc, Join_Control
bool IsPunctuation(char32_t c);  // ASCII punctuation and symbols, and category P

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
// Needs well-formed text. False when memory or the text's size does not allow it.
bool NormalizeUnicode(NormalForm form, std::string* text);
// Full lower-case mapping of each character by itself (no final-sigma rule). Needs well-formed
// text.
std::string LowercaseUnicode(std::string_view text);

}  // namespace harrow

#endif  // HARROW_TEXT_UNICODE_H_
