// A model directory as one thing: config, tensors, and linear weights in whatever form they are
// stored.
#ifndef HARROW_CHECKPOINT_CHECKPOINT_H_
#define HARROW_CHECKPOINT_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/tensor_source.h"
#include "formats/linear_weight.h"

namespace harrow {

// A packed weight is stored as the U8 tensor "<weight name>.packed".
inline constexpr std::string_view kPackedSuffix = ".packed";
// The factors of a low-rank product are stored as linear weights "<weight name>.low_rank_a" and
// "..._b", plain or packed.
inline constexpr std::string_view kLowRankASuffix = ".low_rank_a";
inline constexpr std::string_view kLowRankBSuffix = ".low_rank_b";

// Immutable; safe to share between threads, and Linear may be called from several at once.
class Checkpoint {
 public:
  // Opens config.json and the safetensors of a Hugging Face directory.
  static Result<std::shared_ptr<const Checkpoint>> Open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const HfConfig& config() const { return config_; }
  const TensorSource& tensors() const { return *tensors_; }

  // The linear weight called `name` (e.g. "model.layers.0.mlp.up_proj.weight"), packed, dense or
  // low-rank; fails unless its shape is [rows, cols]. A packed weight is checked completely:
  // structure, checksum and count of non-zeros. A view of the mapped file; only data that is not
  // aligned (other tools' files) is copied.
  Result<LinearWeight> Linear(const std::string& name, int64_t rows, int64_t cols) const;
  // Whether some form of the weight is stored, and its shape as far as config.json and the headers
  // of the tensors say; NotFound names what is missing.
  bool HasLinear(const std::string& name) const;
  Result<Shape> LinearShape(const std::string& name) const;
  // The stored tensors that make up the weight.
  std::vector<std::string> LinearTensors(const std::string& name) const;
  // A float tensor of exactly this shape, converted to float32 (norms; not for large matrices).
  Result<std::vector<float>> Float32(const std::string& name, const Shape& shape) const;

 private:
  std::string directory_;
  HfConfig config_;
  std::shared_ptr<const TensorSource> tensors_;
};

// Writes a Hugging Face directory shard by shard into the work folder "<directory>.partial" and
// renames its content at the end, so an interrupted run leaves nothing that looks whole, and a
// later run with the same `resume_key` finds its finished shards again (those whose size and
// checksum still match). After any error the next step is a new Create. Without Finish the
// destructor keeps the work folder if there is a resume_key, and removes it if not. After Create
// callers may keep notes of their own in the work folder; they last until Finish. Not thread safe;
// one writer, in any process, per directory. docs/formats/checkpoint.md.
class CheckpointWriter {
 public:
  struct Options {
    bool overwrite = false;  // replace an existing directory that has a config.json, at Finish
    // Identifies the job (hash of source, recipe, calibration). A work folder with the same key is
    // continued; one with another key is an error that says how to discard it, unless
    // `discard_partial`; one without a key is cleared. Empty: never continue.
    std::string resume_key;
    bool discard_partial = false;
  };
  // What Create and Finish refuse of `directory` itself, to be told before long work: a path that
  // cannot be used, and something there that `overwrite` does not allow to replace.
  static Status CheckDirectory(const std::string& directory, bool overwrite);
  static Result<std::unique_ptr<CheckpointWriter>> Create(const std::string& directory,
                                                          const Options& options);
  virtual ~CheckpointWriter() = default;

  // Whether the shard was finished by the earlier run that is being continued.
  virtual bool HasShard(const std::string& shard) const = 0;
  // Opens a finished shard of the work folder, to read its tensors back (resume).
  virtual Result<std::shared_ptr<const TensorSource>> OpenShard(const std::string& shard) const = 0;
  // The packed and low-rank weights of a finished shard (with OpenShard, ReadLinear rebuilds them).
  virtual PackedWeights ShardPackedInfo(const std::string& shard) const = 0;
  virtual LowRankWeights ShardLowRankInfo(const std::string& shard) const = 0;

  // Collects tensors of one shard; the views are kept (with their owners) until EndShard writes
  // them at once.
  virtual Status BeginShard(const std::string& shard) = 0;
  virtual Status AddTensor(const std::string& name, const TensorView& view) = 0;
  // A dense weight is stored under `name` as a plain tensor; any other as "<name>.packed"; the
  // factors of a low-rank product beside it.
  virtual Status AddLinear(const std::string& name, const LinearWeight& weight) = 0;
  virtual Status EndShard() = 0;

  // Copies tokenizer files, generation_config.json, licences and other small text files of the
  // source model; not config.json, indexes, and files whose name begins with "harrow" (reports).
  virtual Status CopySideFiles(const std::string& source_directory) = 0;
  // An extra small file (the compression report).
  virtual Status WriteSideFile(const std::string& name, std::string_view text) = 0;
  // Writes the index (a single shard is named model.safetensors and needs none; several are ordered
  // by name), config.json last, then renames. `recipe_json` may be empty; `torch_dtype` may be
  // empty (unchanged).
  virtual Status Finish(const HfConfig& config, std::string_view recipe_json,
                        std::string_view torch_dtype) = 0;
  // Removes the work folder.
  virtual void Discard() = 0;
};

// Rebuilds a LinearWeight from its stored tensor and info, checking structure, checksum and
// non-zeros.
Result<LinearWeight> RestorePackedWeight(const std::string& name, const PackedWeightInfo& info,
                                         const TensorView& packed);

// The linear weight `name` of `tensors` in whatever form it has; Checkpoint::Linear, and its like
// for a shard.
Result<LinearWeight> ReadLinear(const TensorSource& tensors, const PackedWeights& packed,
                                const LowRankWeights& low_rank, const std::string& name,
                                int64_t rows, int64_t cols);

// The weight that a stored tensor is a part of: its name without suffixes.
std::string_view WeightOfTensor(std::string_view tensor);

// Converts a llama2.c checkpoint (v0 or v1 float32) to a Hugging Face directory, RoPE permutation
// of wq and wk included. `tokenizer_model` may name a sentencepiece model to copy in (empty: none).
// Source: karpathy/llama2.c export.py (legacy_export, version1_export) and its run.c reader.
Status ConvertLlama2c(const std::string& bin_path, const std::string& tokenizer_model,
                      const std::string& output_directory, bool overwrite);

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_CHECKPOINT_H_
