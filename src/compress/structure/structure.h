// What a structural step is: an object made from one entry of a recipe's `structure` that watches
// the dense model run over the calibration text and decides which blocks, attention heads and
// feed-forward neurons leave it. It knows nothing of files; structure_pass.h writes the model.
#ifndef HARROW_COMPRESS_STRUCTURE_STRUCTURE_H_
#define HARROW_COMPRESS_STRUCTURE_STRUCTURE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "compress/option_reader.h"
#include "model/hooks.h"
#include "model/model.h"

namespace harrow {

struct BlockDecision {
  bool dropped = false;
  std::optional<double> score;  // that decided about the block as a whole
  // What stays, ascending. Empty `kv_groups`: all of both. A KV group is one key / value head with
  // the query heads that read it.
  std::vector<int32_t> kv_groups;
  std::vector<int32_t> neurons;
  // Means of the inputs of o_proj and down_proj, all of them: what the removed inputs added to the
  // output on average goes into a bias. Empty: it is lost.
  std::vector<double> o_means;
  std::vector<double> down_means;
  std::vector<std::string> warnings;
};

// One pass over the calibration text. Blocks are visited in order, each on all sequences; as an
// Observer it sees the inputs of the linears.
class StructureRun : public Observer {
 public:
  void OnLinearInput(std::string_view, const float*, int64_t, int64_t) override {}
  // After each sequence: hidden states [tokens, hidden] before and after the block.
  virtual Status EndSequence(int32_t, const float*, const float*, int64_t) { return OkStatus(); }
  // After all sequences of a block, which is loaded.
  virtual Status EndBlock(int32_t, const Block&) { return OkStatus(); }
  // After all blocks: one decision each.
  virtual Result<std::vector<BlockDecision>> Decide() = 0;
};

class StructureMethod {
 public:
  virtual ~StructureMethod() = default;
  // Whether the model can be cut as asked; called before any work.
  virtual Status Check(const Model& model) const = 0;
  // Fraction of the blocks' linear weights to remove; none where whole blocks leave.
  virtual std::optional<double> ratio() const { return std::nullopt; }
  // Blocks that leave.
  virtual int64_t dropped_blocks() const { return 0; }
  // `model` outlives the run.
  virtual std::unique_ptr<StructureRun> Start(const Model& model) const = 0;
};

struct StructureInfo {
  std::string_view name;
  // Reads the method's own keys; mistakes are left in the reader.
  std::unique_ptr<StructureMethod> (*make)(OptionReader* options);
};
std::span<const StructureInfo> AllStructureMethods();
const StructureInfo* FindStructureMethod(std::string_view name);  // null when there is none

}  // namespace harrow

#endif  // HARROW_COMPRESS_STRUCTURE_STRUCTURE_H_
