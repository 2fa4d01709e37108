#include "text/byte_level.h"

#include <array>
#include <cstdint>

#include "text/unicode.h"

namespace harrow {
namespace {

// The stand-ins end at U+0143: the printable Latin-1 characters stand for themselves, the other 68
// bytes get U+0100 and up in order.
constexpr char32_t kEnd = 0x144;

struct Tables {
  std::array<std::string, 256> chars;
  std::array<int16_t, kEnd> bytes;  // -1: no stand-in
};

const Tables& GetTables() {
  static const Tables* const tables = [] {
    auto* t = new Tables;
    t->bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(c, &t->chars[static_cast<size_t>(byte)]);
      t->bytes[c] = static_cast<int16_t>(byte);
    }
    return t;
  }();
  return *tables;
}

}  // namespace

std::string BytesToByteLevel(std::string_view bytes) {
  const Tables& tables = GetTables();
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes)
    out += tables.chars[static_cast<uint8_t>(byte)];
  return out;
}

bool ByteLevelToBytes(std::string_view text, std::string* bytes) {
  const Tables& tables = GetTables();
  bytes->clear();
  if (FindInvalidUtf8(text) != text.size()) return false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextChar(text, &pos);
    if (c >= kEnd || tables.bytes[c] < 0) return false;
    *bytes += static_cast<char>(tables.bytes[c]);
  }
  return true;
}

}  // namespace harrow
