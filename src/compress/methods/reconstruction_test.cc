// ALPS, least squares on a support and the Lasso.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "compress/blas.h"
#include "compress/calibration.h"
#include "compress/methods/selection.h"
#include "compress/methods/testing.h"
#include "compress/statistics_observer.h"
#include "model/model.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace harrow {
namespace {

using testing::GoldenCase;
using testing::Make;
using testing::MakeGolden;

// The layers are too small for a second thread to be worth waiting for.
const BlasThreads one_thread(nullptr);

nlohmann::json CaseOf(int64_t rows, int64_t cols, int64_t tokens, uint64_t seed) {
  return {{"rows", rows},
          {"cols", cols},
          {"seed", seed},
          {"ties", false},
          {"sequences", 2},
          {"tokens", tokens},
          {"dead", nlohmann::json::array()}};
}

std::string StepYaml(const nlohmann::json& c) {
  std::string yaml =
      fmt::format("method: {}\ndamping: {}", c["method"].get<std::string>(), c["damping"].dump());
  if (!c["pattern"].empty()) {
    yaml += fmt::format("\npattern: \"{}:{}\"", c["pattern"][0].dump(), c["pattern"][1].dump());
  } else if (c["method"] != "reconstruct") {
    yaml += "\nsparsity: " + c["sparsity"].dump();
  }
  if (!c["block"].empty()) {
    yaml += fmt::format("\npattern: {}x{}", c["block"][0].dump(), c["block"][1].dump());
  }
  if (c["compare"] != "") yaml += "\ncompare: " + c["compare"].get<std::string>();
  return yaml;
}

TEST(ReconstructionTest, AgreesWithTheFloat64Reference) {
  std::ifstream file(testing::SourcePath("tests/golden/reconstruction.json"));
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 14u);
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const nlohmann::json& c : cases) {
      nlohmann::json step = c;
      const bool reconstruct = c["method"] == "reconstruct";
      if (reconstruct) step["pattern"] = nlohmann::json::array();
      // The exact solution, and iterations that come to it.
      for (const bool iterate : {false, true}) {
        if (iterate && !reconstruct) continue;
        std::string yaml = StepYaml(step);
        if (iterate) yaml += "\nexact_up_to: 0\ntolerance: 1e-13";
        if (c["method"] == "lasso") yaml += "\niterations: 100000\ntolerance: 1e-13";
        SCOPED_TRACE(yaml + fmt::format(" seed {}", c["seed"].get<int>()));
        GoldenCase golden = MakeGolden(c, &pool);
        if (reconstruct) {
          nlohmann::json mask_step = c;
          mask_step["method"] = "wanda";
          std::string wanda = StepYaml(mask_step);
          wanda.erase(wanda.find("\ndamping"),
                      wanda.find('\n', wanda.find("\ndamping") + 1) - wanda.find("\ndamping"));
          ASSERT_TRUE(Make(wanda)->Apply(&golden.layer).ok());
        }
        const Status status = Make(yaml)->Apply(&golden.layer);
        ASSERT_TRUE(status.ok()) << status.ToString();
        EXPECT_TRUE(golden.layer.warnings.empty()) << golden.layer.warnings.front();
        const int64_t cols = golden.layer.cols;
        for (int64_t row = 0; row < golden.layer.rows; ++row) {
          const std::string expected = c["mask"][static_cast<size_t>(row)];
          double norm = 0;
          for (int64_t j = 0; j < cols; ++j) {
            const double w = golden.layer.original[static_cast<size_t>(row * cols + j)];
            norm += w * w;
          }
          norm = std::sqrt(norm);
          size_t kept = 0;
          for (int64_t j = 0; j < cols; ++j) {
            const auto i = static_cast<size_t>(row * cols + j);
            ASSERT_EQ(golden.layer.pruned[i], expected[static_cast<size_t>(j)] - '0')
                << row << "," << j;
            if (golden.layer.pruned[i] != 0) {
              EXPECT_EQ(golden.layer.w[i], 0.0f);
              EXPECT_FALSE(std::signbit(golden.layer.w[i]));
              continue;
            }
            const double reference = c["weights"][static_cast<size_t>(row)][kept++];
            // One rounding to float32, 11 decimal digits in the golden file, and float64 algebra
            // whose error grows with the condition number of the damped Hessian, at most
            // 1 + n / damping.
            const double n = static_cast<double>(cols);
            const double condition = 1 + n / c["damping"].get<double>();
            const double bound =
                (0x1.0p-24 + 1e-11) * std::fabs(reference) + 16 * n * 0x1.0p-53 * condition * norm;
            EXPECT_NEAR(golden.layer.w[i], reference, bound) << row << "," << j;
          }
        }
        EXPECT_EQ(golden.layer.dead_columns, static_cast<int64_t>(c["dead"].size()));
        if (c.contains("iterations")) {
          EXPECT_EQ(golden.layer.notes.front().rfind(
                        fmt::format("alps: {} iterations,", c["iterations"].get<int>()), 0),
                    0u)
              << golden.layer.notes.front();
        }
      }
    }
  }
}

double RelativeError(const LayerWork& layer) {
  return layer.statistics->RelativeOutputError(layer.original.data(), layer.w.data(), layer.rows);
}

int64_t Pruned(const LayerWork& layer) {
  return std::count(layer.pruned.begin(), layer.pruned.end(), 1);
}

TEST(AlpsTest, BeatsSparseGptOnRandomCorrelatedLayers) {
  ThreadPool pool(1);
  const std::pair<int64_t, int64_t> shapes[] = {{32, 48}, {32, 96}, {96, 24}, {16, 128}};
  for (const auto& [rows, cols] : shapes) {
    for (const std::string target :
         {"sparsity: 0.5", "sparsity: 0.7", "sparsity: 0.9", "pattern: \"2:4\"", "pattern: \"4:8\"",
          "pattern: 16x1\nsparsity: 0.5", "pattern: 4x4\nsparsity: 0.5"}) {
      for (const uint64_t seed : {1, 2}) {
        SCOPED_TRACE(target + fmt::format(" [{}, {}], seed {}", rows, cols, seed));
        GoldenCase alps = MakeGolden(CaseOf(rows, cols, 150, seed), &pool);
        GoldenCase sparsegpt = MakeGolden(CaseOf(rows, cols, 150, seed), &pool);
        ASSERT_TRUE(Make("method: alps\n" + target)->Apply(&alps.layer).ok());
        ASSERT_TRUE(Make("method: sparsegpt\n" + target)->Apply(&sparsegpt.layer).ok());
        EXPECT_EQ(Pruned(alps.layer), Pruned(sparsegpt.layer));
        EXPECT_LT(RelativeError(alps.layer), RelativeError(sparsegpt.layer));
      }
    }
  }
}

// Inputs over 1024 wide take the float32 path.
TEST(AlpsTest, BeatsSparseGptOnAWideLayer) {
  ThreadPool pool(1);
  GoldenCase alps = MakeGolden(CaseOf(24, 1056, 700, 3), &pool);
  LayerWork sparsegpt = alps.layer;
  ASSERT_TRUE(Make("method: alps\nsparsity: 0.7")->Apply(&alps.layer).ok());
  ASSERT_TRUE(Make("method: sparsegpt\nsparsity: 0.7")->Apply(&sparsegpt).ok());
  EXPECT_EQ(Pruned(alps.layer), PrunedCount(24 * 1056, 0.7));
  EXPECT_LT(RelativeError(alps.layer), RelativeError(sparsegpt));
}

TEST(AlpsTest, ConjugateGradientsNeverRaiseTheObjective) {
  ThreadPool pool(1);
  for (const std::string target :
       {"sparsity: 0.5", "sparsity: 0.8", "pattern: \"2:4\"", "pattern: 4x4\nsparsity: 0.6"}) {
    SCOPED_TRACE(target);
    double before = std::numeric_limits<double>::infinity();
    double first = 0;
    for (int iterations = 0; iterations <= 12; ++iterations) {
      GoldenCase golden = MakeGolden(CaseOf(24, 64, 100, 5), &pool);
      // Without damping the objective is the output error itself.
      ASSERT_TRUE(
          Make(fmt::format("method: alps\n{}\ndamping: 0\npcg_iterations: {}", target, iterations))
              ->Apply(&golden.layer)
              .ok());
      const double error = RelativeError(golden.layer);
      if (iterations == 0) first = error;
      // The stored weights are rounded to float32.
      EXPECT_LE(error, before * (1 + 1e-6)) << iterations;
      before = error;
    }
    EXPECT_LT(before, first);
  }
}

TEST(AlpsTest, WhatAnEarlierStepPrunedStaysPrunedAndTheDenseWeightIsTheTarget) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(CaseOf(16, 64, 100, 6), &pool);
  ASSERT_TRUE(Make("method: magnitude\npattern: \"2:4\"")->Apply(&golden.layer).ok());
  const std::vector<uint8_t> first = golden.layer.pruned;
  const double before = RelativeError(golden.layer);
  ASSERT_TRUE(Make("method: alps\nsparsity: 0.5")->Apply(&golden.layer).ok());
  EXPECT_EQ(golden.layer.pruned, first);
  EXPECT_LT(RelativeError(golden.layer), before);
  ASSERT_TRUE(Make("method: alps\nsparsity: 0.75")->Apply(&golden.layer).ok());
  EXPECT_EQ(Pruned(golden.layer), 16 * 64 * 3 / 4);
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_GE(golden.layer.pruned[i], first[i]);
}

TEST(AlpsTest, AnAllocatorsSparsityReplacesTheStepsOwn) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(CaseOf(16, 64, 100, 7), &pool);
  golden.layer.allocated_sparsity = 0.25;
  ASSERT_TRUE(Make("method: alps\nsparsity: 0.5")->Apply(&golden.layer).ok());
  EXPECT_EQ(Pruned(golden.layer), 16 * 64 / 4);
}

TEST(AlpsTest, SaysWhenTheSupportHasNotSettled) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(CaseOf(16, 64, 100, 8), &pool);
  ASSERT_TRUE(Make("method: alps\nsparsity: 0.5\niterations: 6")->Apply(&golden.layer).ok());
  ASSERT_EQ(golden.layer.warnings.size(), 1u);
  EXPECT_NE(golden.layer.warnings[0].find("after 6 iterations"), std::string::npos);
}

TEST(LassoTest, ReachesTheDensityExactlyAndStaysOnEarlierMasks) {
  ThreadPool pool(1);
  for (const std::string compare : {"layer", "row"}) {
    for (const double sparsity : {0.5, 0.83}) {
      GoldenCase golden = MakeGolden(CaseOf(12, 40, 100, 14), &pool);
      ASSERT_TRUE(Make("method: magnitude\nsparsity: 0.2")->Apply(&golden.layer).ok());
      const std::vector<uint8_t> first = golden.layer.pruned;
      ASSERT_TRUE(Make(fmt::format("method: lasso\nsparsity: {}\ncompare: {}", sparsity, compare))
                      ->Apply(&golden.layer)
                      .ok());
      for (int64_t row = 0; row < 12 && compare == "row"; ++row) {
        // A row of which more was pruned before cannot get weights back.
        const auto begin = golden.layer.pruned.begin() + row * 40;
        EXPECT_EQ(std::count(begin, begin + 40, 1),
                  std::max<int64_t>(
                      PrunedCount(40, sparsity),
                      std::count(first.begin() + row * 40, first.begin() + (row + 1) * 40, 1)));
      }
      if (compare == "layer") {
        EXPECT_EQ(Pruned(golden.layer), PrunedCount(12 * 40, sparsity));
      }
      for (size_t i = 0; i < first.size(); ++i) {
        EXPECT_GE(golden.layer.pruned[i], first[i]);
        EXPECT_EQ(golden.layer.w[i] == 0, golden.layer.pruned[i] != 0);
      }
    }
  }
}

// Inputs over 1024 wide take the float32 path.
TEST(LassoTest, ConvergesOnAWideLayer) {
  ThreadPool pool(1);
  GoldenCase lasso = MakeGolden(CaseOf(24, 1056, 700, 3), &pool);
  LayerWork wanda = lasso.layer;
  ASSERT_TRUE(Make("method: lasso\nsparsity: 0.7")->Apply(&lasso.layer).ok());
  ASSERT_TRUE(Make("method: wanda\nsparsity: 0.7")->Apply(&wanda).ok());
  EXPECT_TRUE(lasso.layer.warnings.empty()) << lasso.layer.warnings.front();
  EXPECT_EQ(Pruned(lasso.layer), PrunedCount(24 * 1056, 0.7));
  EXPECT_LT(RelativeError(lasso.layer), RelativeError(wanda));
}

TEST(LassoTest, SaysWhenItHasNotConverged) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(CaseOf(12, 40, 100, 14), &pool);
  ASSERT_TRUE(Make("method: lasso\nsparsity: 0.5\niterations: 3")->Apply(&golden.layer).ok());
  ASSERT_EQ(golden.layer.warnings.size(), 1u);
  EXPECT_NE(golden.layer.warnings[0].find("in 3 iterations"), std::string::npos);
  EXPECT_EQ(Pruned(golden.layer), 12 * 40 / 2);
}

TEST(LassoTest, RefusesPatterns) {
  Status status;
  Make("method: lasso\npattern: \"2:4\"", &status);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("lasso is unstructured"), std::string::npos) << status.message();
}

TEST(ReconstructionTest, CancellationStopsEveryMethod) {
  ThreadPool pool(1);
  std::atomic<bool> cancel = true;
  RunControl control;
  control.cancel = &cancel;
  for (const std::string yaml : {"method: alps\nsparsity: 0.5", "method: lasso\nsparsity: 0.5",
                                 "method: reconstruct", "method: reconstruct\nexact_up_to: 0"}) {
    GoldenCase golden = MakeGolden(CaseOf(8, 16, 40, 9), &pool);
    ASSERT_TRUE(Make("method: magnitude\nsparsity: 0.5")->Apply(&golden.layer).ok());
    golden.layer.control = &control;
    EXPECT_EQ(Make(yaml)->Apply(&golden.layer).code(), StatusCode::kCancelled) << yaml;
  }
}

TEST(ReconstructTest, NoOtherWeightsOnTheMaskAreBetter) {
  ThreadPool pool(1);
  for (const std::string first : {"magnitude", "wanda", "sparsegpt", "alps"}) {
    GoldenCase golden = MakeGolden(CaseOf(16, 48, 100, 10), &pool);
    ASSERT_TRUE(Make("method: " + first + "\nsparsity: 0.7")->Apply(&golden.layer).ok());
    const std::vector<uint8_t> mask = golden.layer.pruned;
    const double before = RelativeError(golden.layer);
    ASSERT_TRUE(Make("method: reconstruct\ndamping: 0")->Apply(&golden.layer).ok());
    EXPECT_EQ(golden.layer.pruned, mask);
    const double best = RelativeError(golden.layer);
    EXPECT_LT(best, before) << first;
    for (size_t i = 0; i < golden.layer.w.size(); i += 5) {
      if (mask[i] != 0) continue;
      for (const float step : {-0.01f, 0.01f}) {
        golden.layer.w[i] += step;
        EXPECT_GT(RelativeError(golden.layer), best) << first << " " << i;
        golden.layer.w[i] -= step;
      }
    }
  }
}

// |X w - X_dense w_0|^2 summed over rows, from the inputs themselves.
double DenseError(const LayerWork& layer, const std::vector<float>& x,
                  const std::vector<float>& dense) {
  double error = 0;
  for (size_t t = 0; t < x.size(); t += static_cast<size_t>(layer.cols)) {
    for (int64_t row = 0; row < layer.rows; ++row) {
      double y = 0;
      for (int64_t j = 0; j < layer.cols; ++j) {
        const auto i = static_cast<size_t>(row * layer.cols + j);
        y += static_cast<double>(x[t + static_cast<size_t>(j)]) * layer.w[i] -
             static_cast<double>(dense[t + static_cast<size_t>(j)]) * layer.original[i];
      }
      error += y * y;
    }
  }
  return error;
}

TEST(ReconstructTest, TheDenseTargetIsTheDenseModelsOutput) {
  ThreadPool pool(1);
  constexpr int64_t kRows = 6;
  constexpr int64_t kCols = 20;
  constexpr int64_t kTokens = 90;
  Rng rng(13);
  std::vector<float> dense(static_cast<size_t>(kTokens * kCols));
  for (float& value : dense)
    value = static_cast<float>(rng.Normal());
  std::vector<float> x = dense;
  for (size_t i = 0; i < x.size(); ++i)
    x[i] += 0.3f * static_cast<float>(rng.Normal()) + 0.2f * dense[i - i % kCols];
  InputStatistics statistics(kCols, StatisticsNeed::kHessian | StatisticsNeed::kDenseInputs);
  // In two calls and two sequences.
  for (int part = 0; part < 2; ++part) {
    const auto at = static_cast<int64_t>(part * kTokens / 2 * kCols);
    ASSERT_TRUE(statistics.Add(x.data() + at, kTokens / 2).ok());
    statistics.AddDense(x.data() + at, dense.data() + at, kTokens / 2);
    statistics.EndSequence();
  }
  statistics.Finish();
  LayerWork layer = testing::MakeLayer(kRows, kCols, &pool);
  for (float& w : layer.w)
    w = static_cast<float>(rng.Normal());
  layer.original = layer.w;
  layer.statistics = &statistics;
  ASSERT_TRUE(Make("method: magnitude\nsparsity: 0.5")->Apply(&layer).ok());
  LayerWork own = layer;
  ASSERT_TRUE(Make("method: reconstruct\ndamping: 0")->Apply(&own).ok());
  ASSERT_TRUE(Make("method: reconstruct\ndamping: 0\ntarget: dense")->Apply(&layer).ok());
  const double best = DenseError(layer, x, dense);
  EXPECT_LT(best, DenseError(own, x, dense));
  for (size_t i = 0; i < layer.w.size(); ++i) {
    if (layer.pruned[i] != 0) continue;
    for (const float step : {-0.01f, 0.01f}) {
      const float kept = layer.w[i];
      layer.w[i] += step;
      EXPECT_GT(DenseError(layer, x, dense), best) << i;
      layer.w[i] = kept;
    }
  }
}

TEST(ReconstructionTest, ASingularHessianIsAnError) {
  ThreadPool pool(1);
  for (const std::string method :
       {"method: reconstruct\n", "method: reconstruct\nexact_up_to: 0\n",
        "method: alps\nsparsity: 0.5\n", "method: lasso\nsparsity: 0.5\n"}) {
    SCOPED_TRACE(method);
    // 2 x 10 tokens cannot tell 32 inputs apart.
    GoldenCase golden = MakeGolden(CaseOf(4, 32, 10, 11), &pool);
    const Status status = Make(method + "damping: 0")->Apply(&golden.layer);
    EXPECT_EQ(status.code(), StatusCode::kNumerical);
    EXPECT_NE(status.message().find("use a larger `damping`"), std::string::npos)
        << status.message();
    // Damping is the remedy that the message names; and 2 x 100 tokens need none.
    GoldenCase damped = MakeGolden(CaseOf(4, 32, 10, 11), &pool);
    EXPECT_TRUE(Make(method + "damping: 1e-4")->Apply(&damped.layer).ok());
    GoldenCase enough = MakeGolden(CaseOf(4, 32, 100, 11), &pool);
    EXPECT_TRUE(Make(method + "damping: 0")->Apply(&enough.layer).ok());
  }
}

TEST(ReconstructTest, SaysWhichRowsAreNotDone) {
  ThreadPool pool(1);
  GoldenCase golden = MakeGolden(CaseOf(8, 64, 100, 12), &pool);
  ASSERT_TRUE(Make("method: magnitude\nsparsity: 0.5")->Apply(&golden.layer).ok());
  ASSERT_TRUE(
      Make("method: reconstruct\nexact_up_to: 0\niterations: 2")->Apply(&golden.layer).ok());
  ASSERT_EQ(golden.layer.warnings.size(), 1u);
  EXPECT_NE(golden.layer.warnings[0].find("8 of 8 rows"), std::string::npos);
}

// Every linear of a real model, on what it sees of real text.
TEST(AlpsTest, BeatsSparseGptOnEveryRealLayer) {
  const std::string directory = testing::SharedPath("models/TinyStories-656K");
  const std::string text = testing::SharedPath("corpora/tinystories_1MB.txt");
  HARROW_SKIP_WITHOUT(directory + "/model.safetensors");
  HARROW_SKIP_WITHOUT(text);
  auto checkpoint = Checkpoint::Open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  auto model = Model::Load(*checkpoint, {});
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  auto tokenizer = LoadTokenizer(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  CalibrationSpec spec;
  spec.file = text;
  spec.mode = CalibrationMode::kConcat;
  spec.samples = 8;
  const auto calibration = TakeCalibration(spec, 256, **tokenizer, nullptr);
  ASSERT_TRUE(calibration.ok()) << calibration.status().ToString();

  ThreadPool pool(1);
  auto state = NewForwardState(&pool);
  auto kv = NewKvCache((*model)->config(), 1, 256);
  const int64_t hidden = (*model)->config().hidden;
  std::vector<std::vector<float>> streams(8, std::vector<float>(static_cast<size_t>(256 * hidden)));
  for (int64_t s = 0; s < 8; ++s) {
    ASSERT_TRUE((*model)->Embed(calibration->sequence(s), 256, streams[s].data()).ok());
  }
  for (int32_t b = 0; b < (*model)->config().layers; ++b) {
    Block& block = (*model)->blocks()[static_cast<size_t>(b)];
    StatisticsObserver observer;
    observer.Watch({&block.q, &block.k, &block.v}, StatisticsNeed::kHessian);
    observer.Watch({&block.o}, StatisticsNeed::kHessian);
    observer.Watch({&block.gate, &block.up}, StatisticsNeed::kHessian);
    observer.Watch({&block.down}, StatisticsNeed::kHessian);
    for (std::vector<float>& stream : streams) {
      ASSERT_TRUE((*model)
                      ->ForwardBlock(b, stream.data(), 256, 0, kv.get(), 0, state.get(), &observer)
                      .ok());
      ASSERT_TRUE(observer.EndSequence().ok());
    }
    observer.Finish();
    for (const LinearLayer* linear : block.linears()) {
      const std::shared_ptr<InputStatistics> statistics = observer.Take(linear->name);
      for (const std::string target : {"sparsity: 0.7", "pattern: \"2:4\""}) {
        LayerWork alps = testing::MakeLayer(linear->rows, linear->cols, &pool);
        UnpackRows(linear->weight, 0, linear->rows, alps.w.data());
        alps.original = alps.w;
        alps.statistics = statistics.get();
        LayerWork sparsegpt = alps;
        ASSERT_TRUE(Make("method: alps\n" + target)->Apply(&alps).ok());
        ASSERT_TRUE(Make("method: sparsegpt\n" + target)->Apply(&sparsegpt).ok());
        EXPECT_LT(RelativeError(alps), RelativeError(sparsegpt)) << linear->name << " " << target;
      }
    }
  }
}

}  // namespace
}  // namespace harrow
