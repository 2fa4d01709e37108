#include "kernels/rate_probe.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "kernels/memory_roof.h"
#include "tier_test.h"

namespace harrow {
namespace {

class RateProbeTest : public testing::TierTest {};

TEST_P(RateProbeTest, EveryLoopOfTheTierRunsAndEnds) {
  std::set<std::string> names;
  for (const RateProbe& probe : RateProbes()) {
    EXPECT_TRUE(names
                    .insert(std::string(probe.unit) + std::string(probe.precision) +
                            std::string(IsaName(probe.isa)))
                    .second);
    EXPECT_GT(probe.flops, 0);
    if (probe.isa <= ActiveIsa()) probe.run(100);
  }
  EXPECT_EQ(RateProbes().front().isa, Isa::kScalar);
}

// Nothing beyond the span is read: ASan watches.
TEST_P(RateProbeTest, ReadLinesOfAnyNumber) {
  for (const size_t lines : {1, 7, 8, 9, 64}) {
    const AlignedArray<std::byte> memory(lines * 64);
    ReadLines(memory.span(), 3);
  }
}
// With the tier whose only own instruction is the bf16 sum of pairs.
INSTANTIATE_TEST_SUITE_P(Tiers, RateProbeTest,
                         ::testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512,
                                           Isa::kAvx512Bf16),
                         testing::TierName);

TEST(MemoryRoof, ShortProbesStayInTheBuffer) {
  ThreadPool pool(2);
  MemoryRoof roof(&pool);
  for (const uint64_t bytes : {roof.bytes() / 3 + 1, roof.bytes() * 2, uint64_t{1}}) {
    for (int i = 0; i < 5; ++i)
      EXPECT_GT(roof.ProbeGbps(bytes), 0);
  }
}

}  // namespace
}  // namespace harrow
