#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

namespace harrow {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct Utf8Prefix {
  size_t length;  // bytes from the start that belong together
  enum { kWhole, kIncomplete, kIllFormed } kind;
};

// Length of the character that starts with `lead`, and the range of its second byte; 0 when no
// character starts so.
size_t LeadByte(uint8_t lead, uint8_t* low, uint8_t* high) {
  *low = 0x80;
  *high = 0xBF;
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) {
    if (lead == 0xE0) *low = 0xA0;
    if (lead == 0xED) *high = 0x9F;
    return 3;
  }
  if (lead < 0xF5) {
    if (lead == 0xF0) *low = 0x90;
    if (lead == 0xF4) *high = 0x8F;
    return 4;
  }
  return 0;
}

// What stands at `text[pos]`, pos < text.size().
Utf8Prefix Classify(std::string_view text, size_t pos) {
  uint8_t low, high;
  const size_t length = LeadByte(static_cast<uint8_t>(text[pos]), &low, &high);
  if (length == 0) return {1, Utf8Prefix::kIllFormed};
  for (size_t i = 1; i < length; ++i) {
    if (pos + i == text.size()) return {i, Utf8Prefix::kIncomplete};
    const uint8_t byte = static_cast<uint8_t>(text[pos + i]);
    if (byte < low || byte > high) return {i, Utf8Prefix::kIllFormed};
    low = 0x80;
    high = 0xBF;
  }
  return {length, Utf8Prefix::kWhole};
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

}  // namespace

size_t Utf8CharLength(std::string_view text, size_t pos) {
  const Utf8Prefix prefix = Classify(text, pos);
  return prefix.kind == Utf8Prefix::kWhole ? prefix.length : 0;
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const size_t length = Utf8CharLength(text, pos);
    if (length == 0) return pos;
    pos += length;
  }
  return pos;
}

char32_t NextChar(std::string_view text, size_t* pos) {
  const uint8_t lead = static_cast<uint8_t>(text[*pos]);
  ++*pos;
  if (lead < 0x80) return lead;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t c = lead & (0x3F >> more);
  for (int i = 0; i < more; ++i)
    c = c << 6 | (static_cast<uint8_t>(text[(*pos)++]) & 0x3F);
  return c;
}

size_t PreviousCharStart(std::string_view text, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

void AppendUtf8(char32_t c, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), static_cast<utf8proc_uint8_t*>(bytes));
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

void TakeCharacters(std::string* bytes, std::string* out) {
  size_t pos = 0;
  while (pos < bytes->size()) {
    const Utf8Prefix prefix = Classify(*bytes, pos);
    if (prefix.kind == Utf8Prefix::kIncomplete) break;
    if (prefix.kind == Utf8Prefix::kWhole) {
      out->append(*bytes, pos, prefix.length);
    } else {
      out->append(kReplacementCharacter);
    }
    pos += prefix.length;
  }
  bytes->erase(0, pos);
}

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsWordChar(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    // The letters of category So that PropList.txt lists as Other_Alphabetic.
    case UTF8PROC_CATEGORY_SO:
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    default: return c == 0x200C || c == 0x200D;
  }
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') && (c | 0x20) - 'a' >= 26u;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool NormalizeUnicode(NormalForm form, std::string* text) {
  if (IsAscii(*text)) return true;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const int options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                      (compatible ? UTF8PROC_COMPAT : 0);
  utf8proc_uint8_t* normal = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text->data()),
                   static_cast<utf8proc_ssize_t>(text->size()), &normal,
                   static_cast<utf8proc_option_t>(options));
  if (length < 0) return false;
  text->assign(reinterpret_cast<const char*>(normal), static_cast<size_t>(length));
  std::free(normal);
  return true;
}

std::string LowercaseUnicode(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextChar(text, &pos);
    AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), &lower);
    // The one lower case that is longer than one character (SpecialCasing.txt); utf8proc has only
    // the simple mapping, "i".
    if (c == 0x130) AppendUtf8(0x307, &lower);
  }
  return lower;
}

}  // namespace harrow
