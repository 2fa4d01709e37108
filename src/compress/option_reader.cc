#include "compress/option_reader.h"

#include <charconv>
#include <cmath>

#include "harrow/nearest.h"

namespace harrow {
namespace {

// What a node is, for messages: `the string "half"`, `a list`.
std::string Describe(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map: return "a mapping";
    case YAML::NodeType::Sequence: return "a list";
    case YAML::NodeType::Null: return "nothing";
    case YAML::NodeType::Scalar: return fmt::format("\"{}\"", node.Scalar().substr(0, 60));
    default: return "nothing";
  }
}

int LineOf(const YAML::Node& node) {
  return node.Mark().line + 1;
}

}  // namespace

OptionReader::OptionReader(const YAML::Node& node, std::string where, std::string path)
    : node_(node), where_(std::move(where)), path_(std::move(path)) {
  if (!node_.IsMap()) {
    status_ = InvalidArgument("{}: expected a mapping of keys to values, found {}", Location(),
                              Describe(node_));
    return;
  }
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) {
      status_ = InvalidArgument("{}:{}: a key must be a word, found {}", where_,
                                LineOf(entry.first), Describe(entry.first));
      return;
    }
    if (!seen.insert(entry.first.Scalar()).second) {
      status_ = InvalidArgument("{}:{}: {}: given twice", where_, LineOf(entry.first),
                                entry.first.Scalar());
      return;
    }
  }
}

std::string OptionReader::Location() const {
  std::string text = fmt::format("{}:{}", where_, LineOf(node_));
  return path_.empty() ? text : text + ": " + path_;
}

std::string OptionReader::Where(std::string_view key) const {
  if (node_.IsMap()) {
    for (const auto& entry : node_) {
      if (entry.first.IsScalar() && entry.first.Scalar() == key) {
        return fmt::format("{}:{}: {}{}{}", where_, LineOf(entry.first), path_,
                           path_.empty() ? "" : ".", key);
      }
    }
  }
  return Location() + (path_.empty() ? ": " : ".") + std::string(key);
}

bool OptionReader::Contains(std::string_view key) const {
  for (const auto& entry : node_) {
    if (entry.first.Scalar() == key) return true;
  }
  return false;
}

void OptionReader::Fail(std::string_view key, std::string_view message) {
  if (!status_.ok()) return;
  // A method that is not known has keys that are not known either.
  absent_ = key != "method" && !Contains(key);
  status_ = InvalidArgument("{}: {}", Where(key), message);
}

YAML::Node OptionReader::Find(std::string_view key) {
  known_.emplace_back(key);
  if (!status_.ok() && !absent_) return YAML::Node(YAML::NodeType::Undefined);
  for (const auto& entry : node_) {
    if (entry.first.Scalar() == key) return entry.second;
  }
  return YAML::Node(YAML::NodeType::Undefined);
}

bool OptionReader::Has(std::string_view key) {
  const YAML::Node node = Find(key);
  return node.IsDefined();
}

const std::string* OptionReader::Plain(const YAML::Node& node, std::string_view key,
                                       std::string_view expected) {
  // yaml-cpp tags quoted scalars "!": a quoted number is a string.
  if (node.IsScalar() && node.Tag() != "!") return &node.Scalar();
  Fail(key, fmt::format("expected {}, found {}", expected, Describe(node)));
  return nullptr;
}

template <class Accept>
double OptionReader::ReadNumber(std::string_view key, double fallback, const std::string& expected,
                                double max, const Accept& accept) {
  double value = fallback;
  if (const YAML::Node node = Find(key); node.IsDefined()) {
    const std::string* text = Plain(node, key, expected);
    if (text == nullptr) return fallback;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error != std::errc() || end != text->data() + text->size() || !std::isfinite(value) ||
        !accept(value)) {
      const bool percent = error == std::errc() && max == 1 && value > 1 && value <= 100;
      Fail(key, fmt::format("expected {}, found {}{}", expected, Describe(node),
                            percent ? fmt::format("; {} % is {}", value, value / 100) : ""));
      return fallback;
    }
  }
  values_[std::string(key)] = value;
  return value;
}

double OptionReader::Number(std::string_view key, double fallback, double min, double max) {
  return ReadNumber(key, fallback, fmt::format("a number in [{}, {}]", min, max), max,
                    [=](double value) { return value >= min && value <= max; });
}

double OptionReader::Fraction(std::string_view key, double fallback) {
  return ReadNumber(key, fallback, fmt::format("a fraction, 0 < {} < 1", key), 1,
                    [](double value) { return value > 0 && value < 1; });
}

int64_t OptionReader::Integer(std::string_view key, int64_t fallback, int64_t min, int64_t max) {
  int64_t value = fallback;
  if (const YAML::Node node = Find(key); node.IsDefined()) {
    const std::string expected = max == std::numeric_limits<int64_t>::max()
                                     ? fmt::format("an integer of at least {}", min)
                                     : fmt::format("an integer in [{}, {}]", min, max);
    const std::string* text = Plain(node, key, expected);
    if (text == nullptr) return fallback;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error != std::errc() || end != text->data() + text->size() || value < min || value > max) {
      Fail(key, fmt::format("expected {}, found {}", expected, Describe(node)));
      return fallback;
    }
  }
  values_[std::string(key)] = value;
  return value;
}

bool OptionReader::Boolean(std::string_view key, bool fallback) {
  bool value = fallback;
  if (const YAML::Node node = Find(key); node.IsDefined()) {
    const std::string* text = Plain(node, key, "true or false");
    if (text == nullptr) return fallback;
    if (*text != "true" && *text != "false") {
      Fail(key, fmt::format("expected true or false, found {}", Describe(node)));
      return fallback;
    }
    value = *text == "true";
  }
  values_[std::string(key)] = value;
  return value;
}

std::string OptionReader::String(std::string_view key, std::string_view fallback) {
  std::string value(fallback);
  if (const YAML::Node node = Find(key); node.IsDefined()) {
    if (!node.IsScalar() || node.Scalar().empty() ||
        node.Scalar().find('\0') != std::string::npos) {
      Fail(key, fmt::format("expected a text, found {}", Describe(node)));
      return value;
    }
    value = node.Scalar();
  }
  values_[std::string(key)] = value;
  return value;
}

std::string OptionReader::Choice(std::string_view key, std::string_view fallback,
                                 std::initializer_list<std::string_view> choices) {
  std::string value(fallback);
  if (const YAML::Node node = Find(key); node.IsDefined()) {
    std::string list;
    bool found = false;
    for (const std::string_view choice : choices) {
      found = found || (node.IsScalar() && node.Scalar() == choice);
      list += (list.empty() ? "" : " | ") + std::string(choice);
    }
    if (!found) {
      Fail(key, fmt::format("expected {}, found {}", list, Describe(node)));
      return value;
    }
    value = node.Scalar();
  }
  values_[std::string(key)] = value;
  return value;
}

std::vector<std::string> OptionReader::Strings(std::string_view key) {
  constexpr size_t kMaxStrings = 10000;
  std::vector<std::string> value;
  const YAML::Node node = Find(key);
  if (!node.IsDefined()) return value;
  if (node.IsScalar() && !node.Scalar().empty()) {
    value.push_back(node.Scalar());
  } else if (node.IsSequence() && node.size() > 0 && node.size() <= kMaxStrings) {
    for (const auto& item : node) {
      if (!item.IsScalar() || item.Scalar().empty()) {
        Fail(key, fmt::format("expected a list of texts, found {} in it", Describe(item)));
        return {};
      }
      value.push_back(item.Scalar());
    }
  } else {
    Fail(key,
         fmt::format("expected a list of 1 to {} texts, found {}", kMaxStrings,
                     node.IsSequence() ? fmt::format("{} of them", node.size()) : Describe(node)));
  }
  values_[std::string(key)] = value;
  return value;
}

YAML::Node OptionReader::Child(std::string_view key) {
  return Find(key);
}

Status OptionReader::Finish() {
  if (!status_.ok() && !absent_) return status_;
  for (const auto& entry : node_) {
    const std::string& key = entry.first.Scalar();
    bool known = false;
    std::string list;
    std::set<std::string> listed;
    for (const std::string& name : known_) {
      known = known || name == key;
      if (listed.insert(name).second) list += (list.empty() ? "" : ", ") + name;
    }
    if (!known) {
      const std::string nearest = NearestName(key, known_);
      return InvalidArgument("{}: unknown key{}; expected one of: {}", Where(key),
                             nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest),
                             list);
    }
  }
  return status_;
}

}  // namespace harrow
