#include "advise/measure.h"

#include <algorithm>
#include <fstream>
#include <set>

#include <gtest/gtest.h>

#include "advise/linear_timing.h"
#include "advise/profile.h"
#include "kernels/linear.h"

namespace harrow {
namespace {

TEST(BreakEven, FormatsOfEveryPrecisionDenseFirst) {
  std::set<std::string> names;
  std::set<std::string> dense;
  for (const BreakEvenFormat& format : BreakEvenFormats()) {
    const std::string name = SpecName(format.spec);
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
    if (format.spec == format.dense) dense.insert(name);
    EXPECT_EQ(dense.count(SpecName(format.dense)), 1U) << name << " comes before its dense format";
    EXPECT_EQ(format.spec.values, format.dense.values);
  }
  for (const char* name : {"dense-bf16", "bitmask-bf16", "bitmask-i8/128", "bitmask-i4/64",
                           "nm-bf16 2:4", "nm-i8/128 2:4", "nm-i4/64 2:4", "block-bf16 16x1",
                           "block-i8/128 16x4", "block-i8/128 16x16"}) {
    EXPECT_EQ(names.count(name), 1U) << name;
  }
  EXPECT_EQ(dense.size(), 3U);
}

TEST(BreakEven, MeasuresEachCellWithEachKernel) {
  BreakEvenPlan plan;
  plan.rows = 96;
  plan.cols = 256;
  plan.densities = {0.5, 0.25};
  plan.ms = {1, 9};
  plan.seconds = 0;
  plan.only = {"bitmask-i8", "nm-i8"};
  ThreadPool pool(2);
  const Result<std::vector<BreakEven>> rows = MeasureBreakEven(plan, &pool, nullptr);
  ASSERT_TRUE(rows.ok()) << rows.status().ToString();
  ASSERT_EQ(rows->size(), 12U)
      << "dense, bitmask and its 1x4 form at two densities, nm: two M each";
  for (const BreakEven& row : *rows) {
    EXPECT_EQ(ParseSpec(row.dense).value(), ParseSpec("dense-i8/128").value());
    EXPECT_EQ(row.kernels, RivalKernels(ParseSpec(row.format).value()));
    EXPECT_EQ(row.kernel_us.size(), row.kernels.size());
    EXPECT_NE(std::find(row.kernels.begin(), row.kernels.end(), row.kernel), row.kernels.end());
    EXPECT_NE(std::find(row.kernels.begin(), row.kernels.end(), row.rule), row.kernels.end());
    EXPECT_GT(row.us, 0);
    EXPECT_GT(row.ratio, 0);
    EXPECT_GT(row.dense_us, 0);
    EXPECT_GT(row.roof, 0);
    EXPECT_GE(row.rounds.value_or(0), 3);
    EXPECT_GT(row.spread, 0) << row.format << ": dense rows too say how noisy they are";
    if (*row.rounds < kLeastRounds) {
      EXPECT_EQ(row.kernel, row.rule);
    }
  }
  EXPECT_EQ((*rows)[0].format, (*rows)[0].dense);
  EXPECT_EQ((*rows)[2].density, 0.5);
  EXPECT_EQ((*rows)[4].density, 0.25);
  EXPECT_LT((*rows)[4].bytes, (*rows)[2].bytes);
  EXPECT_EQ((*rows)[6].format, "nm-i8/128 2:4");
  EXPECT_EQ((*rows)[10].format, "bitmask-i8/128 1x4");
  EXPECT_EQ((*rows)[11].m, 9);
  EXPECT_TRUE(ForcedLinearKernel().empty()) << "left a kernel forced";
}

TEST(BreakEven, ChoosesByManyRoundsThatAgree) {
  const std::vector<double> rule(8, 1.0);
  EXPECT_TRUE(ClearlyFaster(std::vector<double>(8, 0.9), rule));
  EXPECT_FALSE(ClearlyFaster(std::vector<double>(8, 0.98), rule)) << "by 2 % only";
  EXPECT_FALSE(ClearlyFaster(std::vector<double>(7, 0.5), std::vector<double>(7, 1.0)))
      << "too few rounds";
  EXPECT_FALSE(ClearlyFaster({0.9, 0.9, 0.9, 0.9, 0.9, 1.1, 1.1, 1.1}, rule)) << "5 of 8 rounds";
  EXPECT_FALSE(ClearlyFaster({0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.6, 0.6}, rule)) << "spread";
}

TEST(BreakEven, NamesTheFormatsThereAre) {
  BreakEvenPlan plan;
  plan.only = {"zip"};
  ThreadPool pool(1);
  const Status status = MeasureBreakEven(plan, &pool, nullptr).status();
  EXPECT_NE(status.message().find("--only"), std::string::npos);
  EXPECT_NE(status.message().find("bitmask-bf16"), std::string::npos);
}

TEST(BreakEven, CanBeInterrupted) {
  const std::atomic<bool> cancel{true};
  RunControl control;
  control.cancel = &cancel;
  BreakEvenPlan plan;
  plan.rows = plan.cols = 64;
  ThreadPool pool(1);
  EXPECT_EQ(MeasureBreakEven(plan, &pool, &control).status().code(), StatusCode::kCancelled);
}

TEST(MeasureProfile, RefusesAForcedKernel) {
  ASSERT_TRUE(ForceLinearKernel("linear.ref").ok());
  const Status status = MeasureProfile({}, 1, nullptr, nullptr).status();
  ASSERT_TRUE(ForceLinearKernel("").ok());
  EXPECT_NE(status.message().find("linear.ref"), std::string::npos);
}

TEST(MeasureProfile, RefusesOtherActivations) {
  SetQuantizedActivations(Activations::kBf16);
  const Status status = MeasureProfile({}, 1, nullptr, nullptr).status();
  SetQuantizedActivations(Activations::kInt8);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("bf16 is in force (--activations, HARROW_ACTIVATIONS)"),
            std::string::npos);
}

TEST(MeasureProfile, PutsTheTableBackWhenInterrupted) {
  const KernelChoice choice = {.spec = ParseSpec("bitmask-bf16").value(), .kernel = "linear.ref"};
  ASSERT_TRUE(SetKernelChoices({&choice, 1}).ok());
  const std::atomic<bool> cancel{true};
  RunControl control;
  control.cancel = &cancel;
  const Status status = MeasureProfile({}, 1, nullptr, &control).status();
  const std::vector<KernelChoice> after = InstalledKernelChoices();
  ASSERT_TRUE(SetKernelChoices({}).ok());
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  ASSERT_EQ(after.size(), 1U);
  EXPECT_EQ(after[0].kernel, "linear.ref");
}

TEST(MeasureProfile, KeepsTheRestOnlyOfTheSameTable) {
  MachineProfile stored;
  stored.threads = 1;
  stored.rows = 64;
  stored.cols = 128;
  MeasureOptions options;
  options.only = {"nm-"};
  options.shape = "64x256";
  const Status status = MeasureProfile(options, 1, &stored, nullptr).status();
  EXPECT_NE(status.message().find("64x128"), std::string::npos) << status.ToString();
}

TEST(RivalKernels, AreOneOfEachKindThatRunsHere) {
  for (const BreakEvenFormat& format : BreakEvenFormats()) {
    const std::vector<std::string> names = RivalKernels(format.spec);
    ASSERT_FALSE(names.empty());
    const LinearKernelInfo first = ListLinearKernels(format.spec).front();
    if (first.runs_here) {
      EXPECT_EQ(names.front(), first.name);
    }
    if (names.size() > 1) {
      EXPECT_EQ(std::count(names.begin(), names.end(), "linear.ref"), 0);
    }
  }
}

TEST(WeightStack, GivesItsCopiesInTurn) {
  WeightStack stack = WeightStack::Make(ParseSpec("dense-bf16").value(), 16, 32, 1, 3000).value();
  ASSERT_EQ(stack.size(), 3);
  const std::byte* const first = stack.Next().data.data();
  EXPECT_EQ(stack.Next().data.data(), first + 1024);
  stack.Next();
  EXPECT_EQ(stack.Next().data.data(), first);
}

TEST(WeightStack, MovesToAFile) {
  WeightStack stack = WeightStack::Make(ParseSpec("dense-bf16").value(), 16, 32, 1, 2000).value();
  const std::string path = ::testing::TempDir() + "/harrow_stack";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(stack.bytes().data()),
             static_cast<std::streamsize>(stack.bytes().size()));
  const uint64_t checksum = WeightChecksum(stack.weight());
  const auto file = MappedFile::Open(path).value();
  stack.MoveTo(file);
  EXPECT_EQ(stack.Next().data.data(), file->bytes().data());
  EXPECT_EQ(stack.Next().data.data(), file->bytes().data() + 1024);
  EXPECT_EQ(WeightChecksum(stack.weight()), checksum);
}

}  // namespace
}  // namespace harrow
