// Reports as JSON, text, tables and documentation, from their field lists.
#ifndef HARROW_TOOLS_PRINT_H_
#define HARROW_TOOLS_PRINT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace harrow::tools {

using Json = nlohmann::ordered_json;

template <class T>
inline constexpr bool kIsVector = false;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

struct NullVisitor {
  template <class... Args>
  void operator()(Args&&...) const {}
};
// Has a field list.
template <class T>
concept Record = requires(T& t) {
  t.Visit(NullVisitor());
};
template <class T>
concept RecordList = kIsVector<T> && Record<typename T::value_type>;

// ---- JSON ----

template <class T>
Json ToJson(T& value) {
  if constexpr (Record<T>) {
    Json object = Json::object();
    value.Visit([&](const char* name, auto& field, auto&&...) { object[name] = ToJson(field); });
    return object;
  } else if constexpr (kIsVector<T>) {
    Json array = Json::array();
    for (auto& element : value)
      array.push_back(ToJson(element));
    return array;
  } else if constexpr (kIsOptional<T>) {
    return value ? ToJson(*value) : Json();
  } else {
    return value;
  }
}
// Bytes that are not UTF-8 become U+FFFD.
inline std::string DumpJson(const Json& json) {
  return json.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

// ---- text ----

inline std::string HumanBytes(uint64_t bytes) {
  if (bytes < 10000) return fmt::format("{} B", bytes);
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes) / 1e3;
  int unit = 0;
  for (; value >= 1000 && unit < 3; ++unit)
    value /= 1e3;
  return fmt::format("{:.2f} {}", value, kUnits[unit]);
}

// One value on one line; "-" for none. Sizes (fields called bytes or ..._bytes) get a unit.
template <class T>
std::string ToText(std::string_view name, T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return value;
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "yes" : "no";
  } else if constexpr (std::is_floating_point_v<T>) {
    return fmt::format("{:.5g}", value);
  } else if constexpr (kIsOptional<T>) {
    return value ? ToText(name, *value) : "-";
  } else if constexpr (kIsVector<T>) {
    std::string text;
    for (auto& element : value) {
      if (!text.empty()) text += ", ";
      text += ToText("", element);
    }
    return text.empty() ? "-" : text;
  } else {
    const bool size = name == "bytes" || name.ends_with("_bytes");
    return size ? HumanBytes(static_cast<uint64_t>(value)) : fmt::format("{}", value);
  }
}

using Table = std::vector<std::vector<std::string>>;  // the header, then the rows

template <class T>
Table ToTable(std::vector<T>& rows) {
  Table table(1);
  T blank;
  blank.Visit([&](const char* name, auto&, auto&&...) { table[0].push_back(name); });
  for (T& row : rows) {
    table.emplace_back();
    row.Visit([&](const char* name, auto& field, auto&&...) {
      table.back().push_back(ToText(name, field));
    });
  }
  return table;
}
std::string AlignedTable(const Table& table, std::string_view indent);
std::string MarkdownTable(const Table& table);
// Machine-readable: full precision, no units.
std::string CsvTable(const Json& rows);

// `text` in lines of at most 100 columns, broken at spaces; the second and later ones indented.
std::string WrappedLines(std::string_view text);

// Names joined by commas; sentences on lines of their own.
std::string TextList(const std::vector<std::string>& list, std::string_view indent);

// Every field on a line of its own; a struct as an indented group; a list of structs as a table.
template <class T>
std::string ToReport(T& record, std::string_view indent = "") {
  size_t width = 0;
  record.Visit([&](std::string_view name, auto& field, auto&&...) {
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (!Record<Field> && !RecordList<Field>) {
      width = std::max(width, name.size());
    }
  });
  std::string text;
  const std::string deeper = std::string(indent) + "  ";
  record.Visit([&](const char* name, auto& field, auto&&...) {
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (Record<Field>) {
      text += fmt::format("{}{}\n{}", indent, name, ToReport(field, deeper));
    } else if constexpr (RecordList<Field>) {
      if (!field.empty()) {
        text += fmt::format("{}{}\n{}", indent, name, AlignedTable(ToTable(field), deeper));
      }
    } else if constexpr (std::is_same_v<Field, std::vector<std::string>>) {
      text += fmt::format("{}{:<{}}  {}\n", indent, name, width, TextList(field, deeper));
    } else {
      text += fmt::format("{}{:<{}}  {}\n", indent, name, width, ToText(name, field));
    }
  });
  return text;
}

// ---- documentation ----

template <class T>
std::string TypeName() {
  if constexpr (kIsOptional<T>) {
    return TypeName<typename T::value_type>() + " or null";
  } else if constexpr (kIsVector<T>) {
    return "list of " + TypeName<typename T::value_type>();
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_integral_v<T>) {
    return "int";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "float";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "string";
  } else {
    return "object";
  }
}

// For a cell of a Markdown table.
std::string EscapeCell(std::string text);

// Rows of a Markdown table (field, type, meaning); members of structs as "outer.inner" and
// "list[].inner".
template <class T>
std::string FieldDocs(const std::string& prefix = "") {
  std::string text;
  T record;
  record.Visit([&](const char* name, auto& field, const char* help, auto&&...) {
    using Field = std::remove_reference_t<decltype(field)>;
    text +=
        fmt::format("| `{}{}` | {} | {} |\n", prefix, name, TypeName<Field>(), EscapeCell(help));
    if constexpr (Record<Field>) {
      text += FieldDocs<Field>(prefix + name + ".");
    } else if constexpr (RecordList<Field>) {
      text += FieldDocs<typename Field::value_type>(prefix + name + "[].");
    }
  });
  return text;
}

}  // namespace harrow::tools

#endif  // HARROW_TOOLS_PRINT_H_
