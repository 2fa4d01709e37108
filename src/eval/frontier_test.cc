#include "eval/frontier.h"

#include <cmath>

#include <gtest/gtest.h>

namespace harrow {
namespace {

using Indices = std::vector<std::vector<size_t>>;

TEST(Frontier, DominatedMeansNoBetterAndSomewhereWorse) {
  //                                       0       1       2       3       4
  EXPECT_EQ(Dominators({{1, 4}, {2, 2}, {3, 2}, {4, 1}, {4, 4}}),
            (Indices{{}, {}, {1}, {}, {0, 1, 2, 3}}));
}

TEST(Frontier, EqualPointsDoNotDominateEachOther) {
  EXPECT_EQ(Dominators({{1, 1}, {1, 1}, {1, 2}}), (Indices{{}, {}, {0, 1}}));
  EXPECT_EQ(Dominators({}), Indices{});
}

TEST(Frontier, NoFigureNeitherDominatesNorIsDominated) {
  EXPECT_EQ(Dominators({{NAN, 1}, {1, NAN}, {2, 2}, {1, 1}}), (Indices{{}, {}, {3}, {}}));
}

StudyPoint Point(const char* name, const char* kind, bool sparse, uint64_t bytes, double decode,
                 double kl, double bits) {
  StudyPoint point;
  point.name = name;
  point.kind = kind;
  point.sparse = sparse;
  point.bytes_per_token = bytes;
  point.decode_time_ratio = decode;
  point.prefill_time_ratio = 1;
  point.kl = kl;
  point.bits_per_weight = bits;
  return point;
}

TEST(Frontier, MarksEachCostByItself) {
  std::vector<StudyPoint> points = {Point("dense", "dense", false, 100, 1, 0, 16),
                                    Point("a", "recipe", true, 50, 1.2, 0.1, 8),
                                    Point("b", "recipe", true, 60, 0.8, 0.2, 9)};
  MarkDominated(&points);
  EXPECT_EQ(points[1].dominated_bytes, std::vector<std::string>{});
  EXPECT_EQ(points[2].dominated_bytes, std::vector<std::string>{"a"});
  EXPECT_EQ(points[1].dominated_decode, std::vector<std::string>{"dense"});
  EXPECT_EQ(points[2].dominated_decode, std::vector<std::string>{});
  EXPECT_EQ(points[2].dominated_prefill, (std::vector<std::string>{"dense", "a"}));
}

bool Says(const std::vector<std::string>& sentences, const std::string& part) {
  for (const std::string& sentence : sentences) {
    if (sentence.find(part) != std::string::npos) return true;
  }
  return false;
}

TEST(Frontier, SaysWhetherSparseBeatsDenseQuantized) {
  const StudyPoint int8 = Point("dense-int8", "baseline", false, 50, 0.5, 0.01, 8.25);
  // Cheaper, and no more KL: yes in bytes; slower: no in decode.
  std::vector<std::string> verdicts =
      JudgeSparse({int8, Point("s", "recipe", true, 40, 0.6, 0.01, 6)});
  EXPECT_TRUE(Says(verdicts, "bytes a token: yes, s costs 0.800 of it")) << verdicts[0];
  EXPECT_TRUE(Says(verdicts, "decode time: no; no sparse recipe costs less")) << verdicts[0];
  // Cheaper at more KL is not a win.
  verdicts = JudgeSparse({int8, Point("s", "recipe", true, 40, 0.6, 0.02, 6)});
  EXPECT_TRUE(Says(verdicts, "bytes a token: no; the best sparse recipe that costs less (s, 0.800"))
      << verdicts[0];
  // Half the weights gone, and yet more bits than dense INT4.
  const StudyPoint int4 = Point("dense-int4", "baseline", false, 25, 0.4, 0.05, 4.25);
  verdicts = JudgeSparse({int4, Point("s50i8", "recipe", true, 33, 0.6, 0.02, 5.25)});
  EXPECT_TRUE(Says(verdicts, "no fewer bits a weight than dense-int4 (4.250): s50i8 (5.250"));
  EXPECT_EQ(JudgeSparse({int8}).size(), 1u);
}

StudyPoint DensePoint(const char* name, bool quantized, bool smaller, uint64_t bytes, double kl) {
  StudyPoint point = Point(name, "recipe", false, bytes, 0.5, kl, 4.25);
  point.quantized = quantized;
  point.smaller = smaller;
  return point;
}

TEST(Frontier, HoldsSparseAgainstTheStudysOwnDensePoints) {
  const StudyPoint int4 = Point("dense-int4", "baseline", false, 25, 0.5, 0.05, 4.25);
  const StudyPoint sparse = Point("s", "recipe", true, 24, 0.6, 0.05, 4.1);
  // A better dense quantizer than the one that is always there is a point to beat itself.
  const StudyPoint gptq = DensePoint("gptq-int4", true, false, 23, 0.03);
  std::vector<std::string> verdicts = JudgeSparse({int4, gptq, sparse});
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_TRUE(Says(verdicts,
                   "yes, s costs 0.960 of it at a KL of 0.05000 against 0.05000, but "
                   "gptq-int4 (dense quantized) costs 0.920 of it at a KL of 0.03000"))
      << verdicts[0];
  EXPECT_TRUE(Says({verdicts[1]}, "beat gptq-int4 (dense quantized, 4.250 bits a weight)"));
  EXPECT_TRUE(Says({verdicts[1]}, "bytes a token: no; no sparse recipe costs less"));
  // So is a smaller dense model, which is called that; but not one that another makes needless.
  verdicts = JudgeSparse({int4, DensePoint("flap", false, true, 20, 0.04),
                          DensePoint("shortgpt", false, true, 21, 0.06), sparse});
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_TRUE(Says({verdicts[1]}, "beat flap (smaller dense, "));
  // Zeros decide about the name.
  EXPECT_STREQ(FormOf(sparse), "sparse");
  EXPECT_STREQ(FormOf(gptq), "dense quantized");
}

}  // namespace
}  // namespace harrow
