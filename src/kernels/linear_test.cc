#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "formats/panel.h"
#include "kernels/activation.h"
#include "kernels/linear.h"
#include "kernels/testing.h"

namespace harrow {
namespace {

using testing::AllSpecs;
using testing::RandomWeight;
using testing::RandomX;
using testing::WholeGroups;

using Scratch = std::unique_ptr<LinearScratch, LinearScratchDeleter>;

// x as every kernel of the weight's value type must see it, and the float32 steps a fast kernel
// may take per input besides the product itself.
std::vector<double> RoundedX(const WeightSpec& spec, const std::vector<float>& x, int64_t k) {
  std::vector<double> out(x.begin(), x.end());
  if (spec.values == ValueType::kBf16 ||
      (IsQuantized(spec.values) && QuantizedActivations() == Activations::kBf16)) {
    for (size_t i = 0; i < x.size(); ++i)
      out[i] = static_cast<double>(Bf16ToF32(F32ToBf16(x[i])));
  } else if (IsQuantized(spec.values) && QuantizedActivations() == Activations::kInt8) {
    const int64_t group = ActivationGroup(spec.group);
    std::vector<int8_t> q(static_cast<size_t>(group));
    for (size_t row = 0; row < x.size(); row += static_cast<size_t>(k)) {
      for (int64_t begin = 0; begin < k; begin += group) {
        const int64_t count = std::min(group, k - begin);
        int32_t sum;
        const float scale =
            ActiveRounding().i8(&x[row + static_cast<size_t>(begin)], count, q.data(), &sum);
        for (int64_t i = 0; i < count; ++i) {
          out[row + static_cast<size_t>(begin + i)] =
              static_cast<double>(q[static_cast<size_t>(i)]) * static_cast<double>(scale);
        }
      }
    }
  }
  return out;
}

// |y - exact| of any order of float32 accumulation: each of the K products and sums, and the few
// scalings of a group, is off by at most one rounding of a partial sum that |w||x| bounds.
double Bound(double absolute_sum, int64_t k) {
  return static_cast<double>(k + 8) * 0x1p-24 * absolute_sum + 1e-30;
}

void ExpectProduct(const LinearWeight& weight, const std::vector<float>& x, int64_t m,
                   const std::vector<float>& y, int64_t y_stride) {
  const int64_t k = weight.cols;
  const std::vector<double> rounded = RoundedX(weight.spec, x, k);
  std::vector<float> w(static_cast<size_t>(weight.rows * k));
  UnpackRows(weight, 0, weight.rows, w.data());
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t r = 0; r < weight.rows; ++r) {
      double sum = 0;
      double absolute = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double product = static_cast<double>(w[static_cast<size_t>(r * k + c)]) *
                               rounded[static_cast<size_t>(i * k + c)];
        sum += product;
        absolute += std::fabs(product);
      }
      const double got = static_cast<double>(y[static_cast<size_t>(i * y_stride + r)]);
      ASSERT_NEAR(got, sum, Bound(absolute, k)) << "token " << i << ", row " << r;
    }
  }
}

constexpr float kGuard = -12345.75f;

// Runs one product with y in a strided, guarded buffer and checks all of it.
std::vector<float> RunLinear(const LinearWeight& weight, const std::vector<float>& x, int64_t m,
                             int threads) {
  const int64_t y_stride = weight.rows + 3;
  std::vector<float> y(static_cast<size_t>(m * y_stride), kGuard);
  ThreadPool pool(threads);
  const Scratch scratch(NewLinearScratch());
  const LinearOp op = {&weight, y.data(), y_stride};
  Linear({&pool, scratch.get()}, {&op, 1}, x.data(), weight.cols, m, weight.cols);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t r = weight.rows; r < y_stride; ++r)
      EXPECT_EQ(y[static_cast<size_t>(i * y_stride + r)], kGuard) << "written past row " << i;
  }
  return y;
}

// One listed kernel, forced; skipped with a message where it cannot run.
class LinearKernelTest : public ::testing::TestWithParam<LinearKernelInfo> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here) GTEST_SKIP() << "this machine has no " << IsaName(GetParam().isa);
    ASSERT_TRUE(ForceLinearKernel(GetParam().name).ok());
    if (GetParam().name.find("weight_only") != std::string_view::npos)
      SetQuantizedActivations(Activations::kBf16);
  }
  void TearDown() override {
    ASSERT_TRUE(ForceLinearKernel("").ok());
    SetQuantizedActivations(Activations::kInt8);
  }

  // Calls body(spec) for every spec that the forced kernel takes.
  template <class Body>
  void ForEachSpec(Body body) const {
    int visited = 0;
    for (const WeightSpec& spec : AllSpecs()) {
      LinearWeight weight;
      weight.spec = spec;
      if (LinearKernelName(weight, 1) != GetParam().name) continue;
      SCOPED_TRACE(SpecName(spec));
      body(spec);
      ++visited;
    }
    EXPECT_GT(visited, 0) << "no weight format reaches this kernel";
  }
};

INSTANTIATE_TEST_SUITE_P(Listed, LinearKernelTest, ::testing::ValuesIn(ListLinearKernels()),
                         [](const auto& info) {
                           std::string name(info.param.name);
                           for (char& c : name) {
                             if (c == '.') c = '_';
                           }
                           return name;
                         });

TEST_P(LinearKernelTest, MatchesTheExactProduct) {
  ForEachSpec([](const WeightSpec& spec) {
    Rng rng(8);
    for (const testing::LinearCase& c : testing::TestedCases(spec)) {
      SCOPED_TRACE(CaseName(c));
      const std::vector<float> w = RandomWeight(spec, c.rows, c.cols, c.density, &rng);
      const LinearWeight weight = PackWeight(spec, c.rows, c.cols, w.data()).value();
      const std::vector<float> x = RandomX(c.m * c.cols, &rng);
      ExpectProduct(weight, x, c.m, RunLinear(weight, x, c.m, 1), c.rows + 3);
    }
  });
}

TEST_P(LinearKernelTest, ThreadsDoNotChangeABit) {
  ForEachSpec([](const WeightSpec& spec) {
    Rng rng(9);
    const int64_t cols = 384;
    // With one token a small weight is not worth a second thread.
    for (const int64_t rows : {200, 720}) {
      const std::vector<float> w = RandomWeight(spec, rows, cols, 0.4, &rng);
      const LinearWeight weight = PackWeight(spec, rows, cols, w.data()).value();
      for (const int64_t m :
           rows == 200 ? std::vector<int64_t>{5, 11, 30} : std::vector<int64_t>{1}) {
        const std::vector<float> x = RandomX(m * cols, &rng);
        const std::vector<float> one = RunLinear(weight, x, m, 1);
        for (const int threads : {2, 3}) {
          const std::vector<float> more = RunLinear(weight, x, m, threads);
          EXPECT_EQ(0, std::memcmp(one.data(), more.data(), one.size() * sizeof(float)))
              << "M " << m << ", " << threads << " threads";
        }
      }
    }
  });
}

// Weights lie in files at any address; nothing beyond their bytes may be read (ASan watches).
TEST_P(LinearKernelTest, AnyAlignment) {
  ForEachSpec([](const WeightSpec& spec) {
    Rng rng(10);
    const int64_t cols = 96;
    const std::vector<float> w = RandomWeight(spec, 33, cols, 0.5, &rng);
    const LinearWeight weight = PackWeight(spec, 33, cols, w.data()).value();
    for (const int64_t m : {1, 3, 14}) {
      const std::vector<float> x = RandomX(m * cols, &rng);
      const std::vector<float> aligned = RunLinear(weight, x, m, 1);
      for (const size_t shift : {1, 2, 33}) {
        const size_t bytes = weight.data.size();
        const std::unique_ptr<std::byte[]> memory(new std::byte[bytes + shift]);
        std::memcpy(memory.get() + shift, weight.data.data(), bytes);
        LinearWeight moved = weight;
        moved.data = {memory.get() + shift, bytes};
        const std::vector<float> y = RunLinear(moved, x, m, 1);
        EXPECT_EQ(0, std::memcmp(aligned.data(), y.data(), y.size() * sizeof(float)));
      }
    }
  });
}

// A non-finite activation shows in every output it reaches, in no other token, and does not
// crash.
TEST_P(LinearKernelTest, NonFiniteActivationsShow) {
  ForEachSpec([](const WeightSpec& spec) {
    Rng rng(11);
    const int64_t cols = 128;
    std::vector<float> w = RandomWeight(spec, 20, cols, 0.5, &rng);
    // Inputs whose block or cell is not stored may reach no output.
    for (int64_t r = 0; spec.of_m == 0 && r < 20; ++r)
      w[static_cast<size_t>(r * cols + 5)] = 0.5f;
    const LinearWeight weight = PackWeight(spec, 20, cols, w.data()).value();
    for (const int64_t m : {2, 14}) {
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> x = RandomX(m * cols, &rng);
        x[static_cast<size_t>(cols + 5)] = bad;
        const std::vector<float> y = RunLinear(weight, x, m, 1);
        for (int64_t r = 0; r < 20; ++r) {
          EXPECT_TRUE(std::isfinite(y[static_cast<size_t>(r)]));
          EXPECT_FALSE(std::isfinite(y[static_cast<size_t>(23 + r)]));
        }
      }
    }
  });
}

// Rows from empty to full beside each other, more rows, inputs and tokens than are listed or
// multiplied at a time; and x that no weight sees, be it NaN, changes nothing.
TEST(SkipTest, RowsOfAllLengths) {
  constexpr int64_t kRows = 150, kCols = 600, kM = 530, kUnseen = 7;
  for (const LinearKernelInfo& kernel : ListLinearKernels()) {
    if (!kernel.runs_here || kernel.name.find("_skip") == std::string_view::npos) continue;
    SCOPED_TRACE(kernel.name);
    ASSERT_TRUE(ForceLinearKernel(kernel.name).ok());
    for (const WeightSpec& spec : AllSpecs()) {
      LinearWeight weight;
      weight.spec = spec;
      if (LinearKernelName(weight, 1) != kernel.name) continue;
      SCOPED_TRACE(SpecName(spec));
      Rng rng(21);
      std::vector<float> w = RandomWeight(spec, kRows, kCols, 1, &rng);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) {
          const bool keep = rng.Uniform() * static_cast<double>(kRows - 1) < static_cast<double>(r);
          if (!keep || c == kUnseen - 1 || c == kUnseen) w[static_cast<size_t>(r * kCols + c)] = 0;
        }
      }
      weight = PackWeight(spec, kRows, kCols, w.data()).value();
      std::vector<float> x = RandomX(kM * kCols, &rng);
      const std::vector<float> y = RunLinear(weight, x, kM, 1);
      ExpectProduct(weight, x, kM, y, kRows + 3);
      if (IsQuantized(spec.values)) continue;  // a group's scale sees all of its inputs
      x[kCols + kUnseen] = std::numeric_limits<float>::quiet_NaN();
      const std::vector<float> with_nan = RunLinear(weight, x, kM, 1);
      EXPECT_EQ(0, std::memcmp(y.data(), with_nan.data(), y.size() * sizeof(float)));
    }
  }
  ASSERT_TRUE(ForceLinearKernel("").ok());
}

TEST(LinearTest, ProductsThatShareX) {
  Rng rng(12);
  const int64_t cols = 256;
  for (const int64_t m : {1, 4, 20}) {
    const std::vector<float> x = RandomX(m * cols, &rng);
    std::vector<LinearWeight> weights;
    for (const WeightSpec& spec : AllSpecs()) {
      const int64_t rows = 16 + static_cast<int64_t>(weights.size()) * 7;
      const std::vector<float> w = RandomWeight(spec, rows, WholeGroups(spec, cols), 0.5, &rng);
      if (WholeGroups(spec, cols) == cols)
        weights.push_back(PackWeight(spec, rows, cols, w.data()).value());
    }
    std::vector<std::vector<float>> ys;
    std::vector<LinearOp> ops;
    for (const LinearWeight& weight : weights)
      ys.emplace_back(static_cast<size_t>(m * weight.rows), kGuard);
    for (size_t i = 0; i < weights.size(); ++i)
      ops.push_back({&weights[i], ys[i].data(), weights[i].rows});
    ThreadPool pool(3);
    const Scratch scratch(NewLinearScratch());
    Linear({&pool, scratch.get()}, ops, x.data(), cols, m, cols);
    for (size_t i = 0; i < weights.size(); ++i) {
      SCOPED_TRACE(SpecName(weights[i].spec));
      ExpectProduct(weights[i], x, m, ys[i], weights[i].rows);
    }
  }
}

// Weights with and without residual and factors in one call, against the sum of exact products;
// the inner activations are rounded for B's kernel, so B is compared on what A's kernel made.
TEST(LinearTest, LowRankWeights) {
  constexpr int64_t kCols = 100, kRank = 24;
  Rng rng(15);
  const auto pack = [&rng](const char* spec, int64_t rows, int64_t cols, double density) {
    const WeightSpec parsed = ParseSpec(spec).value();
    return PackWeight(parsed, rows, cols, RandomWeight(parsed, rows, cols, density, &rng).data())
        .value();
  };
  const LinearWeight plain = pack("dense-bf16", 40, kCols, 1);
  const LinearWeight residual = pack("bitmask-bf16", 70, kCols, 0.5);
  auto factors = std::make_shared<LowRankFactors>();
  factors->a = pack("dense-bf16", kRank, kCols, 1);
  factors->b = pack("dense-bf16", 70, kRank, 1);
  LinearWeight both = residual;
  both.low_rank = factors;
  LinearWeight alone;
  alone.rows = 70;
  alone.cols = kCols;
  alone.low_rank = factors;
  for (const int64_t m : {1, 5, 70}) {
    const std::vector<float> x = RandomX(m * kCols, &rng);
    const Scratch scratch(NewLinearScratch());
    const auto run = [&](ThreadPool* pool, const LinearWeight& weight, const float* in,
                         int64_t width) {
      std::vector<float> y(static_cast<size_t>(m * weight.rows));
      const LinearOp op{.weight = &weight, .y = y.data(), .y_stride = weight.rows};
      Linear({pool, scratch.get()}, {&op, 1}, in, width, m, width);
      return y;
    };
    const std::vector<float> inner = run(nullptr, factors->a, x.data(), kCols);
    const std::vector<float> outer = run(nullptr, factors->b, inner.data(), kRank);
    const std::vector<float> y_residual = run(nullptr, residual, x.data(), kCols);
    const std::vector<float> y_plain = run(nullptr, plain, x.data(), kCols);
    std::vector<float> sum = y_residual;
    for (size_t i = 0; i < sum.size(); ++i)
      sum[i] += outer[i];
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      std::vector<float> y0(y_plain.size(), 7), y1(static_cast<size_t>(m * 75), 7), y2(sum.size());
      const LinearOp ops[] = {{.weight = &plain, .y = y0.data(), .y_stride = 40},
                              {.weight = &both, .y = y1.data(), .y_stride = 75},
                              {.weight = &alone, .y = y2.data(), .y_stride = 70}};
      Linear({&pool, scratch.get()}, ops, x.data(), kCols, m, kCols);
      EXPECT_EQ(y0, y_plain);
      EXPECT_EQ(y2, outer);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t r = 0; r < 75; ++r) {
          EXPECT_EQ(y1[static_cast<size_t>(i * 75 + r)],
                    r < 70 ? sum[static_cast<size_t>(i * 70 + r)] : 7.0f);
        }
      }
    }
  }
}

TEST(LinearTest, StridedX) {
  Rng rng(13);
  const WeightSpec spec = ParseSpec("bitmask-i8").value();
  const std::vector<float> w = RandomWeight(spec, 32, 64, 0.5, &rng);
  const LinearWeight weight = PackWeight(spec, 32, 64, w.data()).value();
  const std::vector<float> x = RandomX(2 * 100, &rng);
  std::vector<float> close(x.begin(), x.begin() + 64);
  close.insert(close.end(), x.begin() + 100, x.begin() + 164);
  std::vector<float> y(64);
  const Scratch scratch(NewLinearScratch());
  const LinearOp op = {&weight, y.data(), 32};
  Linear({nullptr, scratch.get()}, {&op, 1}, x.data(), 100, 2, 64);
  ExpectProduct(weight, close, 2, y, 32);
}

}  // namespace
}  // namespace harrow
