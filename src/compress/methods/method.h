// What a compression method is: an object made from one step of a recipe that rewrites one linear
// weight at a time. A method knows nothing of models, files or other layers.
#ifndef HARROW_COMPRESS_METHODS_METHOD_H_
#define HARROW_COMPRESS_METHODS_METHOD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/run_control.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "compress/option_reader.h"
#include "compress/statistics.h"
#include "formats/linear_weight.h"

namespace harrow {

// Keep `keep` of every `of` consecutive inputs.
struct NmPattern {
  int32_t keep = 0;
  int32_t of = 0;
  bool operator==(const NmPattern&) const = default;
};

// Tiles of rows x cols weights that are kept or pruned whole. 16x1 is the vector pattern: 16
// outputs that share one input.
struct BlockShape {
  int32_t rows = 0;
  int32_t cols = 0;
  bool operator==(const BlockShape&) const = default;
};

// Where zeros may stand: anywhere when neither is set; at most one is.
struct Pattern {
  std::optional<NmPattern> nm;
  std::optional<BlockShape> block;
  bool operator==(const Pattern&) const = default;
};

// What a method does with the low-rank product of a weight (LayerWork::low_rank).
enum class LowRankUse : uint8_t {
  kNone,
  kReplaces,   // the weight becomes the product alone
  kSplitsOff,  // w becomes the residual, which later steps compress
  kCorrects,   // the product makes up for what earlier steps did to w; also after a quantizer
};

// B A of `rank`, made of BF16 numbers, in which it is stored.
struct LowRankProduct {
  int64_t rank = 0;
  std::vector<float> a;   // [rank, cols]
  std::vector<float> b;   // [rows, rank]
  bool residual = false;  // false: w is zero and not stored
};

// How a quantizer wants a weight stored.
struct Quantization {
  ValueType values = ValueType::kI8;  // a quantized one
  int32_t group = 0;                  // inputs that share a scale
  // That LayerWork::w lies on, [rows, cols] like it; null: round to nearest (RtnGrid) when stored.
  std::shared_ptr<const QuantGrid> grid;
};

// Which orders of a weight's inputs cost nothing at run time: those within each `width` consecutive
// inputs, of which `shared` after one another must take the same order. width * shared divides the
// number of inputs.
struct InputRuns {
  int64_t width = 0;
  int64_t shared = 1;
};

// A new order of a weight's inputs.
struct InputOrder {
  std::vector<int32_t> order;  // new input j was input order[j]; empty: all stay where they are
  double kept_before = 0;      // sums of the scores that the pattern leaves
  double kept_after = 0;
  std::string obstacle;  // why no order was looked for; empty: one was
};

// One linear weight on its way through the steps of a recipe.
struct LayerWork {
  std::string name;
  int64_t rows = 0;                        // output features
  int64_t cols = 0;                        // input features
  std::vector<float> w;                    // [rows, cols], finite
  std::vector<uint8_t> pruned;             // [rows, cols], 1: fixed at zero by an earlier step
  std::optional<LowRankProduct> low_rank;  // the weight is w + B A
  std::vector<float> original;             // [rows, cols], w before the first step; empty unless
                                           // a step of the layer needs_original()
  InputStatistics* statistics = nullptr;   // null when no step of the layer needs them
  ThreadPool* pool = nullptr;
  const RunControl* control = nullptr;  // may be null
  // What an allocator gave this layer in place of the sparsity that the step asks for.
  std::optional<double> allocated_sparsity;

  // What methods report.
  Pattern pattern;  // that the zeros keep to
  std::optional<double> requested_sparsity;
  int64_t dead_columns = 0;
  std::optional<double> damping;             // that was used
  std::optional<Quantization> quantization;  // none: stored as floating point
  std::vector<std::string> notes;  // what a step did, one text a step: "alps: 63 iterations, ..."
  std::vector<std::string> warnings;

  bool Cancelled() const { return control != nullptr && control->Cancelled(); }
};

class BlockMethod;      // compress/block_method.h
struct SparsityTarget;  // selection.h

class Method {
 public:
  virtual ~Method() = default;
  virtual StatisticsNeed needs() const = 0;
  // Decides how the weight is stored, so that no other step may follow on the same weight.
  virtual bool quantizes() const = 0;
  // False: only says how to store, and may be given a layer without w and pruned.
  virtual bool rewrites() const { return true; }
  // At most one step of a weight may be other than kNone; none may follow one that replaces or
  // corrects.
  virtual LowRankUse low_rank() const { return LowRankUse::kNone; }
  // Whether LayerWork::original must be filled.
  virtual bool needs_original() const { return false; }
  // How much the method prunes, where that is for an allocator to share out (docs/recipes.md);
  // null: not.
  virtual const SparsityTarget* target() const { return nullptr; }
  // Needs a mask that an earlier step has left.
  virtual bool refines_mask() const { return false; }
  // Whether OrderInputs is to be asked, before any step, how the inputs should be ordered.
  virtual bool orders_inputs() const { return false; }
  virtual Result<InputOrder> OrderInputs(const LayerWork& /*layer*/,
                                         const InputRuns& /*runs*/) const {
    return InputOrder();
  }
  // Whether InputScales is to be asked, before any step, how the inputs should be scaled.
  virtual bool scales_inputs() const { return false; }
  // Factors [cols] > 0 for the inputs' weights, given all layers that share the input, unscaled.
  virtual Result<std::vector<double>> InputScales(
      const std::vector<const LayerWork*>& /*layers*/) const {
    return std::vector<double>();
  }
  // Whether weights outside the blocks, embedding and head, are meant where no `targets` are given.
  virtual bool includes_embedding() const { return false; }
  // Not null: the step works on whole blocks after all others, by this, and Apply() is not called.
  virtual const BlockMethod* block_method() const { return nullptr; }
  // Whether a weight of this width can be compressed as asked; called before any work starts.
  virtual Status Check(int64_t rows, int64_t cols) const = 0;
  // Rewrites layer->w and layer->pruned. On failure the layer is left in an unspecified state.
  virtual Status Apply(LayerWork* layer) const = 0;
};

struct MethodInfo {
  std::string_view name;
  // Reads the method's own keys; mistakes are left in the reader.
  std::unique_ptr<Method> (*make)(OptionReader* options);
};
std::span<const MethodInfo> AllMethods();
const MethodInfo* FindMethod(std::string_view name);  // null when there is none

}  // namespace harrow

#endif  // HARROW_COMPRESS_METHODS_METHOD_H_
