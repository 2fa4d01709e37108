#include "print.h"

#include <algorithm>

namespace harrow::tools {
namespace {

bool LooksNumeric(const std::string& cell) {
  return cell == "-" || (!cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) ||
                                           (cell[0] == '-' && cell.size() > 1)));
}

std::string CsvCell(const Json& value) {
  std::string text;
  if (value.is_null()) return text;
  if (value.is_array()) {
    for (const Json& element : value) {
      if (!text.empty()) text += ' ';
      text += element.is_string() ? element.get<std::string>() : element.dump();
    }
  } else {
    text = value.is_string() ? value.get<std::string>() : value.dump();
  }
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text)
    quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string WrappedLines(std::string_view text) {
  constexpr size_t kColumns = 100;
  std::string lines;
  size_t column = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (column > 0 && column + 1 + end > kColumns) {
      lines += "\n    ";
      column = 4;
    } else if (column > 0) {
      lines += " ";
      ++column;
    }
    lines += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines + "\n";
}

std::string TextList(const std::vector<std::string>& list, std::string_view indent) {
  if (list.empty()) return "-";
  const bool sentences = std::any_of(list.begin(), list.end(), [](const std::string& text) {
    return std::count(text.begin(), text.end(), ' ') > 2;
  });
  if (!sentences) return fmt::format("{}", fmt::join(list, ", "));
  std::string text;
  for (const std::string& sentence : list)
    text += fmt::format("\n{}{}", indent, sentence);
  return text;
}

std::string AlignedTable(const Table& table, std::string_view indent) {
  const size_t columns = table[0].size();
  std::vector<size_t> width(columns, 0);
  std::vector<bool> numeric(columns, table.size() > 1);
  for (size_t r = 0; r < table.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      width[c] = std::max(width[c], table[r][c].size());
      if (r > 0 && !LooksNumeric(table[r][c])) numeric[c] = false;
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : table) {
    std::string line(indent);
    for (size_t c = 0; c < columns; ++c) {
      if (c > 0) line += "  ";
      line += numeric[c] ? fmt::format("{:>{}}", row[c], width[c])
                         : fmt::format("{:<{}}", row[c], width[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string MarkdownTable(const Table& table) {
  std::string text;
  for (size_t r = 0; r < table.size(); ++r) {
    text += "| " + fmt::format("{}", fmt::join(table[r], " | ")) + " |\n";
    if (r > 0) continue;
    for (size_t c = 0; c < table[0].size(); ++c)
      text += "|---";
    text += "|\n";
  }
  return text;
}

std::string CsvTable(const Json& rows) {
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<std::string> header;
    std::vector<std::string> line;
    for (const auto& [key, value] : rows[r].items()) {
      header.push_back(key);
      line.push_back(CsvCell(value));
    }
    if (r == 0) text += fmt::format("{}\n", fmt::join(header, ","));
    text += fmt::format("{}\n", fmt::join(line, ","));
  }
  return text;
}

std::string EscapeCell(std::string text) {
  for (size_t i = 0; (i = text.find('|', i)) != std::string::npos; i += 2)
    text.insert(i, 1, '\\');
  return text;
}

}  // namespace harrow::tools
