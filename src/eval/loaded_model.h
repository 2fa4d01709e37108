// A model with what running it needs: tokenizer, threads, names for reports.
#ifndef HARROW_EVAL_LOADED_MODEL_H_
#define HARROW_EVAL_LOADED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace harrow {

// Models may share a pool; then they must not run at the same time.
struct LoadedModel {
  std::string path;
  std::shared_ptr<const Checkpoint> checkpoint;  // null for random weights
  std::unique_ptr<Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the directory has none
  std::shared_ptr<ThreadPool> pool;

  // Bytes of the weight files; 0 for random weights.
  uint64_t DiskBytes() const;
  // Distinct formats of the linear layers in the blocks, sorted.
  std::vector<std::string> Formats() const;
  std::string TokenizerKind() const;  // "none" without one
};

Result<LoadedModel> LoadModel(const std::string& path, std::shared_ptr<ThreadPool> pool);

// An error of running the model. Where the result is no number, with the model's name and the first
// weight that is none: the text has no part in it.
Status BlameWeights(const LoadedModel& model, const Status& error);
// An error of measuring a model on the text in `path`, with that name unless it is the weights'.
Status AtText(const Status& error, const std::string& path);

// With the special tokens of the model's own tokenizer, or none. Fails without a tokenizer.
Result<std::vector<int32_t>> Tokenize(const LoadedModel& model, std::string_view text,
                                      SpecialTokens special);

// Reads a user's text file, at most 1 GiB.
Result<std::string> ReadText(const std::string& path);

// XXH3-64 as 16 hexadecimal digits: what reports call text_hash.
std::string TextHash(std::string_view text);

}  // namespace harrow

#endif  // HARROW_EVAL_LOADED_MODEL_H_
