// `harrow score` and `harrow run` on real models against an independent float64 implementation
// (../shared/data/golden/reference-logits).
#include <cmath>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "run_program.h"
#include "test_data.h"

namespace harrow::testing {
namespace {

using Json = nlohmann::json;

std::string JoinIds(const Json& ids) {
  std::string text;
  for (const Json& id : ids) {
    if (!text.empty()) text += ",";
    text += std::to_string(id.get<int>());
  }
  return text;
}

// An NLL moves by at most twice the largest error of a logit. The error of a float32 dot product
// over K inputs grows as sqrt(K) * 2^-24 of the product of norms, which the norms of the residual
// stream keep at the scale of the logits; 4 such products follow each other in a layer (q, k and v;
// o; gate and up; down) and one more in the head. Measured: below a thirtieth of this.
double NllBound(int layers, int largest_k, double logit_scale) {
  return 2 * (4 * layers + 1) * std::sqrt(largest_k) * 0x1.0p-24 * logit_scale;
}

void ExpectMatches(const std::string& model, const Json& golden, double bound) {
  double worst = 0;
  for (const Json& text : golden["texts"]) {
    const ProgramResult scored =
        RunHarrow({"score", model, "--ids", JoinIds(text["ids"]), "-o", "json"});
    ASSERT_EQ(scored.exit_code, 0) << scored.err;
    const Json report = scored.Json();
    ASSERT_EQ(report["ids"], text["ids"]);
    ASSERT_EQ(report["nll"].size(), text["nll"].size() + 1);
    for (size_t i = 0; i < text["nll"].size(); ++i) {
      const double difference =
          std::abs(report["nll"][i + 1].get<double>() - text["nll"][i].get<double>());
      ASSERT_LE(difference, bound) << "token " << i + 1;
      worst = std::max(worst, difference);
    }
  }
  std::printf("worst NLL difference %.2e, bound %.2e\n", worst, bound);
}

void ExpectTokenizes(const std::string& model, const Json& golden) {
  for (const Json& text : golden["texts"]) {
    const Json report =
        RunHarrow({"score", model, "--text", text["text"].get<std::string>(), "-o", "json"}).Json();
    EXPECT_EQ(report["ids"], text["ids"]) << text["text"];
  }
}

void ExpectGreedy(const std::string& model, const Json& greedy) {
  const size_t given = greedy["prompt_ids"].size();
  const size_t total = greedy["ids"].size();
  const ProgramResult run =
      RunHarrow({"run", model, "--ids", JoinIds(greedy["prompt_ids"]), "-n",
                 std::to_string(total - given), "--temp", "0", "--ignore-eos", "--cache-type",
                 "f32", "-o", "json"});  // the reference's cache is float32
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json want(
      std::vector<int>(greedy["ids"].begin() + static_cast<int64_t>(given), greedy["ids"].end()));
  EXPECT_EQ(run.Json()["ids"], want);
}

Json LoadGolden(const std::string& name) {
  std::ifstream file(SharedPath("golden/reference-logits/" + name + ".json"));
  return Json::parse(file);
}

TEST(Golden, TinyStories656K) {
  const std::string model = SharedPath("models/TinyStories-656K");
  HARROW_SKIP_WITHOUT(model + "/model.safetensors");
  const Json golden = LoadGolden("TinyStories-656K");
  // 2 layers, FFN 384; the largest logits are about 28.
  ExpectMatches(model, golden, NllBound(2, 384, 28));
  ExpectTokenizes(model, golden);
  ExpectGreedy(model, golden["greedy"]);
}

TEST(Golden, Stories260K) {
  const std::string source = SharedPath("models/stories260K");
  HARROW_SKIP_WITHOUT(source + "/stories260K.bin");
  const Json golden = LoadGolden("stories260K");
  const TempDir folder;
  for (const char* file : {"stories260K.bin", "checkpoint_v1.bin"}) {
    const std::string model = folder.File(std::string(file) + ".hf");
    const ProgramResult converted = RunHarrow(
        {"convert", source + "/" + file, "--tokenizer", source + "/tok512.model", "-o", model});
    ASSERT_EQ(converted.exit_code, 0) << converted.err;
    // 5 layers, FFN 172; the largest logits are about 20.
    ExpectMatches(model, golden, NllBound(5, 172, 20));
    ExpectTokenizes(model, golden);
    ExpectGreedy(model, golden["greedy"]);
  }
}

}  // namespace
}  // namespace harrow::testing
