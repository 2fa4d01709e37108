#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "formats/panel.h"
#include "formats/testing.h"
#include "kernels/activation.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

using testing::AllSpecs;
using testing::RandomWeight;

using Scratch = std::unique_ptr<LinearScratch, LinearScratchDeleter>;

std::vector<float> RandomX(int64_t count, Rng* rng) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x)
    v = static_cast<float>(rng->Normal());
  return x;
}

// x as every kernel of the weight's value type must see it, and the float32 steps a fast kernel
// may take per input besides the product itself.
std::vector<double> RoundedX(const WeightSpec& spec, const std::vector<float>& x, int64_t k) {
  std::vector<double> out(x.begin(), x.end());
  if (spec.values == ValueType::kBf16) {
    for (size_t i = 0; i < x.size(); ++i)
      out[i] = static_cast<double>(Bf16ToF32(F32ToBf16(x[i])));
  } else if (spec.values == ValueType::kI8) {
    const int64_t group = ActivationGroup(spec.group);
    std::vector<int8_t> q(static_cast<size_t>(group));
    for (size_t row = 0; row < x.size(); row += static_cast<size_t>(k)) {
      for (int64_t begin = 0; begin < k; begin += group) {
        const int64_t count = std::min(group, k - begin);
        const float scale = QuantizeGroup(&x[row + static_cast<size_t>(begin)], count, q.data());
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

TEST(LinearTest, ReferenceIsRight) {
  ASSERT_TRUE(ForceLinearKernel("linear.ref").ok());
  Rng rng(7);
  for (const WeightSpec& spec : AllSpecs()) {
    SCOPED_TRACE(SpecName(spec));
    const std::vector<float> w = RandomWeight(spec, 37, 160, 0.5, &rng);
    const LinearWeight weight = PackWeight(spec, 37, 160, w.data()).value();
    const std::vector<float> x = RandomX(3 * 160, &rng);
    ExpectProduct(weight, x, 3, RunLinear(weight, x, 3, 2), 40);
  }
  ASSERT_TRUE(ForceLinearKernel("").ok());
}

}  // namespace
}  // namespace harrow
