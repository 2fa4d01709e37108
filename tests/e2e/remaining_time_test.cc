#include "harrow/remaining_time.h"

#include <gtest/gtest.h>

namespace harrow::tools {
namespace {

TEST(RemainingTime, NothingBeforeThereIsABasis) {
  RemainingTime remaining;
  EXPECT_FALSE(remaining.Update(0, 100, 50).has_value());
  EXPECT_FALSE(remaining.Update(0, 100, 80).has_value());  // nothing done
  EXPECT_FALSE(RemainingTime().Update(7, 100, 50).has_value());
  RemainingTime quick;
  quick.Update(0, 100, 50);
  EXPECT_FALSE(quick.Update(10, 100, 50.5).has_value());  // too soon
  EXPECT_EQ(quick.Update(10, 100, 51), 9.0);
  EXPECT_FALSE(quick.Update(100, 100, 60).has_value());  // done
}

// Resumed work and later steps of one count begin above 0.
TEST(RemainingTime, CountsFromWhereItBegan) {
  RemainingTime remaining;
  remaining.Update(80, 100, 10);
  EXPECT_EQ(remaining.Update(81, 100, 12), 2.0 * 19);
  EXPECT_EQ(remaining.Update(90, 100, 20), 10.0);
}

TEST(RemainingTime, AnotherCountStartsAnew) {
  RemainingTime remaining;
  remaining.Update(0, 10, 0);
  remaining.Update(10, 10, 1000);
  EXPECT_FALSE(remaining.Update(0, 10, 1000).has_value());  // the same total again
  EXPECT_EQ(remaining.Update(5, 10, 1010), 10.0);
  EXPECT_FALSE(remaining.Update(6, 30, 1010).has_value());
  EXPECT_EQ(remaining.Update(8, 30, 1012), 22.0);
}

}  // namespace
}  // namespace harrow::tools
