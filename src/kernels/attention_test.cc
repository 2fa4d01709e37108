// Every tier against float64: group sizes, tails of head_dim and of keys, start offsets, chunks.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "tier_test.h"

namespace harrow {
namespace {

constexpr double kEps = 0x1p-24;

struct Case {
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  int64_t start;
  int64_t m;
};

struct Problem {
  std::vector<float> q, k, v, out;
  AttentionProblem p;
};

// Rows past start + m hold NaN: reading one would show.
Problem MakeProblem(const Case& c, uint64_t seed, double query_scale) {
  Rng rng(seed);
  Problem made;
  const int64_t capacity = c.start + c.m + 5;
  const int32_t heads = c.kv_heads * c.group;
  made.q.resize(static_cast<size_t>(c.m * heads * c.head_dim));
  for (float& f : made.q)
    f = static_cast<float>(rng.Normal() * query_scale);
  for (std::vector<float>* cache : {&made.k, &made.v}) {
    cache->assign(static_cast<size_t>(c.kv_heads * capacity * c.head_dim),
                  std::numeric_limits<float>::quiet_NaN());
    for (int32_t h = 0; h < c.kv_heads; ++h) {
      for (int64_t i = 0; i < (c.start + c.m) * c.head_dim; ++i)
        (*cache)[static_cast<size_t>(h * capacity * c.head_dim + i)] =
            static_cast<float>(rng.Normal());
    }
  }
  made.out.assign(made.q.size() + 1, 42.0f);
  made.p = {.q = made.q.data(),
            .k = made.k.data(),
            .v = made.v.data(),
            .out = made.out.data(),
            .m = c.m,
            .start = c.start,
            .capacity = capacity,
            .heads = heads,
            .kv_heads = c.kv_heads,
            .head_dim = c.head_dim,
            .scale = 1 / std::sqrt(static_cast<float>(c.head_dim))};
  return made;
}

// Compares with float64. A score of K = head_dim products has an error of at most
// ds = (K + 2) eps sum|q||k| scale, its maximum as well; weights exp(s - max) are then off by
// 2 ds + 3 eps + eps |s - max| relative, the mixture of n keys by another (n + 2) eps, the
// rescaling between blocks by 5 eps a block; numerator and denominator both: twice.
void ExpectNearFloat64(const Problem& made) {
  const AttentionProblem& p = made.p;
  const int32_t group = p.heads / p.kv_heads;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int32_t h = 0; h < p.heads; ++h) {
      const float* q = p.q + (i * p.heads + h) * p.head_dim;
      const float* k = p.k + (h / group) * p.capacity * p.head_dim;
      const float* v = p.v + (h / group) * p.capacity * p.head_dim;
      const int64_t keys = p.start + i + 1;
      std::vector<double> s(static_cast<size_t>(keys));
      double magnitude = 0, highest = -1e300, lowest = 1e300;
      for (int64_t j = 0; j < keys; ++j) {
        double sum = 0, absolute = 0;
        for (int32_t d = 0; d < p.head_dim; ++d) {
          const double product = static_cast<double>(q[d]) * k[j * p.head_dim + d];
          sum += product;
          absolute += std::fabs(product);
        }
        s[static_cast<size_t>(j)] = sum * p.scale;
        magnitude = std::max(magnitude, absolute * p.scale);
        highest = std::max(highest, s[static_cast<size_t>(j)]);
        lowest = std::min(lowest, s[static_cast<size_t>(j)]);
      }
      double total = 0;
      for (double& w : s)
        total += w = std::exp(w - highest);
      const double relative =
          kEps * (2 * (p.head_dim + 2) * magnitude + 3 + (highest - lowest) +
                  static_cast<double>(keys) + 2 + 5 * (static_cast<double>(keys) / 64 + 1));
      for (int32_t d = 0; d < p.head_dim; ++d) {
        double want = 0, absolute = 0;
        for (int64_t j = 0; j < keys; ++j) {
          want += s[static_cast<size_t>(j)] / total * v[j * p.head_dim + d];
          absolute += s[static_cast<size_t>(j)] / total * std::fabs(v[j * p.head_dim + d]);
        }
        ASSERT_NEAR(p.out[(i * p.heads + h) * p.head_dim + d], want, 2 * relative * absolute)
            << "token " << i << " head " << h << " dim " << d;
      }
    }
  }
  EXPECT_EQ(made.out.back(), 42.0f);
}

class AttentionTier : public testing::TierTest {};
HARROW_INSTANTIATE_TIERS(AttentionTier);

TEST_P(AttentionTier, MatchesFloat64) {
  const Case cases[] = {
      {1, 1, 8, 0, 1},    {2, 1, 16, 0, 5},   {1, 2, 2, 3, 4},    {2, 4, 64, 0, 70},
      {2, 8, 32, 100, 1}, {1, 8, 20, 61, 9},  {3, 2, 128, 63, 2}, {1, 4, 18, 0, 130},
      {4, 1, 64, 127, 1}, {1, 3, 80, 64, 66}, {1, 1, 6, 200, 1},  {1, 80, 8, 10, 3},
  };
  uint64_t seed = 10;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const Case& c : cases) {
      SCOPED_TRACE(::testing::Message()
                   << "kv_heads " << c.kv_heads << " group " << c.group << " head_dim "
                   << c.head_dim << " start " << c.start << " m " << c.m << " threads " << threads);
      for (const double query_scale : {1.0, 12.0}) {  // 12: one key takes nearly all the weight
        Problem made = MakeProblem(c, ++seed, query_scale);
        Attention(made.p, &pool);
        ExpectNearFloat64(made);
      }
    }
  }
}

// Tokens in one call or in several, any number of threads: the same bits.
TEST_P(AttentionTier, ChunksAndThreadsDoNotChangeTheResult) {
  Problem made = MakeProblem({2, 4, 24, 0, 150}, 99, 1.0);
  ThreadPool one(1), three(3);
  Attention(made.p, &one);
  const std::vector<float> whole = made.out;
  for (const int64_t chunk : {1, 7, 64, 149}) {
    std::fill(made.out.begin(), made.out.end() - 1, -1.0f);
    const int64_t width = made.p.heads * made.p.head_dim;
    for (int64_t begin = 0; begin < 150; begin += chunk) {
      AttentionProblem part = made.p;
      part.q += begin * width;
      part.out += begin * width;
      part.start = begin;
      part.m = std::min<int64_t>(chunk, 150 - begin);
      Attention(part, &three);
    }
    EXPECT_EQ(made.out, whole) << chunk;
  }
}

TEST_P(AttentionTier, NanInAKeyShowsInTheOutput) {
  Problem made = MakeProblem({1, 2, 16, 0, 4}, 5, 1.0);
  made.k[2 * 16 + 3] = std::numeric_limits<float>::quiet_NaN();  // key 2
  ThreadPool pool(1);
  Attention(made.p, &pool);
  EXPECT_TRUE(std::isfinite(made.out[1 * 32]));
  EXPECT_TRUE(std::isnan(made.out[2 * 32]));
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
