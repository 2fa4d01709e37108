// The halves of a block with their gradients, and whole runs of block_reconstruct.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "base/rng.h"
#include "compress/blas.h"
#include "compress/block_halves.h"
#include "compress/plan.h"
#include "compress/testing.h"
#include "harrow/compress.h"
#include "model/model.h"
#include "test_data.h"

namespace harrow {
namespace {

const BlasThreads one_thread(nullptr);

ModelConfig SmallConfig(GateActivation activation) {
  ModelConfig config;
  config.hidden = 12;
  config.ffn = 20;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.rms_eps = 1e-5f;
  config.activation = activation;
  config.rope_inv_freq = {1.0f, 0.1f};
  config.rope_attention_scaling = 1.2f;
  return config;
}

std::vector<float> Normals(int64_t count, double scale, Rng* rng) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values)
    value = static_cast<float>(scale * rng->Normal());
  return values;
}

// Half the squared norm of out, whose gradient is out itself.
double Loss(const std::vector<float>& out) {
  double loss = 0;
  for (const float value : out)
    loss += 0.5 * static_cast<double>(value) * value;
  return loss;
}

// Compares gradients with central differences of the loss along random directions, one weight
// matrix at a time. `run` fills out; the errors are those of float32 sums (about 1e-6 of the loss,
// over 2 * step) and of the step's third order.
template <class Run>
void CheckGradients(const Run& run, std::vector<std::vector<float>>* weights,
                    const std::vector<std::vector<float>>& gradients, Rng* rng) {
  for (size_t i = 0; i < weights->size(); ++i) {
    for (int trial = 0; trial < 4; ++trial) {
      std::vector<float>& w = (*weights)[i];
      const std::vector<float> kept = w;
      const std::vector<float> direction = Normals(static_cast<int64_t>(w.size()), 1, rng);
      constexpr float kStep = 3e-3f;
      double slope = 0;
      double size = 0;
      for (size_t k = 0; k < w.size(); ++k) {
        slope += static_cast<double>(gradients[i][k]) * direction[k];
        size += std::pow(gradients[i][k], 2);
      }
      const auto at = [&](float step) {
        for (size_t k = 0; k < w.size(); ++k)
          w[k] = kept[k] + step * direction[k];
        return Loss(run());
      };
      const double measured = (at(kStep) - at(-kStep)) / (2.0 * kStep);
      w = kept;
      EXPECT_NEAR(measured, slope, 0.01 * std::sqrt(size)) << "weight " << i;
      EXPECT_GT(size, 0);
    }
  }
}

TEST(BlockHalvesTest, GradientsAreThoseOfFiniteDifferences) {
  ThreadPool pool(2);
  for (const GateActivation activation :
       {GateActivation::kSilu, GateActivation::kRelu, GateActivation::kGeluTanh}) {
    const ModelConfig c = SmallConfig(activation);
    Rng rng(7);
    constexpr int64_t kLength = 9;
    const std::vector<float> norm = Normals(c.hidden, 1, &rng);
    BlockHalves halves(c, norm, norm, kLength, &pool);
    const std::vector<float> x = Normals(kLength * c.hidden, 1, &rng);
    std::vector<float> out(x.size());
    const int64_t q_width = int64_t{c.heads} * c.head_dim;
    const int64_t kv_width = int64_t{c.kv_heads} * c.head_dim;

    std::vector<std::vector<float>> attention = {
        Normals(q_width * c.hidden, 0.3, &rng), Normals(kv_width * c.hidden, 0.3, &rng),
        Normals(kv_width * c.hidden, 0.3, &rng), Normals(c.hidden * q_width, 0.3, &rng)};
    const auto run_attention = [&]() -> const std::vector<float>& {
      halves.Attention(
          {attention[0].data(), attention[1].data(), attention[2].data(), attention[3].data()},
          x.data(), out.data());
      return out;
    };
    std::vector<std::vector<float>> gradients;
    for (const std::vector<float>& w : attention)
      gradients.emplace_back(w.size());
    run_attention();
    halves.AttentionGradients(
        {attention[0].data(), attention[1].data(), attention[2].data(), attention[3].data()},
        out.data(),
        {gradients[0].data(), gradients[1].data(), gradients[2].data(), gradients[3].data()});
    CheckGradients(run_attention, &attention, gradients, &rng);

    std::vector<std::vector<float>> ffn = {Normals(c.ffn * c.hidden, 0.3, &rng),
                                           Normals(c.ffn * c.hidden, 0.3, &rng),
                                           Normals(c.hidden * c.ffn, 0.3, &rng)};
    const auto run_ffn = [&]() -> const std::vector<float>& {
      halves.Ffn({ffn[0].data(), ffn[1].data(), ffn[2].data()}, x.data(), out.data());
      return out;
    };
    gradients.clear();
    for (const std::vector<float>& w : ffn)
      gradients.emplace_back(w.size());
    run_ffn();
    halves.FfnGradients({ffn[0].data(), ffn[1].data(), ffn[2].data()}, out.data(),
                        {gradients[0].data(), gradients[1].data(), gradients[2].data()});
    CheckGradients(run_ffn, &ffn, gradients, &rng);
  }
}

class BlockReconstructTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = dir_.File("model");
    testing::WriteTinyModel(model_, {.dtype = DType::kF32});
    testing::WriteTinyText(dir_.File("text.txt"));
  }
  Result<CompressReport> Run(const std::string& steps, const std::string& output,
                             const RunControl* control = nullptr) {
    CompressOptions options;
    options.model = model_;
    options.recipe_text = "calibration: {file: " + dir_.File("text.txt") +
                          ", samples: 16, sequence_length: 32}\nstore: dense\nsteps:\n" + steps;
    options.output = dir_.File(output);
    options.overwrite = true;
    options.threads = 1;
    return Compress(options, control);
  }
  static std::unique_ptr<Model> Load(const std::string& directory) {
    auto checkpoint = Checkpoint::Open(directory);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    auto model = Model::Load(*checkpoint, {});
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    return std::move(model).value();
  }
  static std::vector<float> Unpack(const LinearLayer& linear) {
    std::vector<float> w(static_cast<size_t>(linear.rows * linear.cols));
    UnpackRows(linear.weight, 0, linear.rows, w.data());
    return w;
  }
  testing::TempDir dir_;
  std::string model_;
};

TEST_F(BlockReconstructTest, TheHalvesAreTheModelsForwardPass) {
  const std::unique_ptr<Model> model = Load(model_);
  const Block& block = model->blocks()[0];
  const ModelConfig& c = model->config();
  ThreadPool pool(1);
  constexpr int64_t kLength = 40;
  Rng rng(3);
  const std::vector<float> x = Normals(kLength * c.hidden, 1, &rng);
  std::vector<float> expected = x;
  auto state = NewForwardState(&pool);
  auto kv = NewKvCache(c, 1, kLength);
  ASSERT_TRUE(
      model->ForwardBlock(0, expected.data(), kLength, 0, kv.get(), 0, state.get(), nullptr).ok());
  BlockHalves halves(c, block.attention_norm, block.ffn_norm, kLength, &pool);
  std::vector<std::vector<float>> w;
  for (const LinearLayer* linear : block.linears())
    w.push_back(Unpack(*linear));
  std::vector<float> middle(x.size());
  std::vector<float> out(x.size());
  halves.Attention({w[0].data(), w[1].data(), w[2].data(), w[3].data()}, x.data(), middle.data());
  halves.Ffn({w[4].data(), w[5].data(), w[6].data()}, middle.data(), out.data());
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], expected[i], 1e-4) << i;
}

TEST_F(BlockReconstructTest, LowersTheErrorOfBothHalvesAndKeepsTheMasks) {
  const std::string wanda = " - {method: wanda, sparsity: 0.6}\n";
  ASSERT_TRUE(Run(wanda, "wanda").ok());
  const Result<CompressReport> report =
      Run(wanda + " - {method: block_reconstruct, epochs: 6, learning_rate: 0.02}\n", "trained");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_TRUE(report->warnings.empty()) << report->warnings.front();
  for (const LayerReport& layer : report->layers) {
    EXPECT_EQ(layer.method, "wanda+block_reconstruct");
    ASSERT_EQ(layer.notes.size(), 1u);
    double before = 0;
    double after = 0;
    const size_t arrow = layer.notes[0].find(" -> ");
    ASSERT_NE(arrow, std::string::npos) << layer.notes[0];
    after = std::stod(layer.notes[0].substr(arrow + 4));
    before = std::stod(layer.notes[0].substr(layer.notes[0].rfind(' ', arrow - 1) + 1));
    EXPECT_LT(after, 0.9 * before) << layer.name << " " << layer.notes[0];
  }
  const std::unique_ptr<Model> first = Load(dir_.File("wanda"));
  const std::unique_ptr<Model> trained = Load(dir_.File("trained"));
  // The first block sees the same inputs in both runs, so it has the same masks.
  int64_t differing = 0;
  for (size_t i = 0; i < 7; ++i) {
    const std::vector<float> a = Unpack(*std::as_const(*first).blocks()[0].linears()[i]);
    const std::vector<float> b = Unpack(*std::as_const(*trained).blocks()[0].linears()[i]);
    for (size_t k = 0; k < a.size(); ++k) {
      ASSERT_EQ(a[k] == 0, b[k] == 0);
      differing += a[k] != b[k];
    }
  }
  EXPECT_GT(differing, 0);
}

TEST_F(BlockReconstructTest, LeavesQuantizedAndUntargetedWeightsAlone) {
  const std::string steps =
      " - {method: wanda, sparsity: 0.6}\n"
      " - {method: rtn, group: 32, targets: 're:down_proj'}\n";
  ASSERT_TRUE(Run(steps, "before").ok());
  const Result<CompressReport> report = Run(
      steps + " - {method: block_reconstruct, epochs: 2, ignore: 're:(q|gate)_proj'}\n", "after");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  const std::unique_ptr<Model> before = Load(dir_.File("before"));
  const std::unique_ptr<Model> after = Load(dir_.File("after"));
  const Block& a = before->blocks()[0];
  const Block& b = after->blocks()[0];
  EXPECT_EQ(Unpack(a.q), Unpack(b.q));
  EXPECT_EQ(Unpack(a.gate), Unpack(b.gate));
  EXPECT_EQ(Unpack(a.down), Unpack(b.down));
  EXPECT_NE(Unpack(a.v), Unpack(b.v));
  EXPECT_NE(Unpack(a.up), Unpack(b.up));
}

// The first inputs of both streams are the same, the later ones are not.
TEST_F(BlockReconstructTest, TheDenseTargetFollowsTheDenseModel) {
  const std::string wanda = " - {method: wanda, sparsity: 0.6}\n";
  ASSERT_TRUE(Run(wanda + " - {method: reconstruct}\n", "own").ok());
  const auto report = Run(wanda + " - {method: reconstruct, target: dense}\n", "dense");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  const std::unique_ptr<Model> own = Load(dir_.File("own"));
  const std::unique_ptr<Model> dense = Load(dir_.File("dense"));
  const std::vector<float> a = Unpack(own->blocks()[0].q);
  const std::vector<float> b = Unpack(dense->blocks()[0].q);
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_NEAR(a[i], b[i], 1e-5) << i;
  const std::vector<float> c = Unpack(own->blocks()[1].q);
  const std::vector<float> d = Unpack(dense->blocks()[1].q);
  double difference = 0;
  for (size_t i = 0; i < c.size(); ++i)
    difference = std::max(difference, std::fabs(static_cast<double>(c[i]) - d[i]));
  EXPECT_GT(difference, 1e-3);
}

TEST_F(BlockReconstructTest, AnInterruptedDenseStreamContinuesAsIfItHadNotBeen) {
  const std::string steps =
      " - {method: wanda, sparsity: 0.6}\n - {method: reconstruct, target: dense}\n"
      " - {method: block_reconstruct, epochs: 1}\n";
  ASSERT_TRUE(Run(steps, "whole").ok());
  std::atomic<bool> cancel = false;
  RunControl control;
  control.cancel = &cancel;
  control.on_progress = [&cancel](std::string_view what, int64_t, int64_t) {
    if (what.find("block 3/3") != std::string_view::npos) cancel = true;
  };
  EXPECT_EQ(Run(steps, "parts", &control).status().code(), StatusCode::kCancelled);
  const auto report = Run(steps, "parts");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->resumed_blocks, 2);
  const std::unique_ptr<Model> whole = Load(dir_.File("whole"));
  const std::unique_ptr<Model> parts = Load(dir_.File("parts"));
  for (size_t b = 0; b < whole->blocks().size(); ++b) {
    for (size_t i = 0; i < 7; ++i) {
      EXPECT_EQ(Unpack(*std::as_const(*whole).blocks()[b].linears()[i]),
                Unpack(*std::as_const(*parts).blocks()[b].linears()[i]));
    }
  }
}

TEST_F(BlockReconstructTest, WarnsWhenTheErrorDoesNotFall) {
  const Result<CompressReport> report =
      Run(" - {method: wanda, sparsity: 0.5}\n"
          " - {method: block_reconstruct, epochs: 2, learning_rate: 0}\n",
          "out");
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->warnings.size(), 6u);
}

TEST_F(BlockReconstructTest, MustComeLastAndHaveSomethingToDo) {
  const auto first = Run(" - method: block_reconstruct\n", "out");
  EXPECT_EQ(first.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(first.status().message().find("that a step before it compresses"), std::string::npos)
      << first.status().message();
  const auto middle =
      Run(" - {method: wanda, sparsity: 0.5}\n - method: block_reconstruct\n"
          " - {method: rtn, group: 32}\n",
          "out");
  EXPECT_EQ(middle.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(middle.status().message().find("must be last"), std::string::npos)
      << middle.status().message();
}

}  // namespace
}  // namespace harrow
