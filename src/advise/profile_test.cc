#include "advise/profile.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "advise/explain.h"
#include "advise/testing.h"
#include "base/machine.h"
#include "base/mapped_file.h"
#include "base/thread_pool.h"
#include "formats/random_weight.h"
#include "test_data.h"

namespace harrow {
namespace {

using testing::SyntheticCell;
using testing::SyntheticProfile;
using testing::TempDir;

constexpr const char* kFormat = "bitmask-i8/128";

LinearWeight Weight(double density) {
  return PackRandomWeight(ParseSpec(kFormat).value(), 64, 512, density, 3).value();
}
std::string RuleName(int64_t m) {
  return std::string(LinearKernelName(Weight(0.5), m));
}

// Puts environment variables back.
class Environment {
 public:
  ~Environment() {
    for (const auto& [name, value] : before_) {
      if (value) {
        ::setenv(name.c_str(), value->c_str(), 1);
      } else {
        ::unsetenv(name.c_str());
      }
    }
  }
  void Set(const std::string& name, const char* value) {
    const char* old = std::getenv(name.c_str());
    before_.emplace(name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
    if (value == nullptr) {
      ::unsetenv(name.c_str());
    } else {
      ::setenv(name.c_str(), value, 1);
    }
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

TEST(Profile, SurvivesItsFile) {
  MachineProfile profile = SyntheticProfile();
  profile.break_even = {SyntheticCell(0.5, 1, RuleName(1), 150),
                        SyntheticCell(0.5, 2, RuleName(2), 40)};
  const TempDir folder;
  const std::string path = folder.path() + "/new/folder/profile.json";
  ASSERT_TRUE(StoreProfile(path, profile).ok());
  ASSERT_TRUE(StoreProfile(path, profile).ok()) << "replaces";
  const Result<MachineProfile> read = LoadProfile(path);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(FormatProfile(*read).value(), FormatProfile(profile).value());
  EXPECT_EQ(read->key, profile.key);
  EXPECT_EQ(read->threads, 2);
  EXPECT_EQ(read->rates[2].gflops, 400);
  EXPECT_EQ(read->break_even[1].kernel_us, profile.break_even[1].kernel_us);
  EXPECT_EQ(read->break_even[1].rounds, 20);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(folder.path() + "/new/folder")) {
    ++files;
  }
  EXPECT_EQ(files, 1U) << "a temporary file was left";
}

TEST(Profile, FilesWithoutTheOptionalFieldsAreRead) {
  MachineProfile profile = SyntheticProfile();
  profile.quick = true;
  profile.break_even = {SyntheticCell(0.5, 1, "linear.bitmask_i8.avx2", 50)};
  nlohmann::json json = nlohmann::json::parse(FormatProfile(profile).value());
  const MachineProfile whole = ParseProfile(json.dump(), "p.json").value();
  EXPECT_EQ(whole.quick, true);
  EXPECT_EQ(ChoicesOf(whole).size(), 1U);
  json.erase("quick");
  json["break_even"][0].erase("rounds");
  const Result<MachineProfile> read = ParseProfile(json.dump(), "p.json");
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->quick, std::nullopt);
  EXPECT_EQ(read->break_even[0].rounds, std::nullopt);
  EXPECT_TRUE(ChoicesOf(*read).empty()) << "nobody knows how firm the row is";
  EXPECT_EQ(FormatProfile(*read).value(),
            FormatProfile(ParseProfile(FormatProfile(*read).value(), "p.json").value()).value());
}

TEST(Profile, DamagedFilesAreErrorsThatNameThem) {
  MachineProfile profile = SyntheticProfile();
  profile.break_even = {SyntheticCell(0.5, 1, RuleName(1), 150)};
  const std::string text = FormatProfile(profile).value();
  for (size_t length = 0; length + 2 < text.size(); length += 61) {
    const Result<MachineProfile> cut = ParseProfile(text.substr(0, length), "cut.json");
    ASSERT_FALSE(cut.ok()) << length;
    EXPECT_EQ(cut.status().message().rfind("cut.json: ", 0), 0U) << cut.status().message();
  }
  const nlohmann::json good = nlohmann::json::parse(text);
  struct Damage {
    const char* expected;  // part of the message
    std::function<void(nlohmann::json*)> apply;
  };
  const Damage damages[] = {
      {"kind", [](auto* j) { j->erase("kind"); }},
      {"another tool", [](auto* j) { (*j)["kind"] = "another tool's"; }},
      {"file_version", [](auto* j) { (*j)["file_version"] = 2; }},
      {"threads is missing", [](auto* j) { j->erase("threads"); }},
      {"threads", [](auto* j) { (*j)["threads"] = 0; }},
      {"threads", [](auto* j) { (*j)["threads"] = "two"; }},
      {"key.cpu", [](auto* j) { (*j)["key"]["cpu"] = 7; }},
      {"key: expected an object", [](auto* j) { (*j)["key"] = "here"; }},
      {"key.cpu", [](auto* j) { (*j)["key"]["cpu"] = std::string(1000, 'x'); }},
      {"rates: expected a list", [](auto* j) { (*j)["rates"] = nlohmann::json::object(); }},
      {"rates[1].gflops", [](auto* j) { (*j)["rates"][1]["gflops"] = -1; }},
      {"rates[0].gflops", [](auto* j) { (*j)["rates"][0]["gflops"] = 1e300; }},
      {"break_even[0].density", [](auto* j) { (*j)["break_even"][0]["density"] = 1.5; }},
      {"break_even[0].m", [](auto* j) { (*j)["break_even"][0]["m"] = 1e30; }},
      {"weight format", [](auto* j) { (*j)["break_even"][0]["format"] = "zip-i8"; }},
      {"kernel_us", [](auto* j) { (*j)["break_even"][0]["kernel_us"].push_back(1); }},
      {"break_even[0].kernel_us[0]",
       [](auto* j) { (*j)["break_even"][0]["kernel_us"][0] = nlohmann::json::array(); }},
      {"linear.other", [](auto* j) { (*j)["break_even"][0]["kernel"] = "linear.other"; }},
      {"quick: expected true or false", [](auto* j) { (*j)["quick"] = "yes"; }},
      {"break_even[0].rounds", [](auto* j) { (*j)["break_even"][0]["rounds"] = 0; }},
      // What a terminal would obey.
      {"measured: control characters", [](auto* j) { (*j)["measured"] = "now\x1b[31m"; }},
      {"key.cpu: control characters", [](auto* j) { (*j)["key"]["cpu"] = "a\nb"; }},
      {"rates[0].unit: control characters", [](auto* j) { (*j)["rates"][0]["unit"] = "\x7f"; }},
      {"break_even[0].dense_kernel: control characters",
       [](auto* j) { (*j)["break_even"][0]["dense_kernel"] = "linear.\u009b31m"; }},
      {"break_even[0].kernels[0]: control characters",
       [](auto* j) { (*j)["break_even"][0]["kernels"][0] = "\t"; }},
  };
  for (const Damage& damage : damages) {
    nlohmann::json json = good;
    damage.apply(&json);
    const Result<MachineProfile> read = ParseProfile(json.dump(), "p.json");
    ASSERT_FALSE(read.ok()) << damage.expected;
    EXPECT_EQ(read.status().code(), StatusCode::kCorruption);
    EXPECT_NE(read.status().message().find(damage.expected), std::string::npos)
        << read.status().message();
    EXPECT_EQ(read.status().message().rfind("p.json: ", 0), 0U);
  }
}

TEST(Profile, AnotherMachinesIsRefused) {
  const TempDir folder;
  const std::string path = folder.File("profile.json");
  EXPECT_EQ(LoadProfile(path).status().code(), StatusCode::kNotFound);
  const std::function<void(MachineKey*)> changes[] = {
      [](MachineKey* key) { key->cpu = "Abacus 3000"; },
      [](MachineKey* key) { ++key->cpus; },
      [](MachineKey* key) { key->isa = "mmx"; },
      [](MachineKey* key) { key->version = "99.0"; },
      [](MachineKey* key) { key->kernels = "0123"; },
  };
  for (const auto& change : changes) {
    MachineProfile profile = SyntheticProfile();
    change(&profile.key);
    ASSERT_TRUE(StoreProfile(path, profile).ok());
    const Result<MachineProfile> read = LoadProfile(path);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.status().code(), StatusCode::kUnsupported);
    EXPECT_NE(read.status().message().find(path), std::string::npos);
    EXPECT_NE(read.status().message().find(profile.key.cpu), std::string::npos);
    EXPECT_NE(read.status().message().find(ThisMachine().kernels), std::string::npos);
  }
}

TEST(Profile, WhereItIs) {
  Environment environment;
  environment.Set("HARROW_PROFILE", nullptr);
  environment.Set("XDG_CACHE_HOME", "/cache");
  environment.Set("HOME", "/home/me");
  const ProfileFile cached = FindProfileFile("");
  EXPECT_EQ(cached.path.rfind("/cache/harrow/profile-", 0), 0U) << cached.path;
  EXPECT_NE(cached.path.find(ThisMachine().isa), std::string::npos);
  EXPECT_EQ(cached.path.find(' '), std::string::npos);
  EXPECT_FALSE(cached.by_name);
  environment.Set("XDG_CACHE_HOME", "relative");
  EXPECT_EQ(FindProfileFile("").path.rfind("/home/me/.cache/harrow/profile-", 0), 0U);
  environment.Set("HOME", nullptr);
  EXPECT_EQ(FindProfileFile("").path, "");
  environment.Set("HARROW_PROFILE", "/named.json");
  EXPECT_EQ(FindProfileFile("").path, "/named.json");
  EXPECT_TRUE(FindProfileFile("").by_name);
  EXPECT_EQ(FindProfileFile("/flag.json").path, "/flag.json");
  EXPECT_EQ(FindProfileFile("none").path, "");
  EXPECT_TRUE(FindProfileFile("none").by_name);
}

class ProfileChoices : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_TRUE(SetKernelChoices({}).ok()); }
};

// linear.ref wins in the middle of the table: at densities 0.5 and 0.2 with 4 and 8 tokens, and at
// 0.2 also with 16, the most that were measured.
MachineProfile WithReferenceInTheMiddle(std::string (*rule)(int64_t)) {
  MachineProfile profile = SyntheticProfile();
  for (const double density : {1.0, 0.5, 0.2}) {
    for (const int64_t m : {1, 4, 8, 16}) {
      const bool wins = density < 1 && m > 1 && (m < 16 || density == 0.2);
      profile.break_even.push_back(SyntheticCell(density, m, rule(m), wins ? 60 : 150));
    }
  }
  return profile;
}

std::string SomeRule(int64_t) {
  return "linear.bitmask_i8.avx2";
}

TEST_F(ProfileChoices, CoverTheCellsThatWereWon) {
  const std::vector<KernelChoice> choices = ChoicesOf(WithReferenceInTheMiddle(SomeRule));
  ASSERT_EQ(choices.size(), 2U);
  EXPECT_EQ(SpecName(choices[0].spec), kFormat);
  EXPECT_EQ(choices[0].kernel, "linear.ref");
  EXPECT_EQ(choices[0].min_density, 0);
  EXPECT_DOUBLE_EQ(choices[0].max_density, 0.35);
  EXPECT_EQ(choices[0].min_m, 2);
  EXPECT_EQ(choices[0].max_m, 16) << "the most that were measured";
  EXPECT_DOUBLE_EQ(choices[1].min_density, 0.35);
  EXPECT_DOUBLE_EQ(choices[1].max_density, 0.75);
  EXPECT_EQ(choices[1].min_m, 2);
  EXPECT_EQ(choices[1].max_m, 8);
  EXPECT_TRUE(ChoicesOf(SyntheticProfile()).empty());
}

TEST_F(ProfileChoices, GoOnBeyondManyTokens) {
  MachineProfile profile = SyntheticProfile();
  for (const int64_t m : {64, 512})
    profile.break_even.push_back(SyntheticCell(0.5, m, SomeRule(m), 60));
  const std::vector<KernelChoice> choices = ChoicesOf(profile);
  ASSERT_EQ(choices.size(), 1U);
  EXPECT_EQ(choices[0].min_m, 1);
  EXPECT_EQ(choices[0].max_m, std::numeric_limits<int64_t>::max());
}

// A row that noise may have decided leaves its M to the rule, and ends what was chosen below it.
TEST_F(ProfileChoices, AreMadeByFirmRowsOnly) {
  const std::function<void(BreakEven*)> changes[] = {
      [](BreakEven* row) { row->spread = 2.25; },
      [](BreakEven* row) { row->dense_us *= 3; },
      [](BreakEven* row) { row->rounds = 3; },
      [](BreakEven* row) { row->rounds.reset(); },
  };
  for (const auto& change : changes) {
    MachineProfile profile = SyntheticProfile();
    for (const int64_t m : {8, 64, 512})
      profile.break_even.push_back(SyntheticCell(0.5, m, SomeRule(m), 60));
    change(&profile.break_even[1]);
    std::vector<KernelChoice> choices = ChoicesOf(profile);
    ASSERT_EQ(choices.size(), 2U);
    EXPECT_EQ(choices[0].max_m, 8);
    EXPECT_EQ(choices[1].min_m, 65);
    change(&profile.break_even[2]);
    choices = ChoicesOf(profile);
    ASSERT_EQ(choices.size(), 1U);
    EXPECT_EQ(choices[0].max_m, 8);
  }
}

TEST_F(ProfileChoices, AreOfInt8Activations) {
  MachineProfile profile = SyntheticProfile();
  profile.break_even = {SyntheticCell(0.5, 1, SomeRule(1), 60)};
  SetQuantizedActivations(Activations::kBf16);
  const size_t bf16 = ChoicesOf(profile).size();
  SetQuantizedActivations(Activations::kInt8);
  EXPECT_EQ(bf16, 0U);
  // A kernel of other activations would never run: the table says so and is not taken.
  BreakEven& row = profile.break_even[0];
  row.kernel = row.kernels[1] = "linear.ref_weight_only";
  EXPECT_EQ(SetKernelChoices(ChoicesOf(profile)).code(), StatusCode::kInvalidArgument);
}

TEST_F(ProfileChoices, ChangeTheKernelThatRuns) {
  if (RuleName(4) == "linear.ref") GTEST_SKIP() << "this machine has one kernel only";
  const std::string rules[] = {RuleName(1), RuleName(9)};
  ASSERT_TRUE(SetKernelChoices(ChoicesOf(WithReferenceInTheMiddle(RuleName))).ok());
  EXPECT_EQ(LinearKernelName(Weight(0.5), 1), rules[0]);
  EXPECT_EQ(LinearKernelName(Weight(0.5), 2), "linear.ref");
  EXPECT_EQ(LinearKernelName(Weight(0.5), 8), "linear.ref");
  EXPECT_EQ(LinearKernelName(Weight(0.5), 9), rules[1]);
  EXPECT_EQ(LinearKernelName(Weight(0.2), 16), "linear.ref");
  EXPECT_NE(LinearKernelName(Weight(0.2), 17), "linear.ref");
  EXPECT_NE(LinearKernelName(Weight(1), 8), "linear.ref");
  EXPECT_EQ(ChooseLinearKernel(Weight(0.5), 8).by, ChosenBy::kTable);
  EXPECT_EQ(ChooseLinearKernel(Weight(0.5), 1).by, ChosenBy::kRule);
}

TEST_F(ProfileChoices, AreExplained) {
  if (RuleName(4) == "linear.ref") GTEST_SKIP() << "this machine has one kernel only";
  const MachineProfile profile = WithReferenceInTheMiddle(RuleName);
  ASSERT_TRUE(SetKernelChoices(ChoicesOf(profile)).ok());
  ExplainOptions options;
  options.explain = "2000x1024";
  options.density = 0.45;
  options.tokens = {"1", "4"};
  const Result<ExplainReport> report = ExplainLayer(options, profile, "made up");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->rows, 2000);
  EXPECT_EQ(report->format, kFormat);
  EXPECT_EQ(report->dense_bytes, AnalyzeWeight(ParseSpec("dense-i8/128").value(), 2000, 1024, 0));
  ASSERT_EQ(report->tokens.size(), 2U);
  const ExplainRow& one = report->tokens[0];
  EXPECT_EQ(one.chosen_by, "rule");
  EXPECT_EQ(one.cell, "0.5, M 1");
  const double scale = 2000.0 * 1024 / 1e6;
  EXPECT_DOUBLE_EQ(*one.us, 100 * scale);
  EXPECT_DOUBLE_EQ(*one.dense_us, 120 * scale);
  EXPECT_DOUBLE_EQ(*one.ratio, 1.2);
  EXPECT_DOUBLE_EQ(*one.spread, 0.02);
  EXPECT_DOUBLE_EQ(*one.roof_us, 50 * scale) << "of the cell, not of `bandwidths`";
  EXPECT_DOUBLE_EQ(*one.arithmetic_us, 2.0 * 2000 * 1024 / 800e3);
  EXPECT_EQ(one.limit, "instructions") << "half of the time";
  const ExplainRow& four = report->tokens[1];
  EXPECT_EQ(four.kernel, "linear.ref");
  EXPECT_EQ(four.chosen_by, "profile");
  EXPECT_DOUBLE_EQ(*four.us, 60 * scale);
  EXPECT_DOUBLE_EQ(*four.ratio, 2);
}

TEST_F(ProfileChoices, SayWhereNoneHelps) {
  MachineProfile profile = SyntheticProfile();
  BreakEven cell = SyntheticCell(0.5, 16, RuleName(16), 150);
  cell.ratio = 0.9;
  cell.dense_us = 90;
  profile.break_even = {cell};
  ExplainOptions options;
  options.explain = "1000x1024";
  options.tokens = {"16"};
  const ExplainReport report = ExplainLayer(options, profile, "").value();
  ASSERT_EQ(report.notes.size(), 2U);
  EXPECT_NE(report.notes[1].find("no choice helps: M 16: 0.90"), std::string::npos);
}

TEST(Explain, SaysWhereFiguresAreNoisy) {
  MachineProfile profile = SyntheticProfile();
  for (const int64_t m : {1, 16}) {
    profile.break_even.push_back(SyntheticCell(0.5, m, RuleName(m), 150));
    profile.break_even.back().ratio = 0.7;
    profile.break_even.back().dense_us = 70;
  }
  profile.break_even[0].spread = 0.42;
  ExplainOptions options;
  options.explain = "1000x1024";
  options.tokens = {"1", "16"};
  const ExplainReport report = ExplainLayer(options, profile, "").value();
  EXPECT_EQ(report.tokens[0].spread, 0.42);
  ASSERT_EQ(report.notes.size(), 3U);
  EXPECT_NE(report.notes[1].find("noisy"), std::string::npos);
  EXPECT_NE(report.notes[1].find(": M 1 (spread 0.42); measure again"), std::string::npos)
      << report.notes[1];
  EXPECT_NE(report.notes[2].find("no choice helps: M 16: 0.70"), std::string::npos)
      << report.notes[2];
}

TEST(Explain, SaysWhereTheRoofIsNone) {
  MachineProfile profile = SyntheticProfile();
  profile.break_even = {SyntheticCell(0.5, 1, RuleName(1), 150)};
  profile.break_even[0].roof = 1.2;
  ExplainOptions options;
  options.explain = "1000x1024";
  options.tokens = {"1"};
  const ExplainReport report = ExplainLayer(options, profile, "").value();
  ASSERT_EQ(report.notes.size(), 2U);
  EXPECT_NE(report.notes[1].find("roof_us is no bound: M 1"), std::string::npos) << report.notes[1];
}

TEST(Explain, SaysWhereASmallWeightStandsForALargeOne) {
  if (CacheBytes(2) == 0) GTEST_SKIP() << "this system does not tell the size of its caches";
  MachineProfile profile = SyntheticProfile();
  profile.break_even = {SyntheticCell(0.5, 1, RuleName(1), 150)};
  ExplainOptions options;
  options.tokens = {"1"};
  options.explain = "32768x16384";
  ExplainReport report = ExplainLayer(options, profile, "").value();
  ASSERT_EQ(report.notes.size(), 2U);
  EXPECT_NE(report.notes[1].find("scaling is rough"), std::string::npos) << report.notes[1];
  options.explain = "64x64";
  report = ExplainLayer(options, profile, "").value();
  EXPECT_EQ(report.notes.size(), 1U);
}

TEST(Explain, WithoutAProfileHasNoTimes) {
  ExplainOptions options;
  options.explain = "128256x4096";
  options.format = "nm-bf16 2:4";
  const ExplainReport report = ExplainLayer(options, MachineProfile(), "none").value();
  EXPECT_EQ(report.density, 0.5);
  EXPECT_EQ(report.dense, "dense-bf16");
  EXPECT_EQ(report.tokens.size(), 9U);
  for (const ExplainRow& row : report.tokens) {
    EXPECT_FALSE(row.us.has_value() || row.ratio.has_value() || row.roof_us.has_value());
    EXPECT_EQ(row.kernel.rfind("linear.", 0), 0U);
  }
  EXPECT_NE(report.notes[0].find("--measure"), std::string::npos);
}

TEST(Explain, BadOptionsAreNamed) {
  const auto error = [](const char* shape, const char* format, const char* tokens) {
    ExplainOptions options;
    options.explain = shape;
    options.format = format;
    options.tokens = {tokens};
    return ExplainLayer(options, MachineProfile(), "").status().message();
  };
  EXPECT_NE(error("2048", "dense-bf16", "1").find("--explain"), std::string::npos);
  EXPECT_NE(error("0x2048", "dense-bf16", "1").find("--explain"), std::string::npos);
  EXPECT_NE(error("10x20x30", "dense-bf16", "1").find("20x30"), std::string::npos);
  EXPECT_NE(error("1048576x1048576", "dense-bf16", "1").find("--explain"), std::string::npos);
  EXPECT_NE(error("16x32", "zip", "1").find("--format"), std::string::npos);
  EXPECT_NE(error("16x32", "dense-bf16", "many").find("--tokens: 'many'"), std::string::npos);
  EXPECT_EQ(error("16x32", "dense-bf16", "1"), "");
}

TEST(BreakEvenTable, MarksWhatLosesAgainstDense) {
  MachineProfile profile = SyntheticProfile();
  for (const double ratio : {1.5, 0.93, 0.7}) {
    BreakEven cell = SyntheticCell(0.3, 1, "linear.bitmask_i8.avx2", 150);
    cell.m = static_cast<int64_t>(profile.break_even.size()) + 1;
    cell.ratio = ratio;
    cell.dense_us = 100 * ratio;
    profile.break_even.push_back(cell);
  }
  profile.break_even[0].spread = 0.2;
  BreakEven dense = profile.break_even[0];
  dense.format = dense.dense;
  dense.density = 1;
  dense.bytes = 2000;
  dense.ratio = 1;
  dense.dense_us = 100;
  dense.spread = 0.3;
  profile.break_even.push_back(dense);
  BreakEven large = SyntheticCell(0.9, 1, "linear.bitmask_i8.avx2", 150);
  large.bytes = 1901;  // of 2000: not a twentieth less
  large.ratio = 0.6;
  large.dense_us = 60;
  profile.break_even.push_back(large);
  const std::string text = BreakEvenMarkdown(profile);
  EXPECT_NE(text.find("| bitmask-i8/128 | 70 % | 1.50~ | *0.93* | **0.70** |"), std::string::npos)
      << text;
  EXPECT_NE(text.find("| bitmask-i8/128 | 10 % | (0.60) |"), std::string::npos) << text;
  EXPECT_NE(text.find("| dense_panel-i8/128 | 0 % | 1.00~ |"), std::string::npos) << text;
  EXPECT_NE(text.find("\n2 cells are noisy (`~`): measure again"), std::string::npos) << text;
  EXPECT_NE(text.find("5 cells; of 4 that are stored so, 2 below 0.95, of those 1 below 0.88"),
            std::string::npos);
}

}  // namespace
}  // namespace harrow
