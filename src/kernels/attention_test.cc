// Every tier and element type against float64: group sizes, tails of head_dim and of keys, start
// offsets, chunks, lists of blocks.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/float16.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/testing.h"
#include "tier_test.h"

namespace harrow {
namespace {

using testing::kKvTypes;

constexpr double kEps = 0x1p-24;

struct Case {
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  int64_t start;
  int64_t m;
};

// What a stored row of head_dim values stands for, and the step of its integers.
struct Stored {
  std::vector<double> values;
  double step = 0;
};

Stored StoredRow(KvType type, const float* x, int32_t head_dim) {
  Stored row;
  float largest = 0;
  for (int32_t d = 0; d < head_dim; ++d)
    largest = std::max(largest, std::fabs(x[d]));
  row.step = largest / 127.0f;
  for (int32_t d = 0; d < head_dim; ++d) {
    switch (type) {
      case KvType::kF32: row.values.push_back(x[d]); break;
      case KvType::kBf16: row.values.push_back(Bf16ToF32(F32ToBf16(x[d]))); break;
      case KvType::kI8: row.values.push_back(std::nearbyint(x[d] * (127.0f / largest)) * row.step);
    }
  }
  return row;
}

// A cache whose blocks lie in memory in random order and hold nothing but NaN before they are
// packed, and a problem on it.
struct Problem {
  Case c;
  std::vector<float> q, k, v, out;  // k, v [start + m, kv_heads * head_dim]
  AlignedArray<std::byte> memory;
  std::vector<std::byte*> table;
  std::vector<std::vector<int32_t>> lists;
  std::vector<BlockList> visit;
  AttentionProblem p;

  Problem(const Case& shape, KvType type, uint64_t seed, double query_scale) : c(shape) {
    Rng rng(seed);
    const auto normal = [&rng](int64_t count, double scale) {
      std::vector<float> values(static_cast<size_t>(count));
      for (float& f : values)
        f = static_cast<float>(rng.Normal() * scale);
      return values;
    };
    const int64_t kv_width = int64_t{c.kv_heads} * c.head_dim;
    q = normal(c.m * kv_width * c.group, query_scale);
    k = normal((c.start + c.m) * kv_width, 1);
    v = normal((c.start + c.m) * kv_width, 1);
    out.assign(q.size() + 1, 42.0f);

    const KvLayout layout(type, c.head_dim);
    const int64_t stride = (c.start + c.m - 1) / kKvBlockTokens + 2;
    const int64_t count = stride * c.kv_heads;
    memory = AlignedArray<std::byte>(static_cast<uint64_t>(count * layout.block_bytes));
    std::memset(memory.data(), 0xff, memory.size());
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), int64_t{0});
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(rng.Below(static_cast<int64_t>(i)))]);
    for (const int64_t at : order)
      table.push_back(memory.data() + at * layout.block_bytes);
    p = {.q = q.data(),
         .kv = {layout, table.data(), stride},
         .out = out.data(),
         .m = c.m,
         .start = c.start,
         .heads = c.kv_heads * c.group,
         .kv_heads = c.kv_heads,
         .scale = 1 / std::sqrt(static_cast<float>(c.head_dim))};
  }

  void Pack(ThreadPool* pool, int64_t chunk = 1 << 20) {
    const int64_t width = int64_t{c.kv_heads} * c.head_dim;
    for (int64_t at = 0; at < c.start + c.m; at += chunk) {
      AppendKv(p.kv, c.kv_heads, at, std::min(chunk, c.start + c.m - at), k.data() + at * width,
               v.data() + at * width, pool);
    }
  }

  // Each KV head and query block visits its own block and a random part of those before.
  void VisitSome(uint64_t seed, double fraction) {
    Rng rng(seed);
    const int64_t first = c.start / kKvBlockTokens;
    const int64_t last = (c.start + c.m - 1) / kKvBlockTokens;
    for (int64_t i = 0; i < c.kv_heads * (last - first + 1); ++i) {
      const int64_t own = first + i % (last - first + 1);
      std::vector<int32_t> list;
      for (int64_t b = 0; b <= own; ++b) {
        if (b == own || rng.Uniform() < fraction) list.push_back(static_cast<int32_t>(b));
      }
      lists.push_back(list);
    }
    for (const std::vector<int32_t>& list : lists)
      visit.push_back({list.data(), static_cast<int64_t>(list.size())});
    p.visit = visit.data();
  }

  bool Visits(int64_t head, int64_t token, int64_t key) const {
    if (visit.empty()) return true;
    const int64_t first = c.start / kKvBlockTokens;
    const int64_t count = (c.start + c.m - 1) / kKvBlockTokens - first + 1;
    const std::vector<int32_t>& list =
        lists[static_cast<size_t>(head * count + (c.start + token) / kKvBlockTokens - first)];
    return std::find(list.begin(), list.end(), key / kKvBlockTokens) != list.end();
  }
};

// Compares with float64 on the stored keys and values. With weights w_j = exp(s_j), p_j = w_j / sum
// and errors e_j of the weights relative to them, the output errs by at most
//   sum_j p_j e_j (|v_j| + |out|) / (1 - sum_j p_j e_j).
// A score of K products errs by ds = (K + 6) eps sum|q||k| scale (three roundings of the query, one
// of the difference to the maximum among them), and by that difference times eps; to it comes the
// rounding of the query: 2^-9 of each product in BF16, half a step of max|q| / (127 * 128) in int8.
// e_j = exp(ds) - 1 + 2.7e-6 or, in float32, 2^-23 for the polynomial + 4 eps; rounding of weights
// to BF16 adds 2^-9 p_j |v_j|, to integers half a step of the largest p_j * scale_j of the block
// each. The sums over n keys add (n + 4) eps, rescaling 4 eps a block, merging 4 eps a span: as a
// relative error of numerator and denominator.
void ExpectNearFloat64(const Problem& made) {
  const AttentionProblem& p = made.p;
  const KvType type = p.kv.layout.type;
  const bool lossy =
      type == KvType::kI8 || (type == KvType::kBf16 && ActiveIsa() == Isa::kAvx512Bf16);
  const int32_t group = made.c.group, dim = made.c.head_dim;
  for (int64_t head = 0; head < p.kv_heads; ++head) {
    std::vector<Stored> keys, values;
    for (int64_t j = 0; j < p.start + p.m; ++j) {
      const int64_t at = (j * p.kv_heads + head) * dim;
      keys.push_back(StoredRow(type, made.k.data() + at, dim));
      values.push_back(StoredRow(type, made.v.data() + at, dim));
    }
    for (int64_t row = 0; row < p.m * group; ++row) {
      const int64_t token = row / group;
      const int64_t place = (token * p.heads + head * group + row % group) * dim;
      const float* q = p.q + place;
      float largest_q = 0;
      for (int32_t d = 0; d < dim; ++d)
        largest_q = std::max(largest_q, std::fabs(q[d]));
      const int64_t count = p.start + token + 1;
      std::vector<double> weight(static_cast<size_t>(count)), error(weight.size());
      double highest = -std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < count; ++j) {
        double sum = 0, products = 0, key_sum = 0;
        for (int32_t d = 0; d < dim; ++d) {
          const double key = keys[static_cast<size_t>(j)].values[static_cast<size_t>(d)];
          sum += q[d] * key;
          products += std::fabs(q[d] * key);
          key_sum += std::fabs(key);
        }
        double ds = (dim + 6) * kEps * products;
        if (type == KvType::kI8) {
          ds += 0.5001 * largest_q / (127 * 128) * key_sum;
        } else if (lossy) {
          ds += 0x1p-9 * products;
        }
        weight[static_cast<size_t>(j)] =
            made.Visits(head, token, j) ? sum * p.scale : -std::numeric_limits<double>::infinity();
        error[static_cast<size_t>(j)] = ds * p.scale;
        highest = std::max(highest, weight[static_cast<size_t>(j)]);
      }
      const double blocks = static_cast<double>(count) / kKvBlockTokens + 1;
      const double sums = kEps * (static_cast<double>(count) + 8 + 5 * blocks);
      double total = 0, mean_error = 0;
      std::vector<double> largest(static_cast<size_t>(blocks) + 1);
      for (int64_t j = 0; j < count; ++j) {
        double& w = weight[static_cast<size_t>(j)];
        double& e = error[static_cast<size_t>(j)];
        if (w == -std::numeric_limits<double>::infinity()) {
          w = e = 0;
          continue;
        }
        e = std::expm1(e + kEps * (highest - w)) + (lossy ? 2.7e-6 : 0x1p-23) + 4 * kEps + sums;
        w = std::exp(w - highest);
        total += w;
      }
      for (int64_t j = 0; j < count; ++j) {
        double& w = weight[static_cast<size_t>(j)];
        w /= total;
        mean_error += w * error[static_cast<size_t>(j)];
        double& most = largest[static_cast<size_t>(j / kKvBlockTokens)];
        most = std::max(most, w * values[static_cast<size_t>(j)].step);
      }
      ASSERT_LT(mean_error, 0.9);
      for (int32_t d = 0; d < dim; ++d) {
        double want = 0, bound = 0;
        for (int64_t j = 0; j < count; ++j) {
          want += weight[static_cast<size_t>(j)] *
                  values[static_cast<size_t>(j)].values[static_cast<size_t>(d)];
        }
        for (int64_t j = 0; j < count; ++j) {
          const Stored& value = values[static_cast<size_t>(j)];
          const double w = weight[static_cast<size_t>(j)];
          const double magnitude = std::fabs(value.values[static_cast<size_t>(d)]);
          bound += w * error[static_cast<size_t>(j)] * (magnitude + std::fabs(want));
          if (type == KvType::kI8 && w > 0) {
            bound += 0.51 * largest[static_cast<size_t>(j / kKvBlockTokens)] / (127 * 128) *
                     (1 + error[static_cast<size_t>(j)]) * magnitude / value.step;
          } else if (lossy) {
            bound += 0x1p-9 * w * magnitude;
          }
        }
        bound = bound / (1 - mean_error) + kEps * std::fabs(want);
        ASSERT_NEAR(p.out[place + d], want, bound)
            << "token " << token << " head " << head * group + row % group << " dim " << d;
      }
    }
  }
  EXPECT_EQ(made.out.back(), 42.0f);
}

class AttentionTier : public testing::TierTest {};
INSTANTIATE_TEST_SUITE_P(Tiers, AttentionTier,
                         ::testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512,
                                           Isa::kAvx512Bf16),
                         testing::TierName);

std::string CaseName(const Case& c, KvType type, int threads) {
  return std::string(KvTypeName(type)) + " kv_heads " + std::to_string(c.kv_heads) + " group " +
         std::to_string(c.group) + " head_dim " + std::to_string(c.head_dim) + " start " +
         std::to_string(c.start) + " m " + std::to_string(c.m) + " threads " +
         std::to_string(threads);
}

TEST_P(AttentionTier, MatchesFloat64) {
  std::vector<Case> cases = {
      {1, 1, 8, 0, 1},      {2, 1, 16, 0, 5},   {1, 2, 2, 3, 4},     {2, 4, 64, 0, 70},
      {2, 8, 32, 100, 1},   {1, 8, 20, 61, 9},  {3, 2, 128, 63, 2},  {1, 4, 18, 0, 130},
      {4, 1, 64, 127, 1},   {1, 3, 80, 64, 66}, {1, 1, 6, 200, 1},   {1, 80, 8, 10, 3},
      {1, 5, 256, 40, 1},   {1, 6, 100, 5, 33}, {1, 7, 48, 190, 12}, {2, 1, 96, 600, 1},
      {1, 4, 128, 1130, 1}, {1, 2, 34, 575, 3},
  };
  for (const auto& [head_dim, group] : testing::kHeadShapes)
    cases.push_back({1, group, head_dim, 70, 2});
  uint64_t seed = 10;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const Case& c : cases) {
      if (threads == 3 && c.start + c.m <= 8 * kKvBlockTokens) continue;  // one span each
      for (const KvType type : kKvTypes) {
        SCOPED_TRACE(CaseName(c, type, threads));
        for (const double query_scale : {1.0, 12.0}) {  // 12: one key takes nearly all the weight
          Problem made(c, type, ++seed, query_scale);
          made.Pack(&pool);
          Attention(made.p, &pool);
          ExpectNearFloat64(made);
        }
      }
    }
  }
}

TEST_P(AttentionTier, SkipsBlocks) {
  ThreadPool pool(3);
  uint64_t seed = 500;
  for (const Case& c : {Case{2, 1, 16, 400, 1}, Case{1, 4, 24, 1500, 2}, Case{2, 3, 16, 90, 200},
                        Case{1, 8, 64, 640, 64}}) {
    for (const KvType type : kKvTypes) {
      for (const double fraction : {0.0, 0.5}) {
        SCOPED_TRACE(CaseName(c, type, 3));
        Problem made(c, type, ++seed, 1.0);
        made.Pack(&pool);
        made.VisitSome(seed, fraction);
        Attention(made.p, &pool);
        ExpectNearFloat64(made);
      }
    }
  }
}

// Tokens in one call or in several, any number of threads: the same bits.
TEST_P(AttentionTier, ChunksAndThreadsDoNotChangeTheResult) {
  constexpr int64_t kTokens = 600;
  for (const KvType type : kKvTypes) {
    SCOPED_TRACE(KvTypeName(type));
    Problem made({1, 3, 24, 0, kTokens}, type, 99, 1.0);
    ThreadPool one(1), three(3);
    made.Pack(&one);
    Attention(made.p, &one);
    const std::vector<float> whole = made.out;
    for (const int64_t chunk : {1, 7, 64, 333, 600}) {
      std::memset(made.memory.data(), 0xff, made.memory.size());
      made.Pack(&three, chunk);
      std::fill(made.out.begin(), made.out.end() - 1, -1.0f);
      const int64_t width = int64_t{made.p.heads} * made.c.head_dim;
      for (int64_t begin = 0; begin < kTokens; begin += chunk) {
        if (chunk < 64 && begin % 192 != 0 && begin < 580) continue;
        AttentionProblem part = made.p;
        part.q += begin * width;
        part.out += begin * width;
        part.start = begin;
        part.m = std::min(chunk, kTokens - begin);
        Attention(part, &three);
        for (int64_t i = begin * width; i < (begin + part.m) * width; ++i)
          ASSERT_EQ(made.out[static_cast<size_t>(i)], whole[static_cast<size_t>(i)]) << chunk;
      }
    }
  }
}

TEST_P(AttentionTier, NanShowsInTheOutput) {
  ThreadPool pool(1);
  for (const KvType type : kKvTypes) {
    for (const bool in_key : {true, false}) {
      SCOPED_TRACE(::testing::Message() << KvTypeName(type) << (in_key ? " key" : " value"));
      Problem made({1, 2, 16, 0, 70}, type, 5, 1.0);
      (in_key ? made.k : made.v)[65 * 16 + 3] = std::numeric_limits<float>::quiet_NaN();
      made.Pack(&pool);
      Attention(made.p, &pool);
      EXPECT_TRUE(std::isfinite(made.out[63 * 32]));  // in a block of its own
      EXPECT_TRUE(std::isnan(made.out[65 * 32 + 3]));
      EXPECT_TRUE(std::isnan(made.out[69 * 32 + 3]));
      // Packed again from there on, nothing is left of it.
      (in_key ? made.k : made.v)[65 * 16 + 3] = 1;
      AppendKv(made.p.kv, 1, 65, 5, made.k.data() + 65 * 16, made.v.data() + 65 * 16, &pool);
      Attention(made.p, &pool);
      for (const float f : made.out)
        ASSERT_TRUE(std::isfinite(f));
    }
  }
}

TEST_P(AttentionTier, QueryThatIsNotFiniteShowsInItsOwnOutputOnly) {
  ThreadPool pool(1);
  for (const KvType type : kKvTypes) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      SCOPED_TRACE(::testing::Message() << KvTypeName(type) << " " << bad);
      Problem made({1, 2, 16, 0, 70}, type, 5, 1.0);
      made.q[65 * 32 + 3] = bad;
      made.Pack(&pool);
      Attention(made.p, &pool);
      for (size_t i = 0; i < made.out.size(); ++i)
        ASSERT_EQ(std::isnan(made.out[i]), i / 16 == 65 * 2) << i;
    }
  }
}

// More states than are kept at a time.
TEST_P(AttentionTier, ThreadsDoNotChangeABitOfALongContext) {
  if (ActiveIsa() == Isa::kScalar) GTEST_SKIP() << "the reference has no spans";
  ThreadPool one(1);
  ThreadPool two(2);
  Problem made({2, 8, 64, 32768, 40}, KvType::kBf16, 5, 1.0);
  made.Pack(&two, 4096);
  Attention(made.p, &one);
  const std::vector<float> expected = made.out;
  std::fill(made.out.begin(), made.out.end() - 1, 0.0f);
  Attention(made.p, &two);
  EXPECT_EQ(0, std::memcmp(expected.data(), made.out.data(), expected.size() * sizeof(float)));
}

TEST(KvBlock, StoresWhatItSays) {
  ThreadPool pool(2);
  for (const KvType type : kKvTypes) {
    for (const int32_t head_dim : {1, 3, 16, 70}) {
      SCOPED_TRACE(::testing::Message() << KvTypeName(type) << " " << head_dim);
      Problem made({2, 1, head_dim, 0, 150}, type, 7, 1.0);
      made.Pack(&pool, 31);
      const KvView& view = made.p.kv;
      for (int64_t j = 0; j < 150; ++j) {
        for (int64_t head = 0; head < 2; ++head) {
          const size_t at = static_cast<size_t>((j * 2 + head) * head_dim);
          const Stored key = StoredRow(type, made.k.data() + at, head_dim);
          const Stored value = StoredRow(type, made.v.data() + at, head_dim);
          const std::byte* block = view.block(head, j / kKvBlockTokens);
          for (int64_t d = 0; d < head_dim; ++d) {
            // An integer times its scale is rounded once.
            const double tolerance = type == KvType::kI8 ? 4 * kEps : 0;
            const size_t i = static_cast<size_t>(d);
            const float got_key = KvKey(view.layout, block, j % kKvBlockTokens, d);
            const float got_value = KvValue(view.layout, block, j % kKvBlockTokens, d);
            ASSERT_NEAR(got_key, key.values[i], tolerance * std::fabs(key.values[i]));
            ASSERT_NEAR(got_value, value.values[i], tolerance * std::fabs(value.values[i]));
          }
        }
      }
    }
  }
}

TEST(KvBlock, Names) {
  for (const KvType type : kKvTypes)
    EXPECT_EQ(ParseKvType(KvTypeName(type)), type);
  EXPECT_EQ(ParseKvType("f16"), std::nullopt);
}

// Rotation by an angle that is exact to float32 (the double product of the two), with cos and sin
// rounded once: three roundings of |a| + |b|.
TEST_P(AttentionTier, RopeMatchesFloat64) {
  Rng rng(6);
  for (const int32_t head_dim : {2, 6, 16, 34, 64, 128}) {
    const int32_t heads = 3, half = head_dim / 2;
    const int64_t m = 4, start = 100000;
    std::vector<float> inv_freq(static_cast<size_t>(half));
    for (int32_t i = 0; i < half; ++i)
      inv_freq[static_cast<size_t>(i)] = static_cast<float>(std::pow(10000.0, -2.0 * i / head_dim));
    std::vector<float> x(static_cast<size_t>(m * heads * head_dim));
    for (float& f : x)
      f = static_cast<float>(rng.Normal());
    std::vector<float> y = x, cosines(static_cast<size_t>(m * half)), sines(cosines.size());
    RopeAngles(m, start, inv_freq.data(), half, 1.5f, cosines.data(), sines.data());
    ApplyRope(y.data(), m, heads, head_dim, cosines.data(), sines.data());
    for (int64_t row = 0; row < m * heads; ++row) {
      for (int32_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(start + row / heads) *
                             static_cast<double>(inv_freq[static_cast<size_t>(i)]);
        const double a = x[static_cast<size_t>(row * head_dim + i)];
        const double b = x[static_cast<size_t>(row * head_dim + half + i)];
        const double bound = 3 * kEps * 1.5 * (std::fabs(a) + std::fabs(b));
        EXPECT_NEAR(y[static_cast<size_t>(row * head_dim + i)],
                    1.5 * (a * std::cos(angle) - b * std::sin(angle)), bound);
        EXPECT_NEAR(y[static_cast<size_t>(row * head_dim + half + i)],
                    1.5 * (b * std::cos(angle) + a * std::sin(angle)), bound);
      }
    }
  }
}

}  // namespace
}  // namespace harrow
