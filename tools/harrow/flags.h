// Command-line flags from the field list of an options struct: "--" + name with '-' for '_'.
#ifndef HARROW_TOOLS_FLAGS_H_
#define HARROW_TOOLS_FLAGS_H_

#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "harrow/fields.h"

namespace harrow::tools {

// Short letters and second names, as llama.cpp, llama-bench and the papers' codes call them.
inline std::string FlagNames(std::string_view field) {
  struct Alias {
    std::string_view field;
    std::string_view names;
  };
  static constexpr Alias kAliases[] = {
      {"threads", "-t"},
      {"prompt", "-p"},
      {"file", "-f"},
      {"n_predict", "-n"},
      {"seed", "-s"},
      {"ctx_size", "-c"},
      {"batch_size", "-b"},
      {"n_prompt", "-p"},
      {"n_gen", "-n"},
      {"repetitions", "-r"},
      {"recipe", "-r"},
      {"output", "-o"},
      {"sequence_length", "--seqlen"},
  };
  std::string flag = "--" + std::string(field);
  for (char& c : flag) {
    if (c == '_') c = '-';
  }
  for (const Alias& alias : kAliases) {
    if (alias.field == field) return std::string(alias.names) + "," + flag;
  }
  return flag;
}

// A double in full, but 65536 rather than 6.5536e4.
inline std::string BoundText(double value) {
  return value == static_cast<double>(static_cast<int64_t>(value))
             ? fmt::format("{}", static_cast<int64_t>(value))
             : fmt::format("{}", value);
}

// Adds one flag a field to `command`; parsed values go straight into the struct, which must live as
// long as the command. Fields in `skip` get no flag.
class FlagAdder {
 public:
  explicit FlagAdder(CLI::App* command, std::set<std::string_view> skip = {})
      : command_(command), skip_(std::move(skip)) {}

  template <class T>
  void operator()(const char* name, T& field, const char* help) {
    if (skip_.count(name) > 0) return;
    if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
      AddNumber<T>(name, field, help, std::nullopt, fmt::format("{}", field));
    } else {
      Add(name, field, help);
    }
  }
  template <class T>
  void operator()(const char* name, T& field, const char* help, Limits limits) {
    if (skip_.count(name) > 0) return;
    AddNumber<T>(name, field, help, limits, fmt::format("{}", field));
  }

 private:
  // `field` is a T or an optional one. Without limits every finite T will do.
  template <class T, class Field>
  void AddNumber(const char* name, Field& field, const char* help, std::optional<Limits> limits,
                 const std::string& default_value) {
    const std::string flag = FlagNames(name);
    const auto parse = [&field, limits, flag](const CLI::results_t& values) {
      T value{};
      const std::string& text = values.back();
      const char* end = text.data() + text.size();
      const std::from_chars_result parsed = std::from_chars(text.data(), end, value);
      const auto number = static_cast<double>(value);
      if (parsed.ec != std::errc() || parsed.ptr != end || !std::isfinite(number) ||
          (limits && !(number >= limits->min && number <= limits->max))) {
        throw CLI::ValidationError(
            flag,
            fmt::format(
                "'{}' is not {}{}", text, std::is_integral_v<T> ? "an integer" : "a number",
                limits ? fmt::format(" in {} .. {}", BoundText(limits->min), BoundText(limits->max))
                       : "") +
                (parsed.ec == std::errc::result_out_of_range ? ": out of range" : ""));
      }
      field = value;
      return true;
    };
    Describe(command_->add_option(flag, parse, help), std::is_integral_v<T> ? "INT" : "NUM",
             default_value);
  }
  void Add(const char* name, std::optional<double>& field, const char* help) {
    AddNumber<double>(name, field, help, std::nullopt, "");
  }
  static void Describe(CLI::Option* option, const char* type, const std::string& default_value) {
    option->type_name(type);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    if (!default_value.empty()) option->default_str(default_value);
  }
  // A switch that is on by default is turned off by --no-name.
  void Add(const char* name, bool& field, const char* help) {
    std::string flag = FlagNames(name);
    if (field) {
      flag.insert(2, "no-");
      command_->add_flag_callback(
          flag, [&field] { field = false; }, "do not " + std::string(help));
    } else {
      command_->add_flag_callback(
          flag, [&field] { field = true; }, help);
    }
  }
  void Add(const char* name, std::string& field, const char* help) {
    Describe(command_->add_option(
                 FlagNames(name),
                 [&field](const CLI::results_t& values) {
                   field = values.back();
                   return true;
                 },
                 help),
             "TEXT", field);
  }
  // Lists: separated by commas, or the flag several times; an entry re:REGEX is kept whole.
  void Add(const char* name, std::vector<std::string>& field, const char* help) {
    CLI::Option* option = command_->add_option(
        FlagNames(name),
        [&field](const CLI::results_t& values) {
          field.clear();
          for (const std::string& value : values) {
            if (value.rfind("re:", 0) == 0) {
              field.push_back(value);
            } else {
              for (std::string& part : CLI::detail::split(value, ',')) {
                if (!part.empty()) field.push_back(std::move(part));
              }
            }
          }
          return true;
        },
        help);
    option->type_name("LIST")->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->expected(1);
    option->take_all();
    if (!field.empty()) option->default_str(fmt::format("{}", fmt::join(field, ",")));
  }
  void Add(const char* name, std::vector<double>& field, const char* help) {
    const std::string flag = FlagNames(name);
    CLI::Option* option = command_->add_option(
        flag,
        [&field, flag](const CLI::results_t& values) {
          field.clear();
          for (const std::string& part : CLI::detail::split(values.back(), ',')) {
            double value = 0;
            const char* end = part.data() + part.size();
            const std::from_chars_result parsed = std::from_chars(part.data(), end, value);
            if (parsed.ec != std::errc() || parsed.ptr != end) {
              throw CLI::ValidationError(
                  flag, fmt::format("'{}' is not a number; give them as 0.3,0.5,...", part));
            }
            field.push_back(value);
          }
          return true;
        },
        help);
    Describe(option, "NUMS", fmt::format("{}", fmt::join(field, ",")));
  }
  void Add(const char* name, std::vector<int32_t>& field, const char* help) {
    const std::string flag = FlagNames(name);
    command_
        ->add_option(
            flag,
            [&field, flag](const CLI::results_t& values) {
              for (const std::string& part : CLI::detail::split(values.back(), ',')) {
                int32_t id = 0;
                const char* end = part.data() + part.size();
                const std::from_chars_result parsed = std::from_chars(part.data(), end, id);
                if (parsed.ec != std::errc() || parsed.ptr != end || id < 0) {
                  throw CLI::ValidationError(
                      flag, fmt::format("'{}' is not a token id; give them as 1,15,...", part));
                }
                field.push_back(id);
              }
              return true;
            },
            help)
        ->type_name("IDS");
  }

  CLI::App* command_;
  std::set<std::string_view> skip_;
};

}  // namespace harrow::tools

#endif  // HARROW_TOOLS_FLAGS_H_
