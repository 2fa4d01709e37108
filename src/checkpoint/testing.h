// Helpers of the checkpoint tests: files made by hand, whole or broken.
#ifndef HARROW_CHECKPOINT_TESTING_H_
#define HARROW_CHECKPOINT_TESTING_H_

#include <cstdint>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "base/status.h"
#include "tensor/tensor.h"
#include "test_data.h"

namespace harrow::testing {

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline void WriteBytes(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.good()) << path;
}

// Changes one byte of a file where it lies.
inline void PatchByte(const std::string& path, size_t offset, char byte) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
  file.close();
  ASSERT_TRUE(file.good()) << path;
}

inline std::string ReadBytes(const std::string& path) {
  auto text = ReadFile(path, uint64_t{1} << 30);
  EXPECT_TRUE(text.ok()) << text.status().ToString();
  return text.ok() ? *text : "";
}

// The bytes of a safetensors file with this header, followed by `data`.
inline std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file.append(header).append(data);
}

// A float32 tensor that owns its values.
inline TensorView FloatTensor(Shape shape, std::vector<float> values) {
  auto owned = std::make_shared<const std::vector<float>>(std::move(values));
  return {DType::kF32, std::move(shape), reinterpret_cast<const std::byte*>(owned->data()), owned};
}

// An error with this code whose message has each of the fragments.
inline void ExpectError(const Status& status, StatusCode code,
                        std::initializer_list<std::string_view> fragments) {
  EXPECT_EQ(StatusCodeName(status.code()), StatusCodeName(code)) << status.ToString();
  for (const std::string_view fragment : fragments) {
    EXPECT_NE(status.message().find(fragment), std::string::npos)
        << "no \"" << fragment << "\" in: " << status.ToString();
  }
  EXPECT_LT(status.message().size(), 2000u);
}

// The smallest config.json that parses; `extra` is appended inside the object.
inline std::string ConfigText(std::string_view extra = "") {
  return R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
 "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 32,
 "max_position_embeddings": 128)" +
         std::string(extra) + "}";
}

}  // namespace harrow::testing

#endif  // HARROW_CHECKPOINT_TESTING_H_
