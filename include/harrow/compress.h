// Compressing a model: recipes in, a smaller checkpoint and a report out; and back to a dense one.
//
// Every struct lists its fields once in Visit(v), which calls v(name, member, help) for each, so
// that flags, JSON and documentation cannot drift apart. A member is a bool, int32_t, int64_t,
// uint64_t, double, std::string, std::optional<double>, std::vector<std::string>, another struct
// with Visit, or a std::vector of such structs.
//
// Thread safety: the functions may run at the same time on different outputs. OpenBLAS's thread
// count is process-wide: Compress sets it to its own `threads` for the time of the call.
#ifndef HARROW_COMPRESS_H_
#define HARROW_COMPRESS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

// The short forms, `harrow prune` and `harrow quantize`, are recipes made from flags.
struct PruneOptions {
  std::string method = "sparsegpt";
  std::optional<double> sparsity;
  std::string pattern;
  std::string allocation = "uniform";
  std::string sensitivity;
  std::string calibration;
  std::string mode = "papers";
  int64_t samples = 128;
  int64_t sequence_length = 0;
  int64_t seed = 0;
  double damping = 0.01;
  bool allow_damping_escalation = false;
  int64_t block_size = 128;
  std::vector<std::string> targets;
  std::vector<std::string> ignore;
  std::string weights;
  int64_t group = 128;
  bool symmetric = true;
  std::string store = "auto";

  template <class V>
  void Visit(V&& v) {
    v("method", method, "magnitude | wanda | ria | sparsegpt | alps | lasso");
    v("sparsity", sparsity, "fraction of weights to zero, 0 < s < 1 (this or an N:M pattern)");
    v("pattern", pattern,
      "N:M: keep N of every M consecutive inputs, e.g. 2:4; or RxC: zero whole blocks of R outputs "
      "x "
      "C inputs, e.g. 16x1, with sparsity the fraction of blocks");
    v("allocation", allocation,
      "how the sparsity is shared out among the blocks or weights: uniform | owl | alphapruning | "
      "dlp | sensitivity");
    v("sensitivity", sensitivity,
      "with allocation sensitivity: what `harrow sensitivity -o json` wrote");
    v("calibration", calibration, "text to calibrate on: .jsonl with a field `text`, or .txt");
    v("mode", mode,
      "papers: a random crop of a random document that is long enough; concat: of all documents "
      "joined");
    v("samples", samples, "calibration sequences");
    v("sequence_length", sequence_length,
      "tokens a sequence; 0: the model's context, at most 2048");
    v("seed", seed, "of the choice of documents and crops");
    v("damping", damping, "sparsegpt: added to the Hessian's diagonal, as a fraction of its mean");
    v("allow_damping_escalation", allow_damping_escalation,
      "sparsegpt: retry a failed factorization with 10 times the damping, up to 4 times");
    v("block_size", block_size, "sparsegpt: columns updated together and sharing one threshold");
    v("targets", targets, "weights to prune: names, or re:REGEX; default: all in the blocks");
    v("ignore", ignore, "weights to leave alone");
    v("weights", weights, "int8 | int4: also quantize what was pruned; empty: no");
    v("group", group, "with weights: inputs that share a scale");
    v("symmetric", symmetric, "use symmetric grids, which need no zero points, with weights int4");
    v("store", store, "auto: the smallest format for each weight; fast: the fastest; dense");
  }
};

struct QuantizeOptions {
  std::string method = "rtn";
  std::string weights = "int8";
  int64_t group = 128;
  bool symmetric = true;
  bool act_order = true;
  std::string calibration;
  std::string mode = "papers";
  int64_t samples = 128;
  int64_t sequence_length = 0;
  int64_t seed = 0;
  bool embed = true;
  std::vector<std::string> targets;
  std::vector<std::string> ignore;
  std::string store = "auto";

  template <class V>
  void Visit(V&& v) {
    v("method", method, "rtn: round to nearest | gptq | awq; the last two need calibration");
    v("weights", weights, "int8 | int4: one scale per group of inputs");
    v("group", group, "inputs that share a scale; int8: a multiple of 32, int4: 32, 64 or 128");
    v("symmetric", symmetric,
      "use symmetric grids, which need no zero points, for int4 (int8 always does)");
    v("act_order", act_order, "take inputs with large activations first (gptq)");
    v("calibration", calibration, "text to calibrate on: .jsonl with a field `text`, or .txt");
    v("mode", mode, "papers | concat, as for harrow prune");
    v("samples", samples, "calibration sequences");
    v("sequence_length", sequence_length,
      "tokens a sequence; 0: the model's context, at most 2048");
    v("seed", seed, "of the choice of documents and crops");
    v("embed", embed,
      "round the embedding and the head to nearest as well (never done with --targets)");
    v("targets", targets, "weights to quantize: names, or re:REGEX; default: all in the blocks");
    v("ignore", ignore, "weights to leave alone");
    v("store", store, "auto: the smallest format for each weight; fast: the fastest; dense");
  }
};

// The recipe text (YAML, docs/recipes.md) that the flags stand for.
Result<std::string> PruneRecipe(const PruneOptions& options);
Result<std::string> QuantizeRecipe(const QuantizeOptions& options);

// A message of Compress about such a recipe, in terms of what the user typed: "--targets: ..." for
// "recipe:2: steps[0].targets: ...". Other messages stay as they are.
std::string InFlags(const std::string& message);

struct CompressOptions {
  std::string model;
  std::string recipe_path;
  std::string recipe_text;
  std::string output;
  bool overwrite = false;
  bool restart = false;
  std::string save_calibration;
  int32_t threads = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "Hugging Face directory, dense or made by Harrow");
    v("recipe", recipe_path, "YAML file (docs/recipes.md)");
    v("recipe_text", recipe_text, "the recipe itself, instead of a file");
    v("output", output, "directory to write");
    v("overwrite", overwrite, "replace an existing output directory");
    v("restart", restart,
      "throw away what a run that was interrupted or failed left, instead of continuing it");
    v("save_calibration", save_calibration,
      "also write the calibration token ids to this file (JSON, one list a sequence)");
    v("threads", threads, "0: one per CPU");
  }
};

struct CalibrationReport {
  std::string file;
  std::string text_hash;
  std::string mode;
  int64_t seed = 0;
  int64_t samples = 0;
  int64_t sequence_length = 0;
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t rejected_documents = 0;
  std::string tokenizer;

  template <class V>
  void Visit(V&& v) {
    v("file", file, "the text; empty when no step needs calibration");
    v("text_hash", text_hash, "XXH3-64 of the file's bytes, hexadecimal");
    v("mode", mode, "papers | concat");
    v("seed", seed, "of the choice of documents and crops");
    v("samples", samples, "sequences");
    v("sequence_length", sequence_length, "tokens a sequence");
    v("tokens", tokens, "samples * sequence_length");
    v("documents", documents, "in the file");
    v("rejected_documents", rejected_documents, "documents drawn and found too short (papers)");
    v("tokenizer", tokenizer, "kind of tokenizer");
  }
};

struct LayerReport {
  std::string name;
  std::string method;
  std::string pattern;
  std::optional<double> requested_sparsity;
  std::optional<double> allocated_sparsity;
  double sparsity = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nonzeros = 0;
  int64_t calibration_tokens = 0;
  int64_t dead_columns = 0;
  std::optional<double> damping;
  std::optional<double> relative_error;
  std::string spec;
  std::string values;
  int64_t rank = 0;
  int64_t rounded = 0;
  int64_t rounded_to_zero = 0;
  uint64_t bytes_before = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  std::vector<std::string> notes;
  std::vector<std::string> warnings;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "weight");
    v("method", method, "methods applied, in order, joined by '+'; empty: only stored anew");
    v("pattern", pattern, "unstructured, keep N of M, or empty");
    v("requested_sparsity", requested_sparsity, "fraction of zeros asked for");
    v("allocated_sparsity", allocated_sparsity,
      "what the recipe's allocation gave the weight; N:M rounds it to requested_sparsity");
    v("sparsity", sparsity,
      "1 - nonzeros / (rows * cols); below 0 where low-rank factors add more than was pruned");
    v("rows", rows, "output features");
    v("cols", cols, "input features");
    v("nonzeros", nonzeros, "stored values that are not zero, low-rank factors included");
    v("calibration_tokens", calibration_tokens,
      "tokens that its input statistics were gathered over; 0 also when no step needed any");
    v("dead_columns", dead_columns,
      "inputs that were zero in all of the calibration; sparsegpt zeroes their weights");
    v("damping", damping, "of the Hessian, that was used");
    v("relative_error", relative_error,
      "|X W'^T - X W^T|^2 / |X W^T|^2 on the calibration inputs, stored against original weight");
    v("spec", spec, "format it is stored in");
    v("values", values, "stored values: f32, f16, bf16, i8, i4 or u4");
    v("rank", rank,
      "of the low-rank product that is stored with or instead of the weight; 0: none");
    v("rounded", rounded, "weights that BF16 storage rounded (source of more precision)");
    v("rounded_to_zero", rounded_to_zero,
      "zeros that a quantizer made of weights that were not pruned; they count in sparsity. 0 "
      "where "
      "one step prunes and quantizes");
    v("bytes_before", bytes_before, "bytes of the weight in the source");
    v("bytes", bytes, "bytes of the stored weight");
    v("seconds", seconds, "spent on this weight");
    v("notes", notes, "what methods tell of their work: iterations, objective");
    v("warnings", warnings, "what the user should know of this weight");
  }
};

struct StructureBlockReport {
  int64_t block = 0;
  bool kept = true;
  std::optional<double> score;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t ffn = 0;

  template <class V>
  void Visit(V&& v) {
    v("block", block, "number in the model before the step");
    v("kept", kept, "false: dropped whole");
    v("score", score, "shortgpt: block influence; null for methods that do not score whole blocks");
    v("heads", heads, "query heads left");
    v("kv_heads", kv_heads, "key-value heads left");
    v("ffn", ffn, "feed-forward neurons left");
  }
};

struct StructureReport {
  std::string method;
  uint64_t bytes_before = 0;
  uint64_t bytes = 0;
  std::optional<double> requested_ratio;
  double ratio = 0;
  std::vector<StructureBlockReport> blocks;
  std::vector<std::string> warnings;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("method", method, "structural step");
    v("bytes_before", bytes_before, "tensors of the model before the step");
    v("bytes", bytes, "tensors after it");
    v("requested_ratio", requested_ratio,
      "fraction of the blocks' linear weights to remove; null where the step removes whole blocks");
    v("ratio", ratio, "fraction that was removed");
    v("blocks", blocks, "one entry a block");
    v("warnings", warnings, "what the user should know of this step");
    v("seconds", seconds, "spent on this step, in the run that did it");
  }
};

struct CompressReport {
  std::string model;
  std::string output;
  std::string recipe;
  CalibrationReport calibration;
  std::vector<StructureReport> structure;
  std::vector<LayerReport> layers;
  std::vector<std::string> warnings;
  double sparsity = 0;
  double rounded_to_zero = 0;
  std::string embedding;
  std::string head;
  uint64_t disk_bytes_before = 0;
  uint64_t disk_bytes = 0;
  uint64_t resident_bytes_before = 0;
  uint64_t resident_bytes = 0;
  int64_t resumed_blocks = 0;
  double seconds = 0;
  double seconds_observe = 0;
  double seconds_weights = 0;
  double seconds_advance = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "source directory");
    v("output", output, "directory written");
    v("recipe", recipe, "the recipe with all defaults filled in (JSON, which is YAML)");
    v("calibration", calibration, "what was calibrated on");
    v("structure", structure, "one entry a structural step");
    v("layers", layers, "one entry a weight that was rewritten");
    v("warnings", warnings, "what the user should know, those of the layers included");
    v("sparsity", sparsity, "fraction of zeros in the linear weights of the blocks");
    v("rounded_to_zero", rounded_to_zero,
      "the part of sparsity that quantizers made by rounding: a dense model has some as well");
    v("embedding", embedding, "format that the embedding is stored in");
    v("head", head, "format that the output head is stored in; empty: tied to the embedding");
    v("disk_bytes_before", disk_bytes_before, "weight files of the source");
    v("disk_bytes", disk_bytes, "weight files of the output");
    v("resident_bytes_before", resident_bytes_before, "weights in memory when the source runs");
    v("resident_bytes", resident_bytes, "weights in memory when the output runs");
    v("resumed_blocks", resumed_blocks, "blocks taken over from an interrupted run");
    v("seconds", seconds, "wall clock of this run");
    v("seconds_observe", seconds_observe,
      "of these, running blocks on the calibration text and gathering statistics (Hessians)");
    v("seconds_weights", seconds_weights, "of these, the methods and packing");
    v("seconds_advance", seconds_advance, "of these, running the compressed blocks");
  }
};

// Runs a recipe. Blocks are compressed one after the other, each on the inputs that the compressed
// blocks before it produce; memory is bounded by one block. The output directory appears only when
// it is whole; an interrupted run (error, cancellation, crash) leaves "<output>.partial", which a
// later run with the same model, recipe and calibration continues after its last finished block.
// The report is also saved as harrow_report.json in the output. Errors: kInvalidArgument for
// recipes and flags, kNumerical for a layer that cannot be compressed as asked (NaN, failed
// factorization), kCancelled.
Result<CompressReport> Compress(const CompressOptions& options, const RunControl* control);

struct ExportOptions {
  std::string model;
  std::string output;
  std::string dtype = "auto";
  bool random_weights = false;
  bool overwrite = false;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "Hugging Face directory, usually made by Harrow");
    v("output", output, "directory to write, or the file with --to gguf");
    v("dtype", dtype,
      "hf: auto (bf16 where that is exact for every weight, else f32), f32, bf16 (an error if "
      "inexact); gguf: auto (bf16), f32, f16, bf16, q8_0, q4_0, all rounded to nearest");
    v("random_weights", random_weights,
      "gguf: random weights in the shape of the directory's config.json, for measuring speed");
    v("overwrite", overwrite, "replace an existing output");
  }
};

struct ExportReport {
  std::string model;
  std::string output;
  std::string dtype;
  int64_t tensors = 0;
  double sparsity = 0;
  std::vector<std::string> kept_f16;
  uint64_t disk_bytes = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "source directory");
    v("output", output, "directory or file written");
    v("dtype", dtype, "of the matrices");
    v("tensors", tensors, "tensors written");
    v("sparsity", sparsity, "fraction of zeros in the weights that were packed");
    v("kept_f16", kept_f16,
      "gguf: matrices in f16, because their rows are no multiple of the 32 values of a block");
    v("disk_bytes", disk_bytes, "weight files of the output");
    v("seconds", seconds, "wall clock");
  }
};

// Writes a compressed model as an ordinary dense directory whose weights equal, bit for bit, the
// values that Harrow's kernels compute with.
Result<ExportReport> ExportDense(const ExportOptions& options, const RunControl* control);

// Writes a model, compressed or not, as one GGUF file that llama.cpp runs as architecture "llama":
// dense, with zeros where weights were pruned. The file appears only when it is whole; memory is
// bounded by one block. Unsupported for what llama.cpp's graph or tokenizers lack: activations
// other than SiLU, blocks of different sizes, other tokenizers. docs/formats/gguf.md.
Result<ExportReport> ExportGguf(const ExportOptions& options, const RunControl* control);

}  // namespace harrow

#endif  // HARROW_COMPRESS_H_
