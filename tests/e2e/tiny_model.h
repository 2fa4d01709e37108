// A tiny model directory with random weights and a byte-level tokenizer.
#ifndef HARROW_TESTS_E2E_TINY_MODEL_H_
#define HARROW_TESTS_E2E_TINY_MODEL_H_

#include <cstdint>
#include <string>

namespace harrow::testing {

inline constexpr int64_t kTinyVocab = 257;  // 256 bytes and <s>
inline constexpr int64_t kTinyContext = 64;
inline constexpr int64_t kTinyLinearParams = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3);

// LlamaForCausalLM: hidden 64, FFN 96, 2 layers, 4 heads, 2 KV heads, untied, F32, no eos.
void WriteTinyModel(const std::string& directory, uint64_t seed, bool with_tokenizer = true);

}  // namespace harrow::testing

#endif  // HARROW_TESTS_E2E_TINY_MODEL_H_
