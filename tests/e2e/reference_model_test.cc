// The models that the repository ships, scored by `harrow eval --tasks`, against the numbers that
// tools/reference_model/evaluate.py got for the same files in PyTorch (tests/golden/*-eval.json).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "run_program.h"
#include "test_data.h"

namespace harrow::testing {
namespace {

using Json = nlohmann::json;

constexpr const char* kParts[] = {"recall", "compute", "copy", "relations"};

std::vector<Json> JsonLines(const std::string& path) {
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);)
    lines.push_back(Json::parse(line));
  return lines;
}

class ReferenceModel : public ::testing::TestWithParam<const char*> {
 protected:
  std::string Model() const { return SourcePath(std::string("models/") + GetParam()); }
  Json Golden() const {
    std::ifstream file(SourcePath(std::string("tests/golden/") + GetParam() + "-eval.json"));
    return Json::parse(file);
  }
};

TEST_P(ReferenceModel, LogLikelihoodsAgreeWithPyTorch) {
  const Json golden = Golden();
  std::map<std::string, Json> wanted;
  for (const Json& item : golden["items"])
    wanted[item["id"]] = item;
  const TempDir dir;
  const std::string tasks = dir.path() + "/picked.jsonl";
  const std::string samples = dir.path() + "/samples.jsonl";
  {
    std::ofstream out(tasks);
    for (const char* part : kParts) {
      for (const Json& item : JsonLines(SourcePath(std::string("models/tasks/") + part + ".jsonl")))
        if (wanted.count(item["id"]) != 0) out << item.dump() << '\n';
    }
  }
  const ProgramResult run =
      RunHarrow({"eval", Model(), "--tasks", tasks, "--log-samples", samples, "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::vector<Json> got = JsonLines(samples);
  ASSERT_EQ(got.size(), wanted.size());
  double worst = 0;
  for (const Json& sample : got) {
    const Json& item = wanted.at(sample["id"]);
    EXPECT_EQ(sample["answer"], item["answer"]);
    for (size_t i = 0; i < item["log_likelihood"].size(); ++i) {
      // Kernels of this CPU may round activations to BF16 (relative error 2^-9), in each of the 25
      // products that follow each other; errors of independent roundings add as their root. A logit
      // is about 10 and enters a log-likelihood twice.
      const double bound =
          item["choice_tokens"][i].get<double>() * 2 * 10 * 0x1.0p-9 * std::sqrt(25.0);
      const double difference = std::abs(sample["log_likelihoods"][i].get<double>() -
                                         item["log_likelihood"][i].get<double>());
      EXPECT_LE(difference, bound) << sample["id"] << " choice " << i;
      worst = std::max(worst, difference);
    }
  }
  std::printf("worst difference of a log-likelihood %.2e\n", worst);
}

TEST_P(ReferenceModel, AccuracyAgreesWithPyTorch) {
  const Json golden = Golden();
  std::string tasks;
  for (const char* part : kParts)
    tasks +=
        (tasks.empty() ? "" : ",") + SourcePath(std::string("models/tasks/") + part + ".jsonl");
  const ProgramResult run = RunHarrow({"eval", Model(), "--tasks", tasks, "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json report = run.Json();
  int compared = 0;
  for (const Json& row : report["rows"]) {
    const std::string part = row["part"];
    if (part == "all" || !row["distance"].is_null()) continue;
    const double correct = row["acc"].get<double>() * row["n"].get<double>();
    // Items whose two best choices lie closer together than the rounding may turn.
    EXPECT_NEAR(correct, golden["correct"][part].get<double>(), 0.01 * row["n"].get<double>())
        << part;
    ++compared;
  }
  EXPECT_EQ(compared, 4);
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceModel, ::testing::Values("harrow-tiny", "harrow-tiny-relu"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace harrow::testing
