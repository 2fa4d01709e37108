// The seams of the forward pass: who observes it, and where keys and values live.
#ifndef HARROW_MODEL_HOOKS_H_
#define HARROW_MODEL_HOOKS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/kv_block.h"

namespace harrow {

// Sees the input of linear layers; calibration plugs in here. Called on the thread that runs the
// forward pass.
class Observer {
 public:
  virtual ~Observer() = default;
  // `name` is the weight's name ("model.layers.3.mlp.down_proj.weight"); x is [m, k] float32,
  // contiguous, valid only during the call. Layers that share an input (q, k, v; gate, up) are
  // reported one after the other.
  virtual void OnLinearInput(std::string_view name, const float* x, int64_t m, int64_t k) = 0;
};

// Keys and values of one sequence. Owned by the caller; one per sequence.
class KvStore {
 public:
  virtual ~KvStore() = default;
  // Makes room for positions [0, tokens); false when that exceeds the capacity. What is stored
  // stays where it is, but tables of blocks from layer() hold only until the next call.
  virtual bool Reserve(int64_t tokens) = 0;
  virtual KvView layer(int32_t index) const = 0;
};

}  // namespace harrow

#endif  // HARROW_MODEL_HOOKS_H_
