// Which kernel runs: the list, the tiers, force, the table that a machine profile installs.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/linear.h"
#include "kernels/testing.h"

namespace harrow {
namespace {

using testing::AllSpecs;
using testing::RandomWeight;

TEST(DispatchTest, TheListEndsWithTheReferenceAndNamesAreUnique) {
  const std::vector<LinearKernelInfo> list = ListLinearKernels();
  ASSERT_FALSE(list.empty());
  EXPECT_EQ(list.back().name, "linear.ref");
  EXPECT_TRUE(list.back().runs_here);
  for (size_t i = 0; i < list.size(); ++i) {
    for (size_t j = 0; j < i; ++j)
      EXPECT_NE(list[i].name, list[j].name);
  }
}

TEST(DispatchTest, EveryTierHasAKernelForEverySpec) {
  const Isa before = ActiveIsa();
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa > before) {
      EXPECT_EQ(SetIsaLimit(isa).ok(), isa <= DetectedIsa());
      continue;
    }
    ASSERT_TRUE(SetIsaLimit(isa).ok());
    for (const WeightSpec& spec : AllSpecs()) {
      LinearWeight weight;
      weight.spec = spec;
      EXPECT_TRUE(LinearKernelName(weight, 1).ends_with(IsaName(isa)))
          << LinearKernelName(weight, 1) << " for " << SpecName(spec);
    }
  }
  ASSERT_TRUE(SetIsaLimit(Isa::kScalar).ok());
  LinearWeight weight;
  EXPECT_EQ(LinearKernelName(weight, 1), "linear.ref");
  ASSERT_TRUE(SetIsaLimit(before).ok());
}

TEST(DispatchTest, ForcingWhatIsNotThereFails) {
  EXPECT_FALSE(ForceLinearKernel("linear.csr").ok());
  EXPECT_TRUE(ForceLinearKernel("linear.ref").ok());
  LinearWeight weight;
  EXPECT_EQ(LinearKernelName(weight, 1), "linear.ref");
  EXPECT_TRUE(ForceLinearKernel("").ok());
}

// Within a panel's padding of what is really there.
TEST(DispatchTest, DensityIsToldFromTheBytes) {
  Rng rng(16);
  for (const WeightSpec& spec : AllSpecs()) {
    if (spec.format == FormatId::kIndex) continue;  // bytes by the fullest row, not by the number
    SCOPED_TRACE(SpecName(spec));
    const int64_t rows = 64, cols = 1536;
    for (const double density : {0.0, 0.2, 0.7, 1.0}) {
      const std::vector<float> w = RandomWeight(spec, rows, cols, density, &rng);
      const LinearWeight weight = PackWeight(spec, rows, cols, w.data()).value();
      const double nonzeros =
          static_cast<double>(std::count_if(w.begin(), w.end(), [](float v) { return v != 0; }));
      const double expected = spec.of_m > 0 ? static_cast<double>(spec.keep_n) / spec.of_m
                              : testing::HasFixedBytes(spec)
                                  ? 1.0
                                  : nonzeros / static_cast<double>(rows * cols);
      EXPECT_NEAR(StoredDensity(weight), expected, 0.02) << density;
    }
  }
}

// Linear() would pass over such a row, so that a listing of the table would lie.
TEST(DispatchTest, ATableOfKernelsOfOtherActivationsIsRefused) {
  const KernelChoice row = {.spec = ParseSpec("bitmask-i8/128").value(),
                            .kernel = "linear.ref_weight_only"};
  const Status status = SetKernelChoices({&row, 1});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("int8 activations"), std::string::npos) << status.ToString();
  EXPECT_TRUE(InstalledKernelChoices().empty());
  SetQuantizedActivations(Activations::kBf16);
  EXPECT_TRUE(SetKernelChoices({&row, 1}).ok());
  EXPECT_TRUE(SetKernelChoices({}).ok());
  SetQuantizedActivations(Activations::kInt8);
}

TEST(DispatchTest, AnInstalledTableDecides) {
  const WeightSpec spec = ParseSpec("bitmask-bf16").value();
  Rng rng(17);
  const auto pack = [&](const char* name, double density) {
    const WeightSpec parsed = ParseSpec(name).value();
    return PackWeight(parsed, 64, 1024, RandomWeight(parsed, 64, 1024, density, &rng).data())
        .value();
  };
  const LinearWeight half = pack("bitmask-bf16", 0.5);
  const LinearWeight tenth = pack("bitmask-bf16", 0.1);
  const LinearWeight other = pack("bitmask-i8/128", 0.1);
  const std::string_view usual = LinearKernelName(tenth, 300);
  if (usual == "linear.ref") GTEST_SKIP() << "this machine has one kernel only";
  const KernelChoice rows[] = {
      {.spec = spec, .max_density = 0.3, .min_m = 200, .kernel = "linear.ref"}};
  ASSERT_TRUE(SetKernelChoices(rows).ok());
  EXPECT_EQ(LinearKernelName(tenth, 300), "linear.ref");
  EXPECT_EQ(ChooseLinearKernel(tenth, 300).by, ChosenBy::kTable);
  EXPECT_NE(LinearKernelName(tenth, 199), "linear.ref");
  EXPECT_NE(LinearKernelName(half, 300), "linear.ref");
  EXPECT_NE(LinearKernelName(other, 300), "linear.ref");
  EXPECT_EQ(ChooseLinearKernel(half, 300).by, ChosenBy::kRule);
  // Force wins over the table, and the table chooses among those that share a prefix.
  ASSERT_TRUE(ForceLinearKernel(usual).ok());
  EXPECT_EQ(LinearKernelName(tenth, 300), usual);
  EXPECT_EQ(ChooseLinearKernel(tenth, 300).by, ChosenBy::kForce);
  ASSERT_TRUE(ForceLinearKernel("linear.").ok());
  EXPECT_EQ(LinearKernelName(tenth, 300), "linear.ref");
  ASSERT_TRUE(ForceLinearKernel("").ok());
  // What is wrong changes nothing.
  KernelChoice wrong = rows[0];
  wrong.kernel = "linear.bitmask_bf16";
  EXPECT_FALSE(SetKernelChoices({&wrong, 1}).ok());
  wrong = rows[0];
  wrong.min_density = 0.5;
  EXPECT_FALSE(SetKernelChoices({&wrong, 1}).ok());
  wrong = rows[0];
  wrong.kernel = "linear.dense_bf16.avx2";
  EXPECT_FALSE(SetKernelChoices({&wrong, 1}).ok());
  EXPECT_EQ(LinearKernelName(tenth, 300), "linear.ref");
  ASSERT_TRUE(SetKernelChoices({}).ok());
  EXPECT_EQ(LinearKernelName(tenth, 300), usual);
}

}  // namespace
}  // namespace harrow
