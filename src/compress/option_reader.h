// Strict reading of one YAML mapping: every key must be asked for, every value must have the right
// type and range, and the first mistake is reported as "file:line: key: what was found, what was
// expected".
#ifndef HARROW_COMPRESS_OPTION_READER_H_
#define HARROW_COMPRESS_OPTION_READER_H_

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace harrow {

// Getters return the default when the key is absent and, after a mistake, some value of the type;
// Finish() then returns the first mistake, or the unknown key where the mistake was a key that is
// absent and so may only be misspelt. Not thread safe.
class OptionReader {
 public:
  // `where` is the file; `path` the place of the mapping in it ("steps[0]"), for messages.
  OptionReader(const YAML::Node& node, std::string where, std::string path);

  bool Has(std::string_view key);
  // In [min, max], finite.
  double Number(std::string_view key, double fallback, double min, double max);
  // Between 0 and 1, both excluded.
  double Fraction(std::string_view key, double fallback);
  int64_t Integer(std::string_view key, int64_t fallback, int64_t min,
                  int64_t max = std::numeric_limits<int64_t>::max());
  bool Boolean(std::string_view key, bool fallback);
  std::string String(std::string_view key, std::string_view fallback);
  std::string Choice(std::string_view key, std::string_view fallback,
                     std::initializer_list<std::string_view> choices);
  // A list of non-empty strings, or one string.
  std::vector<std::string> Strings(std::string_view key);
  // A nested mapping or list; undefined when absent.
  YAML::Node Child(std::string_view key);
  // Calls read(OptionReader*) on the mapping at `key`; what it read and its first mistake become
  // part of this reader's. Does nothing when the key is absent.
  template <class Read>
  void Nested(std::string_view key, const Read& read) {
    const YAML::Node child = Find(key);
    if (!child.IsDefined()) return;
    OptionReader reader(child, where_, Prefix() + std::string(key));
    read(&reader);
    if (Status status = reader.Finish(); status_.ok()) status_ = std::move(status);
    values_[std::string(key)] = reader.values();
  }

  // The same for each mapping of the list of 1 to `max_size` of them at `key`, with
  // read(OptionReader*, size_t index).
  template <class Read>
  void NestedList(std::string_view key, size_t max_size, const Read& read) {
    const YAML::Node list = Find(key);
    if (!list.IsDefined()) return;
    if (!list.IsSequence() || list.size() == 0 || list.size() > max_size) {
      Fail(key, fmt::format("expected a list of 1 to {} mappings", max_size));
      return;
    }
    nlohmann::ordered_json values = nlohmann::ordered_json::array();
    for (size_t i = 0; i < list.size(); ++i) {
      OptionReader reader(list[i], where_, fmt::format("{}{}[{}]", Prefix(), key, i));
      read(&reader, i);
      if (Status status = reader.Finish(); status_.ok()) status_ = std::move(status);
      values.push_back(reader.values());
    }
    values_[std::string(key)] = std::move(values);
  }

  // Records a mistake found by the caller, at the key's line (the mapping's when absent). A caller
  // that then asks for no more keys, as after an absent `method`, gets this mistake from Finish().
  void Fail(std::string_view key, std::string_view message);
  // "recipe.yaml:3: steps[0]", for messages about the mapping as a whole.
  std::string Location() const;
  // The first mistake, or an error for a key that nobody asked for.
  Status Finish();
  // All that was read with defaults filled in, in the order of reading.
  const nlohmann::ordered_json& values() const { return values_; }

 private:
  YAML::Node Find(std::string_view key);
  bool Contains(std::string_view key) const;
  std::string Prefix() const { return path_.empty() ? "" : path_ + "."; }
  std::string Where(std::string_view key) const;
  template <class Accept>
  double ReadNumber(std::string_view key, double fallback, const std::string& expected, double max,
                    const Accept& accept);
  // The scalar text of `key`, or null with a mistake recorded.
  const std::string* Plain(const YAML::Node& node, std::string_view key, std::string_view expected);

  YAML::Node node_;
  std::string where_;
  std::string path_;
  std::vector<std::string> known_;
  Status status_;
  bool absent_ = false;  // status_ is about a key that is not there: reading goes on
  nlohmann::ordered_json values_ = nlohmann::ordered_json::object();
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_OPTION_READER_H_
