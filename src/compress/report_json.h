// The structs of harrow/compress.h to JSON and back, by their Visit().
#ifndef HARROW_COMPRESS_REPORT_JSON_H_
#define HARROW_COMPRESS_REPORT_JSON_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.h"

namespace harrow {

// The CompressReport beside the weights of a model that Compress() wrote.
inline constexpr char kReportFile[] = "harrow_report.json";

template <class T>
nlohmann::ordered_json ReportToJson(const T& value);

namespace internal {

template <class T>
struct IsStructVector : std::false_type {};
template <class T>
struct IsStructVector<std::vector<T>> : std::is_class<T> {};
template <>
struct IsStructVector<std::vector<std::string>> : std::false_type {};

struct ReportWriter {
  nlohmann::ordered_json* out;
  void operator()(const char* name, const std::optional<double>& value, const char*) {
    (*out)[name] = value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  }
  template <class T>
  void operator()(const char* name, const T& value, const char*) {
    if constexpr (IsStructVector<T>::value) {
      (*out)[name] = nlohmann::ordered_json::array();
      for (const auto& item : value)
        (*out)[name].push_back(ReportToJson(item));
    } else if constexpr (std::is_class_v<T> && !std::is_same_v<T, std::string> &&
                         !std::is_same_v<T, std::vector<std::string>>) {
      (*out)[name] = ReportToJson(value);
    } else {
      (*out)[name] = value;
    }
  }
};

// Reads scalars, structs and lists; throws nlohmann's exceptions. A figure that may be missing may
// also be unknown to the version that wrote the report.
struct ReportReader {
  const nlohmann::json& in;
  void operator()(const char* name, std::optional<double>& value, const char*) {
    const auto found = in.find(name);
    if (found != in.end() && !found->is_null()) value = found->get<double>();
  }
  template <class T>
  void operator()(const char* name, T& value, const char*) {
    if constexpr (IsStructVector<T>::value) {
      for (const nlohmann::json& item : in.at(name))
        value.emplace_back().Visit(ReportReader{item});
    } else if constexpr (requires { value.Visit(*this); }) {
      value.Visit(ReportReader{in.at(name)});
    } else {
      in.at(name).get_to(value);
    }
  }
};

}  // namespace internal

template <class T>
nlohmann::ordered_json ReportToJson(const T& value) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  T copy = value;  // Visit() is not const, so that it can also fill a struct
  copy.Visit(internal::ReportWriter{&json});
  return json;
}

// A struct of scalars, such structs, and lists of both, from what ReportToJson wrote.
template <class T>
Result<T> ReportFromJson(const nlohmann::json& json) {
  try {
    T value;
    value.Visit(internal::ReportReader{json});
    return value;
  } catch (const nlohmann::json::exception& error) {
    return Corruption("{}", error.what());
  }
}

}  // namespace harrow

#endif  // HARROW_COMPRESS_REPORT_JSON_H_
