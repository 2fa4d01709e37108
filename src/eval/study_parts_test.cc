// The small parts of sensitivity, ablation and the page.
#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "eval/ablation.h"
#include "eval/page.h"
#include "eval/pattern_search.h"
#include "eval/recipe_run.h"
#include "eval/sensitivity.h"
#include "eval/speed.h"
#include "harrow/study.h"

namespace harrow {
namespace {

TEST(Names, OfBlocksAndProjections) {
  const std::string name = "model.layers.13.self_attn.q_proj.weight";
  EXPECT_EQ(BlockPrefix(name, 13), "model.layers.13.");
  EXPECT_EQ(ProjectionName(name, 13), "self_attn.q_proj");
}

PatternPoint At(double sparsity, double ratio, double error) {
  PatternPoint point;
  point.sparsity = sparsity;
  point.decode_ratio = ratio;
  point.relative_error = error;
  point.bytes = 1000;
  point.spec = "x";
  return point;
}

TEST(Patterns, AtBudgetInterpolatesBetweenNeighbours) {
  const auto budget = [](std::vector<PatternPoint> points, double ratio) {
    return AtBudget(std::move(points), &PatternPoint::decode_ratio, ratio);
  };
  // Half way in time between 0.5 and 0.7; the error is the geometric mean.
  const auto point = budget({At(0.7, 0.4, 0.09), At(0.3, 0.9, 0.001), At(0.5, 0.6, 0.01)}, 0.5);
  ASSERT_TRUE(point);
  EXPECT_NEAR(point->sparsity, 0.6, 1e-12);
  EXPECT_NEAR(point->relative_error, 0.03, 1e-12);
  EXPECT_NEAR(point->decode_ratio, 0.5, 1e-12);
  EXPECT_TRUE(point->interpolated);
  EXPECT_EQ(point->spec, "");
  // All are fast enough: the least sparse, as measured. None is: nothing.
  const auto all = budget({At(0.3, 0.45, 0.001), At(0.5, 0.3, 0.01)}, 0.5);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->sparsity, 0.3);
  EXPECT_FALSE(all->interpolated);
  EXPECT_FALSE(budget({At(0.3, 0.9, 0.001), At(0.5, 0.8, 0.01)}, 0.5));
  EXPECT_FALSE(budget({}, 0.5));
}

// Every sparsity that ApproachBudget asks for.
std::vector<double> Tries(double budget, double step, const std::vector<RatioAt>& known,
                          const std::function<double(double)>& ratio) {
  std::vector<double> tries;
  const Status status = ApproachBudget(budget, 0.005, step, known,
                                       [&](double sparsity) -> Result<std::optional<double>> {
                                         tries.push_back(sparsity);
                                         return std::optional<double>(ratio(sparsity));
                                       });
  EXPECT_TRUE(status.ok()) << status.ToString();
  return tries;
}

TEST(Patterns, ABudgetThatCanBeReachedIsReached) {
  // Bitmask BF16: one bit a weight beside the values.
  const auto bitmask = [](double s) { return std::min(1.0, 1 - s + 1.0 / 16); };
  std::vector<double> tries = Tries(0.6, 1e-4, {{0.3, bitmask(0.3)}, {0.5, bitmask(0.5)}}, bitmask);
  ASSERT_FALSE(tries.empty());
  EXPECT_LE(tries.size(), 2u);
  EXPECT_NEAR(bitmask(tries.back()), 0.6, 0.003);
  // The format changes on the way: flat, a jump, then steep, which regula falsi creeps along.
  const auto kinked = [](double s) { return s < 0.8 ? 1.0 - 0.01 * s : 0.9 - 4 * (s - 0.8); };
  tries = Tries(0.2, 1e-4, {{0.3, kinked(0.3)}}, kinked);
  ASSERT_FALSE(tries.empty());
  EXPECT_NEAR(kinked(tries.back()), 0.2, 0.001);
  // Met by what is known already; and steps that no try could come between.
  EXPECT_TRUE(Tries(0.6, 1e-4, {{0.4, 0.601}}, bitmask).empty());
  const auto steps = [](double s) { return 1 - 0.25 * std::floor(4 * s); };
  EXPECT_TRUE(Tries(0.6, 0.25, {{0.3, 0.75}, {0.5, 0.5}}, steps).empty());
}

TEST(Patterns, SaysWhereATimeIsNotReached) {
  const auto note = [](const std::vector<PatternPoint>& points, double budget) {
    return NoteOnBudget(points, AtBudget(points, &PatternPoint::decode_ratio, budget),
                        &PatternPoint::decode_ratio, budget);
  };
  const std::vector<PatternPoint> points = {At(0.3, 0.9, 0.001), At(0.5, 0.6, 0.01)};
  EXPECT_EQ(note(points, 0.7), "");
  EXPECT_EQ(note(points, 0.4), "takes 0.600 of the time at best, not 0.4");
  EXPECT_EQ(note({At(0.5, 0.6, 0.01)}, 0.8), "takes 0.600 at the least sparsity measured, not 0.8");
}

constexpr char kRecipe[] =
    "steps:\n"
    "  - {method: magnitude, sparsity: 0.5, ignore: [a.weight]}\n"
    "  - {method: rtn, group: 64}\n"
    "store: dense\n";

TEST(Ablation, VariantsAreRecipesWithPartsLeftOut) {
  const Result<Recipe> recipe = ParseRecipe(kRecipe, "test");
  ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
  const auto all = [](size_t) { return true; };
  EXPECT_EQ(ParseRecipe(RecipeVariant(*recipe, all, ""), "whole")->canonical, recipe->canonical);

  const Result<Recipe> second = ParseRecipe(RecipeVariant(
                                                *recipe, [](size_t i) { return i == 1; }, ""),
                                            "second");
  ASSERT_TRUE(second.ok()) << second.status().ToString();
  ASSERT_EQ(second->steps.size(), 1u);
  EXPECT_EQ(second->steps[0].method_name, "rtn");
  EXPECT_EQ(second->store, Store::kDense);
  EXPECT_EQ(nlohmann::json::parse(second->canonical)["steps"][0]["group"], 64);

  const Result<Recipe> ignoring = ParseRecipe(RecipeVariant(*recipe, all, "re:^b"), "ignoring");
  ASSERT_TRUE(ignoring.ok()) << ignoring.status().ToString();
  EXPECT_EQ(ignoring->steps[0].ignore, (std::vector<std::string>{"a.weight", "re:^b"}));
  EXPECT_EQ(ignoring->steps[1].ignore, std::vector<std::string>{"re:^b"});
}

TEST(Ablation, AJointStepIsNeitherSparsityNorQuantizationAlone) {
  const auto why = [](const std::string& steps) {
    const Result<Recipe> recipe =
        ParseRecipe("calibration: {file: x.txt}\nsteps: [" + steps + "]", "test");
    EXPECT_TRUE(recipe.ok()) << recipe.status().ToString();
    return recipe.ok() ? WhyNotSplit(*recipe) : "";
  };
  const std::string prune = "{method: wanda, sparsity: 0.5}";
  const std::string joint = "{method: sparsegpt, sparsity: 0.5, quantize: {format: int4}}";
  EXPECT_EQ(why(prune + ", {method: rtn}"), "");
  EXPECT_EQ(why("{method: sparsegpt, sparsity: 0.5}, {method: gptq}"), "");
  EXPECT_NE(why(joint).find("step 0 (sparsegpt) prunes and quantizes in one pass"),
            std::string::npos);
  EXPECT_NE(why(prune + ", " + joint).find("step 1 (sparsegpt)"), std::string::npos);
  EXPECT_NE(why("{method: magnitude, sparsity: 0.5, targets: \"re:up\"}, " + prune)
                .find("no step quantizes"),
            std::string::npos);
  EXPECT_NE(why("{method: rtn}").find("every step quantizes"), std::string::npos);
}

TEST(Ablation, AnAllocationFollowsItsSteps) {
  const Result<Recipe> recipe = ParseRecipe(
      "steps:\n"
      "  - {method: magnitude, sparsity: 0.3}\n"
      "  - {method: magnitude, sparsity: 0.5}\n"
      "  - {method: rtn}\n"
      "allocation: {method: alphapruning, steps: [1]}\n",
      "test");
  ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
  const Result<Recipe> moved = ParseRecipe(RecipeVariant(
                                               *recipe, [](size_t i) { return i != 0; }, ""),
                                           "moved");
  ASSERT_TRUE(moved.ok()) << moved.status().ToString();
  ASSERT_TRUE(moved->allocation.has_value());
  EXPECT_EQ(moved->allocation->steps, std::vector<size_t>{0});
  const Result<Recipe> quantized = ParseRecipe(RecipeVariant(
                                                   *recipe, [](size_t i) { return i == 2; }, ""),
                                               "quantized");
  ASSERT_TRUE(quantized.ok()) << quantized.status().ToString();
  EXPECT_FALSE(quantized->allocation.has_value());
}

DivergenceReport WithLoss(std::vector<double> increase) {
  DivergenceReport report;
  report.nll_p.assign(increase.size(), 2.0);
  for (const double value : increase) {
    report.nll_q.push_back(2.0 + value);
    report.kl.push_back(value);
  }
  return report;
}

TEST(Ablation, JudgesWhetherErrorsAdd) {
  const DivergenceReport s = WithLoss({0.10, 0.12, 0.14, 0.08});
  const DivergenceReport q = WithLoss({0.02, 0.01, 0.03, 0.02});
  // Both cost what the two cost, off by +-0.01: mean 0, deviation sqrt(4e-4 / 3), error half of it.
  const Additivity adds = JudgeAdditivity(s, q, WithLoss({0.13, 0.12, 0.18, 0.09}));
  EXPECT_NEAR(adds.excess, 0, 1e-12);
  EXPECT_NEAR(*adds.excess_stderr, std::sqrt(4e-4 / 3) / 2, 1e-12);
  EXPECT_EQ(adds.verdict.rfind("errors add", 0), 0u) << adds.verdict;
  const Additivity more = JudgeAdditivity(s, q, WithLoss({0.32, 0.33, 0.38, 0.30}));
  EXPECT_NEAR(more.excess, 0.2025, 1e-12);
  EXPECT_EQ(more.verdict.rfind("errors more than add", 0), 0u) << more.verdict;
  const Additivity less = JudgeAdditivity(s, q, WithLoss({0.05, 0.06, 0.10, 0.03}));
  EXPECT_EQ(less.verdict.rfind("errors less than add", 0), 0u) << less.verdict;
  const Additivity one = JudgeAdditivity(WithLoss({1}), WithLoss({1}), WithLoss({3}));
  EXPECT_EQ(one.excess_stderr, std::nullopt);
  EXPECT_NE(one.verdict.find("cannot be told"), std::string::npos);
}

TEST(Page, EscapesWhatItIsGiven) {
  Page page;
  page.title = "<b>&\"";
  page.paragraphs = {"</p><script>alert(1)</script>"};
  Chart chart{.title = "</script><script>alert(2)</script>"};
  chart.points = {{"a<!--", "g", 1, 2, true}, {"nan", "g", NAN, 2, false}};
  page.charts = {chart};
  page.heat_maps = {{"t", {"<c>"}, {"<r>"}, {{{1, "<n>"}}}}};
  page.tables = {{"T", {{"<h>"}, {"<d>"}}}};
  const std::string html = RenderPage(page);
  EXPECT_EQ(html.find("alert(1)</script><"), std::string::npos);
  EXPECT_EQ(html.find("<script>alert"), std::string::npos);
  EXPECT_EQ(html.find("<!--"), std::string::npos);
  for (const char* raw : {"<c>", "<r>", "<n>", "<h>", "<d>", "<b>"})
    EXPECT_EQ(html.find(raw), std::string::npos) << raw;
  // The data is JSON still, without the point that has no place.
  const std::string open = "id=\"chart-data\">";
  const size_t begin = html.find(open) + open.size();
  const nlohmann::json data =
      nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  EXPECT_EQ(data[0]["title"], chart.title);
  ASSERT_EQ(data[0]["points"].size(), 1u);
  EXPECT_EQ(data[0]["points"][0]["name"], "a<!--");
}

// Nothing is loaded from anywhere when it is viewed.
TEST(Page, IsSelfContained) {
  const std::string html = RenderPage({.title = "t"});
  EXPECT_NE(html.find("var uPlot="), std::string::npos);
  for (const char* loading : {"src=", "href=", "@import", "url(http", "fetch("})
    EXPECT_EQ(html.find(loading), std::string::npos) << loading;
}

TEST(Page, HeatMapColoursByLogarithm) {
  const std::string svg =
      HeatMapSvg({"t", {"a", "b", "c"}, {"r"}, {{{1e-4, ""}, {1e-2, ""}, {-1, ""}}}});
  EXPECT_NE(svg.find("hsl(12,30%,97%)"), std::string::npos);  // least, and what has no logarithm
  EXPECT_NE(svg.find("hsl(12,85%,40%)"), std::string::npos);  // most
}

TEST(TemporaryFolder, GoesWithItsContents) {
  std::string path;
  {
    Result<TemporaryFolder> folder = TemporaryFolder::Create("");
    ASSERT_TRUE(folder.ok()) << folder.status().ToString();
    path = folder->path();
    ASSERT_TRUE(std::filesystem::create_directory(path + "/model"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(SpeedVerdictTest, GivesNoFigureThatDoesNotHold) {
  EXPECT_EQ(SpeedVerdict({1.25, 1.31, 1.4}, 5), "1.31 x (1.25 to 1.40): faster here");
  EXPECT_EQ(SpeedVerdict({0.7, 0.75, 0.8}, 5), "0.75 x (0.70 to 0.80): slower here");
  EXPECT_EQ(SpeedVerdict({0.98, 1.01, 1.03}, 5),
            "1.01 x (0.98 to 1.03): too noisy to tell from equal");
  EXPECT_EQ(SpeedVerdict({0.95, 1.04, 13.91}, 5), "too noisy to tell (0.95 to 13.91 x)");
  EXPECT_EQ(SpeedVerdict({1.5, 3.3, 38.4}, 5),
            "faster here, too noisy to tell by how much (1.50 to 38.40 x)");
  EXPECT_EQ(SpeedVerdict({0.1, 0.3, 0.9}, 5),
            "slower here, too noisy to tell by how much (0.10 to 0.90 x)");
  EXPECT_EQ(SpeedVerdict({2, 2, 2}, 1), "2.00 x in one repetition, which proves nothing");
  EXPECT_EQ(TimeText(0.5, 0.45, 0.55), "0.500");
  EXPECT_EQ(TimeText(0.5, 0.1, 0.9), "noisy");
  EXPECT_EQ(TimeText(0.5, std::nullopt, std::nullopt), "0.500");  // stored by an older version
}

}  // namespace
}  // namespace harrow
