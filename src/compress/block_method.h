// Methods that work on a whole block once each of its linears has been compressed.
#ifndef HARROW_COMPRESS_BLOCK_METHOD_H_
#define HARROW_COMPRESS_BLOCK_METHOD_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/run_control.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "model/config.h"

namespace harrow {

// A linear of the block, in float32.
struct BlockLinear {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> original;  // [rows, cols], before the first step
  std::vector<float> w;         // [rows, cols], as stored
  // Its w may change where it is not 0. False: not a target, or quantized.
  bool trainable = false;
  std::vector<std::string> notes;  // to report with it
};

struct BlockWork {
  const ModelConfig* config = nullptr;
  const std::vector<float>* attention_norm = nullptr;  // [hidden]
  const std::vector<float>* ffn_norm = nullptr;        // [hidden]
  std::array<BlockLinear, 7> linears;                  // q k v o gate up down
  int64_t sequences = 0;
  int64_t length = 0;  // tokens a sequence
  // Sequence s of what the compressed blocks before this one produce, [length, hidden].
  std::function<Status(int64_t s, float* hidden)> read_input;
  ThreadPool* pool = nullptr;
  const RunControl* control = nullptr;  // may be null
  std::string folder;                   // for temporary files

  std::vector<std::string> warnings;

  bool Cancelled() const { return control != nullptr && control->Cancelled(); }
};

class BlockMethod {
 public:
  virtual ~BlockMethod() = default;
  // Rewrites `w` of the trainable linears; zeros stay zero. On failure the work is left in an
  // unspecified state.
  virtual Status ApplyToBlock(BlockWork* block) const = 0;
};

}  // namespace harrow

#endif  // HARROW_COMPRESS_BLOCK_METHOD_H_
