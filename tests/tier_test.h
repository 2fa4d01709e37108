// A test fixture that runs once for each instruction-set tier of this machine.
#ifndef HARROW_TESTS_TIER_TEST_H_
#define HARROW_TESTS_TIER_TEST_H_

#include <string>

#include <gtest/gtest.h>

#include "kernels/isa.h"

namespace harrow::testing {

class TierTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = ActiveIsa();
    if (const Status status = SetIsaLimit(GetParam()); !status.ok()) {
      GTEST_SKIP() << status.ToString();
    }
  }
  void TearDown() override { EXPECT_TRUE(SetIsaLimit(before_).ok()); }

 private:
  Isa before_ = Isa::kScalar;
};

inline std::string TierName(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(IsaName(info.param));
}

}  // namespace harrow::testing

#define HARROW_INSTANTIATE_TIERS(fixture)                                             \
  INSTANTIATE_TEST_SUITE_P(Tiers, fixture,                                            \
                           ::testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512), \
                           ::harrow::testing::TierName)

#endif  // HARROW_TESTS_TIER_TEST_H_
