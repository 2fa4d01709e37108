// The same random product for every kernel that takes the weight: all must agree with the
// reference within the rounding of float32 sums. The packed bytes are first corrupted as the input
// says; what Validate still accepts must be safe to run (ASan watches) and mean the same to all.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "formats/testing.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  // In [0, bound); 0 when the input has run out.
  uint64_t Below(uint64_t bound) {
    uint64_t value = 0;
    const size_t take = std::min(size_, sizeof(uint16_t));
    std::memcpy(&value, data_, take);
    data_ += take;
    size_ -= take;
    return value % bound;
  }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

void Die(const char* kernel, const WeightSpec& spec, double got, double want, double bound) {
  std::fprintf(stderr, "%s on %s: %.9g, reference %.9g, bound %.3g\n", kernel,
               SpecName(spec).c_str(), got, want, bound);
  std::abort();
}

std::vector<float> Product(std::string_view kernel, const LinearWeight& weight,
                           const std::vector<float>& x, int64_t m) {
  if (!ForceLinearKernel(kernel).ok()) std::abort();
  std::vector<float> y(static_cast<size_t>(m * weight.rows));
  const std::unique_ptr<LinearScratch, LinearScratchDeleter> scratch(NewLinearScratch());
  const LinearOp op = {&weight, y.data(), weight.rows};
  Linear({nullptr, scratch.get()}, {&op, 1}, x.data(), weight.cols, m, weight.cols);
  return y;
}

void Fuzz(Input input) {
  static const std::vector<WeightSpec> specs = testing::AllSpecs();
  const WeightSpec& spec = specs[input.Below(specs.size())];
  const int64_t rows = 1 + static_cast<int64_t>(input.Below(70));
  int64_t cols = 1 + static_cast<int64_t>(input.Below(600));
  if (spec.of_m > 0) cols = (cols + spec.of_m - 1) / spec.of_m * spec.of_m;
  const int64_t m = 1 + static_cast<int64_t>(input.Below(90));
  const double density = static_cast<double>(input.Below(101)) / 100;
  Rng rng(input.Below(1 << 16));
  const std::vector<float> w = testing::RandomWeight(spec, rows, cols, density, &rng);
  LinearWeight weight = PackWeight(spec, rows, cols, w.data()).value();
  std::vector<std::byte> bytes(weight.data.begin(), weight.data.end());
  while (!input.empty()) {
    const uint64_t at = input.Below(1 << 16) << 4 | input.Below(16);
    bytes[at % bytes.size()] ^= static_cast<std::byte>(1u << input.Below(8));
  }
  weight.owner = nullptr;
  weight.data = bytes;
  if (!ValidateWeight(weight).ok()) return;

  std::vector<float> x(static_cast<size_t>(m * cols));
  for (float& v : x)
    v = static_cast<float>(rng.Normal());
  // sum |w||x|, from the reference itself: it sees x as all kernels do.
  std::vector<float> values(static_cast<size_t>(rows * cols));
  UnpackRows(weight, 0, rows, values.data());
  for (const Activations activations : {Activations::kInt8, Activations::kBf16}) {
    SetQuantizedActivations(activations);
    const bool weight_only = activations == Activations::kBf16 && IsQuantized(spec.values);
    const std::vector<float> want =
        Product(weight_only ? "linear.ref_weight_only" : "linear.ref", weight, x, m);
    for (const LinearKernelInfo& kernel : ListLinearKernels(spec)) {
      if (!kernel.runs_here) continue;
      const std::vector<float> got = Product(kernel.name, weight, x, m);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t r = 0; r < rows; ++r) {
          double absolute = 0;
          for (int64_t c = 0; c < cols; ++c) {
            const double product =
                std::fabs(static_cast<double>(values[static_cast<size_t>(r * cols + c)]) *
                          static_cast<double>(x[static_cast<size_t>(i * cols + c)]));
            absolute += product;
          }
          const double a = static_cast<double>(got[static_cast<size_t>(i * rows + r)]);
          const double b = static_cast<double>(want[static_cast<size_t>(i * rows + r)]);
          // A flipped exponent may put sums beyond float32, or weights below its normal range,
          // which the bf16 dot product takes as zero.
          if (!(absolute < 1e37)) continue;
          // x as rounded is at most 1/128 larger than x; K + 9 roundings of partial sums.
          const double bound =
              static_cast<double>(cols + 9) * 0x1p-24 * absolute * (1 + 1.0 / 128) + 1e-30;
          if (!(std::fabs(a - b) <= bound)) Die(kernel.name.data(), spec, a, b, bound);
        }
      }
    }
  }
}

}  // namespace
}  // namespace harrow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  harrow::Fuzz(harrow::Input(data, size));
  return 0;
}
