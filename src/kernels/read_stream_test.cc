#include "kernels/read_stream.h"

#include <gtest/gtest.h>

#include <vector>

namespace harrow {
namespace {

TEST(ReadStream, EveryWordCounts) {
  for (const size_t size : {0, 1, 7, 8, 9, 63, 64, 65}) {
    for (size_t at = 0; at < size; ++at) {
      std::vector<uint64_t> words(size, 1);
      words[at] = uint64_t{1} << 40;
      EXPECT_EQ(ReadStream(words), (uint64_t{1} << 40) | (size > 1 ? 1 : 0))
          << size << " at " << at;
    }
    EXPECT_EQ(ReadStream(std::vector<uint64_t>(size)), 0u);
  }
}

}  // namespace
}  // namespace harrow
