// sensitivity, ablate and study on the demo's model, with tiny budgets.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "run_program.h"
#include "test_data.h"

namespace harrow::testing {
namespace {

using Json = nlohmann::json;

class Study : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir();
    // Text of the kind that the demo's model was trained on.
    std::ofstream text(Path("text.txt"));
    for (const char* task : {"recall", "relations"}) {
      std::ifstream file(SourcePath(std::string("models/tasks/") + task + ".jsonl"));
      std::string line;
      for (int i = 0; i < 60 && std::getline(file, line); ++i) {
        const Json item = Json::parse(line);
        text << item["context"].get<std::string>()
             << item["choices"][item["answer"].get<size_t>()].get<std::string>() << "\n";
      }
    }
    text.close();
    std::filesystem::create_directory(Path("recipes"));
    WriteRecipe("wanda50_int8", "  - {method: wanda, sparsity: 0.5}\n  - {method: rtn}\n");
    WriteRecipe("magnitude70", "  - {method: magnitude, sparsity: 0.7}\n");
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string Path(const std::string& name) { return folder_->File(name); }
  static std::string Model() { return SourcePath("models/harrow-tiny"); }
  static void WriteRecipe(const std::string& name, const std::string& steps) {
    std::ofstream(Path("recipes/" + name + ".yaml"))
        << "calibration: {file: " << Path("text.txt")
        << ", mode: concat, samples: 4, sequence_length: 64}\nsteps:\n"
        << steps;
  }
  static ProgramResult MustRun(const std::vector<std::string>& args) {
    ProgramResult result = RunHarrow(args);
    EXPECT_EQ(result.exit_code, 0) << args[0] << ": " << result.err;
    return result;
  }
  static void ExpectError(const std::vector<std::string>& args, int exit_code,
                          const std::vector<std::string>& parts) {
    const ProgramResult result = RunHarrow(args);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    for (const std::string& part : parts)
      EXPECT_NE(result.err.find(part), std::string::npos) << part << " in " << result.err;
  }
  static std::vector<std::string> With(std::vector<std::string> args,
                                       const std::vector<std::string>& more) {
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static std::string Contents(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  static std::vector<std::string> SensitivityArgs() {
    return {"sensitivity",
            Model(),
            "--calibration",
            Path("text.txt"),
            "--mode",
            "concat",
            "--samples",
            "4",
            "--text",
            Path("text.txt"),
            "--calibration-length",
            "64",
            "--tokens",
            "256",
            "--seqlen",
            "64",
            "-t",
            "1",
            "-o",
            "json"};
  }
  static std::vector<std::string> StudyArgs(const std::string& output) {
    return {"study",
            Path("recipes"),
            Model(),
            "--text",
            Path("text.txt"),
            "-o",
            Path(output),
            "--seqlen",
            "64",
            "--limit",
            "4",
            "-p",
            "16",
            "-n",
            "2",
            "-r",
            "2",
            "--min-seconds",
            "0",
            "-t",
            "1"};
  }

  static TempDir* folder_;
};
TempDir* Study::folder_ = nullptr;

TEST_F(Study, SensitivityByLayerIsWhatTheAllocatorReads) {
  const Json report = MustRun(With(SensitivityArgs(), {"--method", "wanda", "--sparsity", "0.5,0.9",
                                                       "--html", Path("s.html")}))
                          .Json();
  ASSERT_EQ(report["layers"].size(), 42u);
  EXPECT_EQ(report["windows"], 4);
  EXPECT_EQ(report["layers"][0]["name"], "model.layers.0.self_attn.q_proj.weight");
  double low = 0, high = 0;
  for (const Json& layer : report["layers"]) {
    ASSERT_EQ(layer["points"].size(), 2u);
    EXPECT_EQ(layer["points"][0]["sparsity"], 0.5);
    EXPECT_EQ(layer["points"][1]["sparsity"], 0.9);
    for (const Json& point : layer["points"]) {
      EXPECT_TRUE(point["loss_increase"].is_number());
      EXPECT_GE(point["kl"].get<double>(), 0);
      EXPECT_NEAR(point["stored_sparsity"].get<double>(), point["sparsity"].get<double>(), 0.01);
    }
    low += layer["points"][0]["kl"].get<double>();
    high += layer["points"][1]["kl"].get<double>();
  }
  EXPECT_GT(high, 3 * low);
  EXPECT_NE(Contents(Path("s.html")).find("<svg"), std::string::npos);
}

// One layer alone, by `sensitivity`, equals the model that `prune` writes with only that layer.
TEST_F(Study, SensitivityAgreesWithAWholeRun) {
  const Json report = MustRun(With(SensitivityArgs(), {"--method", "magnitude", "--sparsity", "0.8",
                                                       "--by", "projection"}))
                          .Json();
  MustRun({"prune", Model(), "--method", "magnitude", "--sparsity", "0.8", "--targets",
           "re:mlp.up_proj", "--no-measure", "-t", "1", "-o", Path("up80")});
  const Json compared =
      MustRun({"compare", Model(), Path("up80"), "--text", Path("text.txt"), "--seqlen", "64",
               "--limit", "4", "-p", "0", "-n", "0", "-t", "1", "-o", "json"})
          .Json();
  bool found = false;
  for (const Json& layer : report["layers"]) {
    if (layer["name"] != "mlp.up_proj") continue;
    found = true;
    const double kl = compared["kl"].get<double>();
    EXPECT_GT(kl, 1e-3);
    // Batches differ, so float32 logits do in their last places.
    EXPECT_NEAR(layer["points"][0]["kl"].get<double>(), kl, 1e-4 * kl + 1e-6);
    EXPECT_NEAR(layer["points"][0]["loss_increase"].get<double>(),
                compared["delta_nll"].get<double>(), 1e-5);
  }
  EXPECT_TRUE(found);
}

TEST_F(Study, SensitivityNamesWrongFlags) {
  ExpectError(With(SensitivityArgs(), {"--by", "head"}), 2, {"--by", "head", "projection"});
  ExpectError(With(SensitivityArgs(), {"--method", "nothing"}), 2, {"--method", "nothing"});
  ExpectError(With(SensitivityArgs(), {"--pattern", "3:2"}), 2, {"--pattern", "3:2"});
  ExpectError(With(SensitivityArgs(), {"--sparsity", "0.5,x"}), 2, {"--sparsity", "x"});
  ExpectError(With(SensitivityArgs(), {"--sparsity", "0.5,1.5"}), 2, {"sparsity", "1.5"});
  ExpectError(With(SensitivityArgs(), {"--sparsity", "0.5,0.5"}), 2, {"--sparsity", "twice"});
  ExpectError(With(SensitivityArgs(), {"--sparsity=-0.5"}), 2, {"--sparsity", "-0.5"});
  ExpectError(With(SensitivityArgs(), {"--method", "rtn"}), 2,
              {"--method", "rtn takes no sparsity", "wanda"});
  const std::vector<std::string> patterns =
      With(SensitivityArgs(), {"--patterns", "--layer", "model.layers.1.mlp.up_proj"});
  ExpectError(With(patterns, {"--methods", "rtn"}), 2, {"--methods", "rtn takes no sparsity"});
  ExpectError(With(patterns, {"--method", "wanda"}), 2, {"--method", "--methods"});
  ExpectError(With(patterns, {"--sparsity=-0.5"}), 2, {"--sparsity", "-0.5"});
  ExpectError(With(patterns, {"--then", "{method: svd_llm, ratio: -1}"}), 2, {"--then", "ratio"});
  ExpectError(With(SensitivityArgs(), {"--recipe-step", "[1]"}), 2, {"--recipe-step"});
  ExpectError({"sensitivity", Model(), "--method", "magnitude"}, 2, {"--text"});
  ExpectError({"sensitivity", Model(), "--text", Path("text.txt")}, 2, {"calibration"});
}

TEST_F(Study, PatternsAtEqualBytes) {
  const std::vector<std::string> args =
      With(SensitivityArgs(), {"--patterns", "--layer", "model.layers.1.mlp.up_proj", "--methods",
                               "wanda,magnitude", "--pattern-list", "unstructured,2:4,16x1,3:7",
                               "--bytes-ratio", "0.6", "--html", Path("p.html")});
  const Json report = MustRun(args).Json();
  EXPECT_EQ(report["points"][0]["pattern"], "as it is");
  EXPECT_EQ(report["points"][0]["bytes_ratio"], 1);
  // 3:7 does not divide the width: left out, with a note for each method.
  int notes = 0;
  for (const Json& note : report["notes"])
    notes += note.get<std::string>().find("3:7") != std::string::npos ? 1 : 0;
  EXPECT_EQ(notes, 2);
  std::map<std::string, double> errors;
  double last = 0;
  for (const Json& row : report["equal_bytes"]) {
    const std::string name =
        row["method"].get<std::string>() + " " + row["pattern"].get<std::string>();
    errors[name] = row["relative_error"].get<double>();
    EXPECT_LE(row["bytes_ratio"].get<double>(), 0.6 * 1.005) << name;
    EXPECT_GT(row["bytes_ratio"].get<double>(), 0.54) << name;
    EXPECT_GE(errors[name], last) << name;
    last = errors[name];
  }
  ASSERT_EQ(errors.size(), 6u);
  // Freedom is worth something.
  for (const char* method : {"wanda", "magnitude"}) {
    EXPECT_LT(errors[std::string(method) + " unstructured"], errors[std::string(method) + " 2:4"]);
    EXPECT_LT(errors[std::string(method) + " unstructured"], errors[std::string(method) + " 16x1"]);
  }
  EXPECT_NE(Contents(Path("p.html")).find("chart-data"), std::string::npos);
  ExpectError(With(SensitivityArgs(), {"--patterns", "--layer", "nowhere"}), 2,
              {"--layer", "nowhere", "q_proj"});
}

TEST_F(Study, AblateTellsWhatEachPartCosts) {
  const std::vector<std::string> args = {"ablate",   Model(),
                                         "-r",       Path("recipes/wanda50_int8.yaml"),
                                         "--text",   Path("text.txt"),
                                         "--seqlen", "64",
                                         "--limit",  "4",
                                         "-t",       "1",
                                         "--html",   Path("a.html")};
  const Json report = MustRun(With(args, {"-o", "json"})).Json();
  // Whole, sparsity alone, quantization alone (the steps left out are the same runs), 6 blocks.
  ASSERT_EQ(report["rows"].size(), 9u);
  const Json& whole = report["rows"][0];
  EXPECT_EQ(whole["kind"], "whole");
  EXPECT_EQ(whole["saved"], 0);
  EXPECT_LT(whole["bits_per_weight"].get<double>(), 6);
  const Json& sparsity = report["rows"][1];
  const Json& quantization = report["rows"][2];
  EXPECT_EQ(sparsity["variant"], "sparsity alone = without step 1 (rtn)");
  EXPECT_EQ(quantization["methods"], "rtn");
  EXPECT_GT(sparsity["kl"].get<double>(), 10 * quantization["kl"].get<double>());
  const Json& additivity = report["additivity"];
  EXPECT_NEAR(additivity["excess"].get<double>(),
              whole["loss_increase"].get<double>() - sparsity["loss_increase"].get<double>() -
                  quantization["loss_increase"].get<double>(),
              1e-12);
  for (size_t i = 3; i < 7; ++i) {
    const Json& row = report["rows"][i];
    EXPECT_EQ(row["kind"], "without block");
    // A quarter of the weights is left alone; INT8 rounds some to zero.
    EXPECT_NEAR(row["sparsity"].get<double>(), 0.5 * 5 / 6, 0.01);
    EXPECT_NEAR(row["saved"].get<double>(),
                whole["loss_increase"].get<double>() - row["loss_increase"].get<double>(), 1e-12);
  }
  EXPECT_NE(MustRun(With(args, {"--no-blocks"})).out.find("do errors add?"), std::string::npos);
  EXPECT_NE(Contents(Path("a.html")).find("<svg"), std::string::npos);
  ExpectError({"ablate", Model(), "-r", Path("none.yaml"), "--text", Path("text.txt")}, 1,
              {"none.yaml"});
}

TEST_F(Study, RunsOnceAndContinues) {
  const Json first = MustRun(With(StudyArgs("study"), {"--json"})).Json();
  std::map<std::string, Json> points;
  for (const Json& point : first["points"]) {
    points[point["name"]] = point;
    EXPECT_EQ(point["resumed"], false);
  }
  ASSERT_TRUE(points.count("dense") && points.count("dense-int8") && points.count("wanda50_int8") &&
              points.count("magnitude70"));
  EXPECT_EQ(points["dense"]["kl"], 0);
  EXPECT_EQ(points["dense"]["bits_per_weight"], 16);
  EXPECT_EQ(points["dense"]["sparse"], false);
  EXPECT_EQ(points["dense-int8"]["sparse"], false);
  EXPECT_EQ(points["magnitude70"]["sparse"], true);
  // Group 128 of a width of 128 or 384: 8 bits and a scale of at least 2 bytes a group.
  EXPECT_NEAR(points["dense-int8"]["bits_per_weight"].get<double>(), 8.25, 0.13);
  // At 50 %: half the values, one bit of mask each, and the scales.
  EXPECT_NEAR(points["wanda50_int8"]["bits_per_weight"].get<double>(), 4 + 1 + 0.25, 0.25);
  EXPECT_GT(points["wanda50_int8"]["kl"].get<double>(), points["dense-int8"]["kl"].get<double>());
  // 70 % by magnitude: more bytes and more KL than 50 % with INT8.
  const Json& dominators = points["magnitude70"]["dominated_bytes"];
  EXPECT_NE(std::find(dominators.begin(), dominators.end(), "wanda50_int8"), dominators.end())
      << dominators;
  EXPECT_TRUE(points["wanda50_int8"]["dominated_bytes"].empty());
  bool judged = false;
  for (const Json& verdict : first["verdicts"])
    judged |= verdict.get<std::string>().find("beat dense-int8") != std::string::npos;
  EXPECT_TRUE(judged) << first["verdicts"];
  for (const char* file : {"/study.db", "/study.html", "/study.json"})
    EXPECT_TRUE(std::filesystem::exists(Path("study") + file)) << file;
  EXPECT_TRUE(std::filesystem::is_empty(Path("study/models")));

  // The same again measures nothing; another recipe is measured and the rest is taken over.
  WriteRecipe("magnitude24", "  - {method: magnitude, pattern: \"2:4\"}\n");
  std::filesystem::rename(Path("recipes/magnitude70.yaml"), Path("recipes/renamed.yaml"));
  const Json second = MustRun(With(StudyArgs("study"), {"--json", "--keep-models"})).Json();
  EXPECT_EQ(second["points"].size(), first["points"].size() + 1);
  for (const Json& point : second["points"]) {
    EXPECT_EQ(point["resumed"], point["name"] != "magnitude24") << point["name"];
    if (point["name"] != "renamed") continue;
    EXPECT_EQ(point["kl"], points["magnitude70"]["kl"]);
    EXPECT_EQ(point["recipe"], Path("recipes/renamed.yaml"));
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(Path("study/models")), {}), 1);
  // Other settings are other points.
  const Json third = MustRun(With(StudyArgs("study"), {"--json", "--limit", "2"})).Json();
  for (const Json& point : third["points"])
    EXPECT_EQ(point["resumed"], false);
}

TEST_F(Study, InterruptedItContinues) {
  const std::vector<std::string> args =
      With(StudyArgs("cut"), {"--min-seconds", "0.2", "-r", "3", "--no-baselines", "--json"});
  const ProgramResult cut = RunHarrow(args, {.after_ms = 4500});
  ASSERT_EQ(cut.exit_code, 130) << cut.err;
  EXPECT_NE(cut.err.find("the same command continues"), std::string::npos) << cut.err;
  const Json report = MustRun(args).Json();
  EXPECT_TRUE(report["failures"].empty());
  EXPECT_EQ(report["points"][0]["resumed"], true) << "the first point was done before the signal";
}

TEST_F(Study, ErrorsNameTheRecipeOrTheDatabase) {
  std::filesystem::create_directory(Path("wrong"));
  std::ofstream(Path("wrong/bad.yaml")) << "steps: [{method: magnitude, sparsity: 2}]\n";
  ExpectError({"study", Path("wrong"), Model(), "--text", Path("text.txt"), "-o", Path("x")}, 2,
              {"bad.yaml:1", "sparsity"});
  std::ofstream(Path("wrong/bad.yaml")) << "steps: [{method: magnitude, pattern: \"3:5\"}]\n";
  ExpectError({"study", Path("wrong"), Model(), "--text", Path("text.txt"), "-o", Path("x")}, 2,
              {"bad.yaml:1"});
  std::filesystem::create_directory(Path("none"));
  ExpectError({"study", Path("none"), Model(), "--text", Path("text.txt"), "-o", Path("x")}, 1,
              {Path("none"), "*.yaml"});
  std::filesystem::create_directory(Path("damaged"));
  std::ofstream(Path("damaged/study.db")) << std::string(5000, 'x');
  ExpectError(StudyArgs("damaged"), 1, {"study.db", "damaged"});
  // One that fails while it runs: the others have their points, and the exit code tells.
  std::filesystem::create_directory(Path("mixed"));
  std::ofstream(Path("mixed/fails.yaml"))
      << "calibration: {file: " << Path("text.txt")
      << ", samples: 100000, sequence_length: 512, mode: concat}\nsteps: [{method: wanda, "
         "sparsity: 0.5}]\n";
  std::ofstream(Path("mixed/works.yaml")) << "steps: [{method: magnitude, sparsity: 0.5}]\n";
  std::vector<std::string> args = StudyArgs("mixed-out");
  args[1] = Path("mixed");
  const ProgramResult result = RunHarrow(With(args, {"--json", "--no-baselines"}));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("fails.yaml"), std::string::npos) << result.err;
  EXPECT_EQ(result.Json()["points"].size(), 2u);
  EXPECT_EQ(result.Json()["failures"].size(), 1u);
}

}  // namespace
}  // namespace harrow::testing
