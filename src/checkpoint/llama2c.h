// The float32 checkpoint files of llama2.c. docs/formats/llama2c.md.
#ifndef HARROW_CHECKPOINT_LLAMA2C_H_
#define HARROW_CHECKPOINT_LLAMA2C_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace harrow {

struct Llama2cTensor {
  std::string name;                  // as Hugging Face calls it
  Shape shape;                       // float32, row-major
  std::span<const std::byte> bytes;  // into the file; not aligned
  int64_t rope_heads = 0;            // wq, wk: heads whose rows are interleaved pairs; 0: others
};

struct Llama2cFile {
  int32_t version = 0;  // 0 or 1
  int64_t dim = 0;
  int64_t hidden_dim = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t vocab = 0;
  int64_t max_context = 0;  // tokens
  bool shared_head = false;
  std::vector<Llama2cTensor> tensors;  // ordered by layer; embedding, final norm and head come last
};

// Parses the header and lays out the tensors; the file's size must be exactly that of its header.
// `where` names the file in errors. The parser that is fuzzed.
Result<Llama2cFile> ParseLlama2c(std::span<const std::byte> file, std::string_view where);

// A copy of the tensor (rope_heads > 0) with the rows of each head reordered from interleaved pairs
// (x0, y0, x1, y1, ...), which llama2.c rotates, to halves (x0, x1, ..., y0, y1, ...), which
// Hugging Face rotates. Source: transformers, convert_llama_weights_to_hf.py, permute().
std::shared_ptr<const std::byte> InterleavedToHalves(const Llama2cTensor& tensor);

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_LLAMA2C_H_
