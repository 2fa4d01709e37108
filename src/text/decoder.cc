#include "text/decoder.h"

#include <algorithm>
#include <charconv>

#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace harrow {
namespace {

using DecoderPtr = std::unique_ptr<const Decoder>;

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

std::string Join(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens)
    text += token;
  return text;
}

class ByteLevel : public Decoder {
 public:
  Status Apply(Scope scope, size_t, std::vector<std::string>* tokens) const override {
    std::string bytes;
    std::string decoded;
    for (const std::string& token : *tokens) {
      // A token with other characters (an added one, " ") is meant literally.
      bytes += ByteLevelToBytes(token, &decoded) ? decoded : token;
    }
    std::string text;
    if (scope == Scope::kText) TakeCharacters(&bytes, &text);
    tokens->assign(1, text + bytes);
    return OkStatus();
  }
  bool fuses() const override { return true; }
  bool is_byte_level() const override { return true; }
};

// A run of byte tokens is a text if all of it is well-formed UTF-8; if not, each of its bytes
// becomes U+FFFD.
class ByteFallback : public Decoder {
 public:
  Status Apply(Scope scope, size_t, std::vector<std::string>* tokens) const override {
    std::vector<std::string> out;
    std::string run;
    const auto end_run = [&](bool at_end) {
      if (run.empty()) return;
      const size_t invalid = FindInvalidUtf8(run);
      std::string rest = run.substr(invalid);
      std::string ill_formed;
      TakeCharacters(&rest, &ill_formed);
      const bool only_incomplete = ill_formed.empty();
      if (scope == Scope::kMiddleToken || invalid == run.size() || (at_end && only_incomplete)) {
        out.push_back(run);
      } else {
        out.insert(out.end(), run.size(), std::string(kReplacementCharacter));
      }
      run.clear();
    };
    for (std::string& token : *tokens) {
      const int byte = ParseByteToken(token);
      if (byte >= 0) {
        run += static_cast<char>(byte);
      } else {
        end_run(false);
        out.push_back(std::move(token));
      }
    }
    end_run(true);
    *tokens = std::move(out);
    return OkStatus();
  }
};

class Fuse : public Decoder {
 public:
  Status Apply(Scope, size_t, std::vector<std::string>* tokens) const override {
    std::string text = Join(*tokens);
    tokens->assign(1, std::move(text));
    return OkStatus();
  }
  bool fuses() const override { return true; }
};

class Replace : public Decoder {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Status Apply(Scope, size_t max_bytes, std::vector<std::string>* tokens) const override {
    size_t bytes = 0;
    for (std::string& token : *tokens) {
      // Only a step behind ByteFallback can meet ill-formed text, and the reference has none there.
      if (FindInvalidUtf8(token) == token.size()) {
        Result<std::string> replaced =
            pattern_.ReplaceAll(token, content_, max_bytes - std::min(bytes, max_bytes));
        if (!replaced.ok()) return replaced.status().At("decoder Replace");
        token = *std::move(replaced);
      }
      bytes += token.size();
    }
    return OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// Takes up to `start` and `stop` copies of one character off the ends of every token.
class Strip : public Decoder {
 public:
  Strip(std::string content, int64_t start, int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  Status Apply(Scope, size_t, std::vector<std::string>* tokens) const override {
    for (std::string& token : *tokens) {
      const size_t n = content_.size();
      size_t begin = 0;
      for (int64_t i = 0; i < start_ && token.compare(begin, n, content_) == 0; ++i)
        begin += n;
      size_t end = token.size();
      for (int64_t i = 0; i < stop_ && end >= begin + n && token.compare(end - n, n, content_) == 0;
           ++i) {
        end -= n;
      }
      token = token.substr(begin, end - begin);
    }
    return OkStatus();
  }

 private:
  std::string content_;
  int64_t start_;
  int64_t stop_;
};

class Metaspace : public Decoder {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)) {}
  Status Apply(Scope scope, size_t, std::vector<std::string>* tokens) const override {
    const std::string& mark = options_.replacement;
    for (size_t i = 0; i < tokens->size(); ++i) {
      const bool drop =
          i == 0 && scope == Scope::kText && options_.prepend_scheme != PrependScheme::kNever;
      std::string& token = (*tokens)[i];
      std::string out;
      for (size_t pos = 0; pos < token.size();) {
        if (token.compare(pos, mark.size(), mark) == 0) {
          if (!drop) out += ' ';
          pos += mark.size();
        } else {
          out += token[pos++];
        }
      }
      token = std::move(out);
    }
    return OkStatus();
  }

 private:
  MetaspaceOptions options_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<DecoderPtr> steps) : steps_(std::move(steps)) {}
  Status Apply(Scope scope, size_t max_bytes, std::vector<std::string>* tokens) const override {
    for (const DecoderPtr& step : steps_) {
      if (const Status status = step->Apply(scope, max_bytes, tokens); !status.ok()) return status;
      // What follows works on the ends of the whole text.
      if (scope == Scope::kMiddleToken && step->fuses()) break;
    }
    return OkStatus();
  }
  bool fuses() const override { return Any(&Decoder::fuses); }
  bool is_byte_level() const override { return Any(&Decoder::is_byte_level); }

 private:
  bool Any(bool (Decoder::*property)() const) const {
    for (const DecoderPtr& step : steps_) {
      if ((step.get()->*property)()) return true;
    }
    return false;
  }
  std::vector<DecoderPtr> steps_;
};

Result<DecoderPtr> ParseSequence(const Json& spec) {
  const Result<const Json*> list = ChildArray(spec, "decoders");
  if (!list.ok()) return list.status();
  if (*list == nullptr) return Corruption("'decoders' is missing");
  std::vector<DecoderPtr> steps;
  for (const Json& item : **list) {
    Result<DecoderPtr> step = ParseDecoder(item);
    if (!step.ok()) return step.status();
    steps.push_back(*std::move(step));
  }
  return DecoderPtr(std::make_unique<Sequence>(std::move(steps)));
}

Result<DecoderPtr> ParseStrip(const Json& spec) {
  Result<std::string> content = Field<std::string>(spec, "content");
  if (!content.ok()) return content.status();
  if (content->empty() || Utf8CharLength(*content, 0) != content->size()) {
    return Corruption("'content' must be one character, got '{}'", *content);
  }
  const Result<int64_t> start = Field<int64_t>(spec, "start");
  if (!start.ok()) return start.status();
  const Result<int64_t> stop = Field<int64_t>(spec, "stop");
  if (!stop.ok()) return stop.status();
  if (*start < 0 || *stop < 0) return Corruption("'start' and 'stop' must not be negative");
  return DecoderPtr(std::make_unique<Strip>(*std::move(content), *start, *stop));
}

Result<DecoderPtr> ParseType(const std::string& type, const Json& spec) {
  if (type == "Sequence") return ParseSequence(spec);
  if (type == "ByteLevel") return DecoderPtr(std::make_unique<ByteLevel>());
  if (type == "ByteFallback") return DecoderPtr(std::make_unique<ByteFallback>());
  if (type == "Fuse") return DecoderPtr(std::make_unique<Fuse>());
  if (type == "Strip") return ParseStrip(spec);
  if (type == "Replace") {
    Result<Pattern> pattern = Pattern::Parse(spec);
    if (!pattern.ok()) return pattern.status();
    Result<std::string> content = Field<std::string>(spec, "content");
    if (!content.ok()) return content.status();
    return DecoderPtr(std::make_unique<Replace>(*std::move(pattern), *std::move(content)));
  }
  if (type == "Metaspace") {
    Result<MetaspaceOptions> options = ParseMetaspace(spec);
    if (!options.ok()) return options.status();
    return DecoderPtr(std::make_unique<Metaspace>(*std::move(options)));
  }
  return Unsupported("type '{}'", type);
}

}  // namespace

Result<DecoderPtr> ParseDecoder(const Json& spec) {
  if (spec.is_null()) return Unsupported("decoder: null");
  const Result<std::string> type = Field<std::string>(spec, "type");
  if (!type.ok()) return type.status().At("decoder");
  Result<DecoderPtr> decoder = ParseType(*type, spec);
  if (!decoder.ok()) return decoder.status().At("decoder " + *type);
  return decoder;
}

int ParseByteToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token.back() != '>') return -1;
  int byte = -1;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 && byte >= 0 ? byte : -1;
}

}  // namespace harrow
