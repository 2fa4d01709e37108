// Turning other projects' checkpoints into Hugging Face directories.
#ifndef HARROW_CONVERT_H_
#define HARROW_CONVERT_H_

#include <string>

#include "harrow/fields.h"
#include "harrow/status.h"

namespace harrow {

struct ConvertOptions {
  std::string model;
  std::string tokenizer;
  std::string output;
  bool overwrite = false;

  template <class V>
  void Visit(V&& v) {
    v("tokenizer", tokenizer, "sentencepiece .model to copy in");
    v("output", output, "directory to write");
    v("overwrite", overwrite, "replace an existing output directory");
  }
};
// A llama2.c checkpoint (.bin, version 0 or 1, float32), which `model` names.
Status ConvertLlama2c(const ConvertOptions& options);

}  // namespace harrow

#endif  // HARROW_CONVERT_H_
