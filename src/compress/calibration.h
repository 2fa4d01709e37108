// Token sequences to calibrate on, from a text file.
#ifndef HARROW_COMPRESS_CALIBRATION_H_
#define HARROW_COMPRESS_CALIBRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/run_control.h"
#include "base/status.h"
#include "compress/recipe.h"
#include "text/tokenizer.h"

namespace harrow {

struct Calibration {
  int64_t sequence_length = 0;
  std::vector<int32_t> ids;  // [samples, sequence_length]
  uint64_t text_hash = 0;    // XXH3-64 of the file's bytes
  int64_t documents = 0;
  int64_t rejected_documents = 0;
  std::string warning;  // about the text, empty when there is nothing to say

  int64_t samples() const { return static_cast<int64_t>(ids.size()) / sequence_length; }
  const int32_t* sequence(int64_t index) const { return ids.data() + index * sequence_length; }
};

// Texts of a file: of .jsonl the field `text` of each line, of .txt the parts between lines that
// are `<|endoftext|>` (the whole file when there are none). Empty documents are left out.
Result<std::vector<std::string>> SplitDocuments(std::string_view bytes, const std::string& path);

// Takes spec.samples sequences of `sequence_length` tokens (> 0).
//
// kPapers, the convention of SparseGPT, GPTQ and Wanda (get_c4): draw a document, reject it when it
// has no more than sequence_length tokens, take a crop that starts anywhere in
// [0, tokens - sequence_length - 1]. Documents are drawn with replacement by our own generator
// (base/rng.h), not by Python's, so the same seed gives other crops than the authors' code.
// kConcat: documents in random order without replacement, joined, cut into consecutive sequences.
// Documents are encoded with the special tokens that the model's tokenizer adds by default.
// Too little text is an error that says how much there was; nothing is repeated to fill up.
Result<Calibration> TakeCalibration(const CalibrationSpec& spec, int64_t sequence_length,
                                    const Tokenizer& tokenizer, const RunControl* control);

// {"sequence_length": n, "ids": [[...], ...]}
std::string CalibrationJson(const Calibration& calibration);

}  // namespace harrow

#endif  // HARROW_COMPRESS_CALIBRATION_H_
