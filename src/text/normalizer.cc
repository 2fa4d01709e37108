#include "text/normalizer.h"

#include <vector>

#include "text/pattern.h"
#include "text/unicode.h"

namespace harrow {
namespace {

using NormalizerPtr = std::unique_ptr<const Normalizer>;

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  Status Apply(size_t max_bytes, std::string* text) const override {
    if (text->empty()) return OkStatus();
    if (text->size() + prefix_.size() > max_bytes) {
      return OutputLimitError(max_bytes).At("normalizer Prepend");
    }
    text->insert(0, prefix_);
    return OkStatus();
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Status Apply(size_t max_bytes, std::string* text) const override {
    Result<std::string> replaced = pattern_.ReplaceAll(*text, content_, max_bytes);
    if (!replaced.ok()) return replaced.status().At("normalizer Replace");
    *text = *std::move(replaced);
    return OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class UnicodeNormalForm : public Normalizer {
 public:
  explicit UnicodeNormalForm(NormalForm form) : form_(form) {}
  Status Apply(size_t, std::string* text) const override {
    if (NormalizeUnicode(form_, text)) return OkStatus();
    return Error(StatusCode::kResourceLimit, "Unicode normalization of {} bytes failed",
                 text->size());
  }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  Status Apply(size_t, std::string* text) const override {
    *text = LowercaseUnicode(*text);
    return OkStatus();
  }
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}
  Status Apply(size_t max_bytes, std::string* text) const override {
    for (const NormalizerPtr& step : steps_) {
      if (const Status status = step->Apply(max_bytes, text); !status.ok()) return status;
    }
    return OkStatus();
  }

 private:
  std::vector<NormalizerPtr> steps_;
};

Result<NormalizerPtr> ParseSequence(const Json& spec) {
  const Result<const Json*> list = ChildArray(spec, "normalizers");
  if (!list.ok()) return list.status();
  if (*list == nullptr) return Corruption("'normalizers' is missing");
  std::vector<NormalizerPtr> steps;
  for (const Json& item : **list) {
    Result<NormalizerPtr> step = ParseNormalizer(item);
    if (!step.ok()) return step.status();
    if (*step == nullptr) return Corruption("a null step");
    steps.push_back(*std::move(step));
  }
  return NormalizerPtr(std::make_unique<Sequence>(std::move(steps)));
}

Result<NormalizerPtr> ParseType(const std::string& type, const Json& spec) {
  if (type == "Sequence") return ParseSequence(spec);
  if (type == "Prepend") {
    Result<std::string> prefix = Field<std::string>(spec, "prepend");
    if (!prefix.ok()) return prefix.status();
    return NormalizerPtr(std::make_unique<Prepend>(*std::move(prefix)));
  }
  if (type == "Replace") {
    Result<Pattern> pattern = Pattern::Parse(spec);
    if (!pattern.ok()) return pattern.status();
    Result<std::string> content = Field<std::string>(spec, "content");
    if (!content.ok()) return content.status();
    return NormalizerPtr(std::make_unique<Replace>(*std::move(pattern), *std::move(content)));
  }
  if (type == "Lowercase") return NormalizerPtr(std::make_unique<Lowercase>());
  struct Form {
    const char* type;
    NormalForm form;
  };
  for (const Form& form : {Form{"NFC", NormalForm::kNfc}, Form{"NFD", NormalForm::kNfd},
                           Form{"NFKC", NormalForm::kNfkc}, Form{"NFKD", NormalForm::kNfkd}}) {
    if (type == form.type) return NormalizerPtr(std::make_unique<UnicodeNormalForm>(form.form));
  }
  return Unsupported("type '{}'", type);
}

}  // namespace

Result<NormalizerPtr> ParseNormalizer(const Json& spec) {
  if (spec.is_null()) return NormalizerPtr();
  const Result<std::string> type = Field<std::string>(spec, "type");
  if (!type.ok()) return type.status().At("normalizer");
  Result<NormalizerPtr> normalizer = ParseType(*type, spec);
  if (!normalizer.ok()) return normalizer.status().At("normalizer " + *type);
  return normalizer;
}

}  // namespace harrow
