// Every command of the program on a tiny model: results, messages, exit codes.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "run_program.h"
#include "test_data.h"
#include "tiny_model.h"

namespace harrow::testing {
namespace {

using Json = nlohmann::json;

// The model and a text are written once for all tests.
class Cli : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir();
    WriteTinyModel(Model(), 1);
    WriteTinyModel(Path("bare"), 2, /*with_tokenizer=*/false);
    std::ofstream text(Path("text.txt"));
    for (int i = 0; i < 60; ++i)
      text << "Lily had " << i * i << " cats and a dog.\n";
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string Path(const std::string& name) { return folder_->File(name); }
  static std::string Model() { return Path("model"); }

  static ProgramResult MustRun(const std::vector<std::string>& args) {
    ProgramResult result = RunHarrow(args);
    EXPECT_EQ(result.exit_code, 0) << args[0] << ": " << result.err;
    return result;
  }
  // Exit code, and a message on stderr that has all of `parts`; nothing on stdout.
  static void ExpectError(const std::vector<std::string>& args, int exit_code,
                          const std::vector<std::string>& parts) {
    const ProgramResult result = RunHarrow(args);
    std::string line;
    for (const std::string& arg : args)
      line += arg + " ";
    EXPECT_EQ(result.exit_code, exit_code) << line << result.err;
    EXPECT_EQ(result.out, "") << line;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << line << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << line << result.err;
    }
  }
  static double MeanNll(const std::string& model, const std::string& ids) {
    return MustRun({"score", model, "--ids", ids, "-o", "json"}).Json()["mean_nll"].get<double>();
  }

  static TempDir* folder_;
};
TempDir* Cli::folder_ = nullptr;

const std::vector<std::string> kCommands = {
    "inspect", "run",     "score", "prune",       "quantize", "compress", "export", "convert",
    "eval",    "compare", "bench", "sensitivity", "ablate",   "study",    "doctor"};

TEST_F(Cli, HelpHasAnExampleForEveryCommand) {
  for (const std::string& command : kCommands) {
    const ProgramResult help = MustRun({command, "--help"});
    EXPECT_NE(help.out.find("Example:\n  harrow " + command), std::string::npos) << command;
    EXPECT_EQ(help.err, "");
  }
  EXPECT_NE(MustRun({"quantize", "--help"}).out.find("do not take inputs with large"),
            std::string::npos);
  EXPECT_EQ(MustRun({"--version"}).out.substr(0, 2), "0.");
}

TEST_F(Cli, BadCallsExitWithTwoAndNameTheFlag) {
  ExpectError({}, 2, {"command"});
  ExpectError({"frobnicate"}, 2, {"unknown command: frobnicate; see harrow --help"});
  ExpectError({"insepct", Model()}, 2, {"unknown command: insepct (did you mean inspect?)"});
  for (const std::string& command : kCommands) {
    if (command == "compare") {
      ExpectError({command, Model(), Model(), "--frob"}, 2, {"--frob"});
    } else if (command == "doctor") {
      ExpectError({command, "--frob"}, 2, {"--frob"});
    } else if (command == "inspect" || command == "run" || command == "score" ||
               command == "eval" || command == "bench" || command == "sensitivity") {
      ExpectError({command, Model(), "--frob"}, 2, {"--frob"});
      ExpectError({command, Model(), "-o", "xml"}, 2, {"--output", "xml", "json"});
    }
  }
  ExpectError({"inspect"}, 2, {"--model"});
  ExpectError({"prune", Model()}, 2, {"--output"});
  ExpectError({"prune", Model(), "--sparsity", "0.5", "-o", Path("x")}, 2,
              {"error: --calibration: missing"});
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "50", "-o", Path("x")}, 2,
              {"--sparsity", "50 % is 0.5"});
  ExpectError({"prune", Model(), "--method", "gptq", "--sparsity", "0.5", "-o", Path("x")}, 2,
              {"--method: expected magnitude | wanda"});
  for (const char* sparsity : {"0", "1", "1.5", "-0.5"}) {
    ExpectError(
        {"prune", Model(), "--method", "magnitude", "--sparsity", sparsity, "-o", Path("x")}, 2,
        {"--sparsity: expected a fraction, 0 < sparsity < 1, found \""});
  }
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "abc", "-o", Path("x")}, 2,
              {"--sparsity: 'abc' is not a number\n"});
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "1e999", "-o", Path("x")},
              2, {"--sparsity: '1e999' is not a number: out of range"});
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "--targets",
               "nothing", "-o", Path("x")},
              2, {"error: --targets: \"nothing\" matches no linear weight"});
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "--allocation",
               "sensitivity", "-o", Path("x")},
              2, {"error: --sensitivity: missing"});
  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "--allocation",
               "owls", "-o", Path("x")},
              2, {"error: --allocation: expected uniform | "});
  ExpectError({"quantize", Model(), "--weights", "int8", "--store", "tight", "-o", Path("x")}, 2,
              {"error: --store: expected auto"});
  std::ofstream(Path("uncalibrated.yaml")) << "steps: [{method: wanda, sparsity: 0.5}]\n";
  ExpectError(
      {"compress", Model(), "-r", Path("uncalibrated.yaml"), "-o", Path("x")}, 2,
      {"uncalibrated.yaml:1: calibration: missing", "Add `calibration: {file: text.jsonl}`\n"});
  ExpectError({"sensitivity", Model(), "--text", Path("text.txt"), "--method", "wanda"}, 2,
              {"error: --calibration: missing"});
  ExpectError(
      {"sensitivity", Model(), "--text", Path("text.txt"), "--method", "lasso", "--pattern", "2:4"},
      2, {"error: --pattern: lasso is unstructured"});
  ExpectError({"sensitivity", Model(), "--text", Path("text.txt"), "--method", "rtn"}, 2,
              {"error: --method: rtn takes no sparsity"});
  ExpectError({"sensitivity", Model(), "--text", Path("text.txt"), "--sparsity", "1.5"}, 2,
              {"--sparsity: expected a fraction, 0 < sparsity < 1"});
  ExpectError({"bench", Model(), "--format", "dense-i8"}, 2, {"--format", "--shape", "MODEL"});
  ExpectError({"bench", Model(), "--density", "0.5"}, 2, {"--density", "--shape", "MODEL"});
  ExpectError({"bench", Model(), "--shape", Model()}, 2, {"either a MODEL or --shape, not both"});
  ExpectError({"bench", "--shape", Model(), "--format", "nm-i8"}, 2, {"--format", "nm-i8 2:4"});
  ExpectError({"run", Model(), "-p", "a", "--top-p", "1.5"}, 2, {"--top-p", "1.5", "0 .. 1"});
  ExpectError({"run", Model(), "-p", "a", "--temp", "-1"}, 2, {"--temp", "-1"});
  ExpectError({"run", Model(), "-p", "a", "-n", "0"}, 2, {"--n-predict", "1 .."});
  ExpectError({"run", Model(), "-p", "a", "-n", "1x"}, 2, {"--n-predict", "1x", "integer"});
  ExpectError({"run", Model(), "-p", "a", "-t", "5000"}, 2, {"--threads", "1024"});
  ExpectError({"run", Model(), "-p", "a", "-c", "65"}, 2, {"--ctx-size", "1 .. 64"});
  ExpectError({"run", Model(), "--ids", "1,x"}, 2, {"--ids", "x"});
  ExpectError({"run", Model()}, 2, {"--prompt", "--file", "--ids"});
  ExpectError({"run", Model(), "-p", "a", "--ids", "1"}, 2, {"exactly one"});
  ExpectError({"run", Model(), "-p", "a", "--isa", "mmx"}, 2, {"--isa", "mmx", "avx2"});
  ExpectError({"run", Model(), "-p", "a", "--kernel", "nonsense"}, 2, {"nonsense"});
  ExpectError({"bench", "--shape", Model(), "--format", "zip"}, 2, {"--format", "zip"});
  ExpectError({"bench", "--shape", Model(), "--density", "0"}, 2, {"--density"});
  ExpectError({"bench"}, 2, {"give a MODEL, or --shape"});
  ExpectError({"export", Model(), "--to", "onnx", "-o", Path("x")}, 2, {"--to", "onnx", "gguf"});
  ExpectError({"eval", Model()}, 2, {"--ppl", "--tasks"});
  ExpectError({"eval", Model(), "--ppl", Path("text.txt"), "--protocol", "wikitext"}, 2,
              {"--protocol", "wikitext", "gptq"});
  ExpectError({"eval", Model(), "--ppl", Path("text.txt"), "--seqlen", "65"}, 2,
              {"--seqlen", "2 .. 64"});
}

TEST_F(Cli, FailuresExitWithOneAndNameTheFile) {
  for (const char* command : {"inspect", "run", "score", "bench"}) {
    std::vector<std::string> args = {command, Path("nowhere")};
    if (args[0] == "run" || args[0] == "score") args.insert(args.end(), {"--ids", "1"});
    ExpectError(args, 1, {Path("nowhere") + ": no such directory"});
  }
  std::filesystem::create_directories(Path("hollow"));
  ExpectError({"inspect", Path("hollow")}, 1, {Path("hollow") + ": no model", "config.json"});
  ExpectError(
      {"prune", Model(), "--sparsity", "0.5", "--calibration", Path("gone.txt"), "-o", Path("x")},
      1, {"--calibration", Path("gone.txt") + ": no such file"});
  ExpectError({"run", Path("bare"), "-p", "hello"}, 1, {"tokenizer"});
  ExpectError({"score", Model(), "--file", Path("nothing.txt")}, 1, {"nothing.txt"});
  ExpectError({"score", Model(), "--ids", "1,257"}, 2, {"257"});

  std::filesystem::copy(Model(), Path("cut"));
  std::filesystem::resize_file(Path("cut") + "/model.safetensors", 1000);
  for (const char* command : {"inspect", "score"}) {
    std::vector<std::string> args = {command, Path("cut")};
    if (args[0] == "score") args.insert(args.end(), {"--ids", "1,2"});
    ExpectError(args, 1, {"model.safetensors"});
  }
  std::ofstream(Path("cut") + "/config.json") << "{\"hidden_size\": ";
  ExpectError({"inspect", Path("cut")}, 1, {"config.json"});
}

// A weight that is no number is the model's fault, not the text's.
TEST_F(Cli, WeightsThatAreNoNumbersAreNamed) {
  std::filesystem::copy(Model(), Path("nan"));
  {
    std::fstream file(Path("nan") + "/model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header = 0;
    file.read(reinterpret_cast<char*>(&header), 8);
    std::string json(header, ' ');
    file.read(json.data(), static_cast<std::streamsize>(header));
    const Json where = Json::parse(json)["model.layers.1.mlp.up_proj.weight"]["data_offsets"];
    // Row 2, column 3, of 64 columns.
    file.seekp(
        static_cast<std::streamoff>(8 + header + where[0].get<uint64_t>() + (2 * 64 + 3) * 4));
    const float nan = std::numeric_limits<float>::quiet_NaN();
    file.write(reinterpret_cast<const char*>(&nan), 4);
  }
  const std::vector<std::vector<std::string>> commands = {
      {"eval", Path("nan"), "--ppl", Path("text.txt")},
      {"run", Path("nan"), "-p", "Lily"},
      {"score", Path("nan"), "--text", "Lily"},
      {"compare", Model(), Path("nan"), "--text", Path("text.txt")}};
  for (const std::vector<std::string>& command : commands) {
    ExpectError(command, 1,
                {"error: " + Path("nan") +
                 ": model.layers.1.mlp.up_proj.weight: the weight is nan at row 2, column 3; "});
  }
}

TEST_F(Cli, InspectSaysWhatCannotRun) {
  std::filesystem::copy(Model(), Path("crossed"));
  const std::string config = Path("crossed") + "/config.json";
  const auto edit = [&](const char* key, const Json& value) {
    std::ifstream in(Model() + "/config.json");
    Json json = Json::parse(in);
    json[key] = value;
    std::ofstream(config) << json;
  };
  const std::pair<const char*, Json> edits[] = {{"hidden_size", 80},
                                                {"architectures", Json({"OPTForCausalLM"})}};
  for (const auto& [key, value] : edits) {
    edit(key, value);
    const ProgramResult refused = RunHarrow({"run", Path("crossed"), "-p", "a"});
    EXPECT_NE(refused.exit_code, 0) << key;
    const std::string error = refused.err.substr(std::string("harrow: error: ").size());
    const ProgramResult text = MustRun({"inspect", Path("crossed")});
    EXPECT_NE(text.out.find("harrow cannot run this: " + error), std::string::npos)
        << text.out << error;
    const Json report = MustRun({"inspect", Path("crossed"), "-o", "json"}).Json();
    EXPECT_EQ(report["runs"], false);
    EXPECT_EQ(report["tensors"].size(), 21U);
  }
  EXPECT_EQ(MustRun({"inspect", Model(), "-o", "json"}).Json()["runs"], true);
}

TEST_F(Cli, OutputThatCannotBeWrittenIsAnError) {
  for (const std::string command : {"--help", "--version", "prune --help"}) {
    const int status = std::system(
        (std::string(HARROW_BINARY) + " " + command + " > /dev/full 2>/dev/null").c_str());
    EXPECT_EQ(WEXITSTATUS(status), 1) << command;
  }
}

TEST_F(Cli, Inspect) {
  const Json report = MustRun({"inspect", Model(), "-o", "json"}).Json();
  EXPECT_EQ(report["architecture"], "LlamaForCausalLM");
  EXPECT_EQ(report["layers"], 2);
  EXPECT_EQ(report["context"], kTinyContext);
  EXPECT_EQ(report["linear_params"], kTinyLinearParams);
  EXPECT_EQ(report["params"], kTinyLinearParams + 2 * kTinyVocab * 64 + 5 * 64);
  EXPECT_EQ(report["linear_density"], 1);
  EXPECT_EQ(report["tensors"].size(), 21u);
  EXPECT_NE(MustRun({"inspect", Model()}).out.find("model.layers.1.mlp.down_proj.weight"),
            std::string::npos);
  EXPECT_EQ(MustRun({"inspect", Path("bare"), "-o", "json"}).Json()["tokenizer"], "none");
}

TEST_F(Cli, Score) {
  const Json report = MustRun({"score", Model(), "--text", "Lily", "-o", "json"}).Json();
  EXPECT_EQ(report["ids"], Json({'L', 'i', 'l', 'y'}));
  ASSERT_EQ(report["nll"].size(), 4u);
  EXPECT_TRUE(report["nll"][0].is_null());
  double sum = 0;
  for (int i = 1; i < 4; ++i)
    sum += report["nll"][i].get<double>();
  EXPECT_NEAR(report["mean_nll"].get<double>(), sum / 3, 1e-12);
  EXPECT_NEAR(report["ppl"].get<double>(), std::exp(sum / 3), 1e-9 * std::exp(sum / 3));
  // Ids, also of a model without a tokenizer; and a file.
  EXPECT_EQ(MustRun({"score", Model(), "--ids", "76,105,108,121", "-o", "json"}).Json()["nll"],
            report["nll"]);
  EXPECT_EQ(MustRun({"score", Path("bare"), "--ids", "1,2,3", "-o", "json"}).Json()["tokens"], 3);
  std::ofstream(Path("lily.txt")) << "Lily";
  EXPECT_EQ(MustRun({"score", Model(), "--file", Path("lily.txt"), "-o", "json"}).Json(), report);
  const Json one = MustRun({"score", Model(), "--ids", "7", "-o", "json"}).Json();
  EXPECT_TRUE(one["mean_nll"].is_null());
}

TEST_F(Cli, RunIsGreedyAtTemperatureZeroAndSeeded) {
  const std::vector<std::string> greedy = {"run", Model(), "--ids",  "76,105",
                                           "-n",  "5",     "--temp", "0"};
  const ProgramResult first = MustRun(greedy);
  EXPECT_EQ(MustRun(greedy).out, first.out);
  EXPECT_EQ(std::count(first.out.begin(), first.out.end(), ','), 4);
  EXPECT_NE(first.err.find("prefill 2 tokens"), std::string::npos);
  EXPECT_NE(first.err.find("tok/s"), std::string::npos);
  // The most likely next token is the greedy one: no other scores better.
  const int next = std::stoi(first.out);
  const auto nll_of = [](int id) {
    return MustRun({"score", Model(), "--ids", "76,105," + std::to_string(id), "-o", "json"})
        .Json()["nll"][2]
        .get<double>();
  };
  for (int id : {0, 50, 100, 200})
    EXPECT_LE(nll_of(next), nll_of(id));

  std::vector<std::string> sampled = {"run", Model(),  "-p", "Li", "-n",
                                      "20",  "--seed", "7",  "-o", "json"};
  const Json a = MustRun(sampled).Json();
  EXPECT_EQ(MustRun(sampled).Json()["ids"], a["ids"]);
  EXPECT_EQ(a["new_tokens"], 20);
  EXPECT_EQ(a["stop_reason"], "length");
  sampled[7] = "8";
  EXPECT_NE(MustRun(sampled).Json()["ids"], a["ids"]);
  // The context ends a longer run.
  const Json full = MustRun({"run", Model(), "-p", "Li", "-n", "500", "-o", "json"}).Json();
  EXPECT_EQ(full["stop_reason"], "context");
}

TEST_F(Cli, PerplexityIsThatOfScoringEachWindow) {
  const Json report = MustRun({"eval", Model(), "--ppl", Path("text.txt"), "--protocol", "gptq",
                               "--seqlen", "40", "--limit", "3", "-o", "json"})
                          .Json();
  std::ifstream file(Path("text.txt"));
  std::stringstream text;
  text << file.rdbuf();
  std::vector<double> means;
  for (int w = 0; w < 3; ++w) {
    std::string ids;
    for (char c : text.str().substr(w * 40, 40)) {
      if (!ids.empty()) ids += ",";
      ids += std::to_string(static_cast<int>(c));
    }
    means.push_back(MeanNll(Model(), ids));
  }
  const double nll = (means[0] + means[1] + means[2]) / 3;
  EXPECT_NEAR(report["nll"].get<double>(), nll, 1e-9);
  EXPECT_NEAR(report["ppl"].get<double>(), std::exp(nll), 1e-8 * std::exp(nll));
  double squares = 0;
  for (double mean : means)
    squares += (mean - nll) * (mean - nll);
  EXPECT_NEAR(report["nll_stderr"].get<double>(), std::sqrt(squares / 2 / 3), 1e-9);
  EXPECT_EQ(report["windows"], 3);
  EXPECT_EQ(report["scored_tokens"], 117);
  EXPECT_EQ(report["tokens"], text.str().size());
  EXPECT_EQ(report["bos"], "none");
  EXPECT_EQ(report["text_hash"].get<std::string>().size(), 16u);

  std::ofstream(Path("short.txt")) << "too short";
  ExpectError({"eval", Model(), "--ppl", Path("short.txt")}, 2,
              {"short.txt", "9 tokens", "at least 64"});
  EXPECT_EQ(
      MustRun({"eval", Model(), "--ppl", Path("text.txt"), "--protocol", "llama.cpp", "-o", "json"})
          .Json()["protocol"],
      "llama.cpp");
}

TEST_F(Cli, TasksAreJudgedByLikelihood) {
  std::ofstream tasks(Path("copy.jsonl"));
  const auto line = [&](int answer, int distance) {
    tasks << Json({{"id", distance},
                   {"context", "Li"},
                   {"choices", {"l", "\xc3\x88"}},
                   {"answer", answer},
                   {"distance", distance}})
          << "\n";
  };
  // The second choice is two bytes; judge it through the program's own scores.
  const Json two = MustRun({"score", Model(), "--text", "Li\xc3\x88", "-o", "json"}).Json();
  const Json one = MustRun({"score", Model(), "--text", "Lil", "-o", "json"}).Json();
  const double second = two["nll"][2].get<double>() + two["nll"][3].get<double>();
  const int answer = one["nll"][2].get<double>() <= second ? 0 : 1;
  line(answer, 10);
  line(answer, 2);
  line(1 - answer, 2);
  tasks.close();
  const Json report =
      MustRun({"eval", Model(), "--tasks", Path("copy.jsonl"), "-o", "json"}).Json();
  ASSERT_EQ(report["rows"].size(), 4u);  // all, copy, copy 2, copy 10
  EXPECT_NEAR(report["rows"][0]["acc"].get<double>(), 2.0 / 3, 1e-12);
  EXPECT_EQ(report["rows"][1]["part"], "copy");
  EXPECT_EQ(report["rows"][2]["distance"], "2");
  EXPECT_EQ(report["rows"][2]["acc"], 0.5);
  EXPECT_EQ(report["rows"][3]["acc"], 1);
  EXPECT_EQ(report["rows"][0]["chance"], 0.5);
  EXPECT_EQ(report["truncated"], 0);
  EXPECT_EQ(MustRun({"eval", Model(), "--tasks", Path("copy.jsonl"), "--limit", "1", "-o", "json"})
                .Json()["rows"][0]["n"],
            1);
  std::filesystem::create_directories(Path("tasks"));
  std::filesystem::copy(Path("copy.jsonl"), Path("tasks"));
  EXPECT_EQ(MustRun({"eval", Model(), "--tasks", Path("tasks"), "-o", "json"}).Json()["rows"],
            report["rows"]);
  std::ofstream(Path("bad.jsonl")) << "{\"context\":\"x\",\"choices\":[\"a\"],\"answer\":0}\n";
  ExpectError({"eval", Model(), "--tasks", Path("bad.jsonl")}, 1, {"bad.jsonl:1", "choices"});
}

TEST_F(Cli, PruneCompareExport) {
  const ProgramResult pruned =
      MustRun({"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "-o", Path("half")});
  for (const char* what : {"on disk", "resident", "tok/s"}) {
    EXPECT_NE(pruned.out.find(what), std::string::npos) << pruned.out;
  }
  const Json inspected = MustRun({"inspect", Path("half"), "-o", "json"}).Json();
  EXPECT_EQ(inspected["linear_density"], 0.5);
  EXPECT_EQ(inspected["packed_weights"], 14);

  // The dense export has the same weights, but only the packed kernels round their inputs to BF16.
  // A rounding error is uniform with a relative deviation below 2^-9 / sqrt(3), and so is that of a
  // product's output; 4 products follow each other in each of the 2 layers, logits have a
  // deviation near sqrt(64) * 0.12 = 1, and 13 NLLs are averaged. Five standard deviations.
  const double bound = 5 * std::sqrt(8.0 / 3 / 13) * 0x1.0p-9;
  MustRun({"export", Path("half"), "--to", "hf", "-o", Path("half-dense")});
  const std::string ids = "76,105,108,121,32,104,97,100,32,97,32,99,97,116";
  EXPECT_NEAR(MeanNll(Path("half"), ids), MeanNll(Path("half-dense"), ids), bound);
  EXPECT_NE(MeanNll(Path("half"), ids), MeanNll(Model(), ids));
  EXPECT_EQ(MustRun({"inspect", Path("half-dense"), "-o", "json"}).Json()["linear_density"], 0.5);

  const Json compared = MustRun({"compare", Model(), Path("half"), "--text", Path("text.txt"), "-p",
                                 "32", "-n", "8", "-r", "3", "-o", "json"})
                            .Json();
  EXPECT_EQ(compared["accuracy"], "measured");
  EXPECT_GT(compared["kl"].get<double>(), 0);
  EXPECT_LT(compared["top1_agreement"].get<double>(), 1);
  EXPECT_LT(compared["disk_ratio"].get<double>(), 1);
  EXPECT_GT(compared["decode_speedup"].get<double>(), 0);
  EXPECT_GT(compared["prefill_speedup"].get<double>(), 0);
  EXPECT_FALSE(compared["sparse"]["kernels_decode"].empty());
  const double dense_ppl = MustRun({"eval", Model(), "--ppl", Path("text.txt"), "-o", "json"})
                               .Json()["ppl"]
                               .get<double>();
  EXPECT_NEAR(compared["dense"]["ppl"].get<double>(), dense_ppl, 1e-3 * dense_ppl);

  ExpectError({"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "-o", Path("half")},
              2, {Path("half")});
  ExpectError({"prune", Model(), "--method", "guess", "--sparsity", "0.5", "-o", Path("x")}, 2,
              {"guess"});
  ExpectError({"prune", Model(), "--sparsity", "1.5", "-o", Path("x")}, 2, {"sparsity"});
}

// Once the model is in place, neither a failing measurement nor Ctrl-C makes it a failure.
TEST_F(Cli, MeasuringAfterCompressionIsBestEffort) {
  std::filesystem::copy(Model(), Path("odd"));
  std::ofstream(Path("odd") + "/tokenizer.json") << "{";
  const std::vector<std::string> prune = {"prune",      Path("odd"), "--method", "magnitude",
                                          "--sparsity", "0.5",       "-o"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), prune.begin(), prune.end());
    return more;
  };
  const ProgramResult text = MustRun(with({Path("odd-half")}));
  EXPECT_NE(text.out.find("wrote"), std::string::npos);
  EXPECT_EQ(text.out.find("tok/s"), std::string::npos);
  EXPECT_NE(text.err.find("warning: speed was not measured"), std::string::npos) << text.err;
  const ProgramResult json = MustRun(with({Path("odd-json"), "--json"}));
  EXPECT_TRUE(json.Json()["measured"].is_null());
  EXPECT_EQ(json.Json()["compression"]["output"], Path("odd-json"));
  EXPECT_NE(json.err.find("tokenizer.json"), std::string::npos) << json.err;

  // Measuring the two models takes at least 5 * 2 * 0.3 s from the first line of output.
  const ProgramResult stopped = RunHarrow(
      {"prune", Model(), "--method", "magnitude", "--sparsity", "0.5", "-o", Path("stopped")},
      {.after_ms = 100, .on_output = true});
  EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
  EXPECT_NE(stopped.out.find("wrote"), std::string::npos);
  EXPECT_EQ(stopped.out.find("tok/s"), std::string::npos);
  EXPECT_NE(stopped.err.find("interrupted"), std::string::npos) << stopped.err;
  MustRun({"inspect", Path("stopped")});
}

TEST_F(Cli, PruneWithCalibrationAndAPattern) {
  const Json report = MustRun({"prune", Model(), "--method", "wanda", "--pattern", "2:4",
                               "--calibration", Path("text.txt"), "--samples", "4", "--seqlen",
                               "32", "-o", Path("nm"), "--json", "--no-measure"})
                          .Json();
  EXPECT_NEAR(report["compression"]["sparsity"].get<double>(), 0.5, 1e-12);
  EXPECT_TRUE(report["measured"].is_null());
  EXPECT_EQ(report["compression"]["calibration"]["samples"], 4);
  EXPECT_EQ(MustRun({"inspect", Path("nm"), "-o", "json"}).Json()["linear_density"], 0.5);
}

TEST_F(Cli, QuantizeAndRecipe) {
  MustRun({"quantize", Model(), "--weights", "int8", "--group", "32", "-o", Path("int8")});
  const std::string ids = "76,105,108,121,32,104,97,100";
  EXPECT_NEAR(MeanNll(Path("int8"), ids), MeanNll(Model(), ids), 0.2);
  EXPECT_LT(MustRun({"inspect", Path("int8"), "-o", "json"}).Json()["disk_bytes"].get<double>(),
            0.5 * MustRun({"inspect", Model(), "-o", "json"}).Json()["disk_bytes"].get<double>());
  MustRun({"quantize", Model(), "--weights", "int4", "--group", "32", "--no-symmetric", "-o",
           Path("int4")});
  const auto bytes = [&](const std::string& model) {
    return MustRun({"inspect", model, "-o", "json"}).Json()["disk_bytes"].get<double>();
  };
  EXPECT_LT(bytes(Path("int4")), 0.65 * bytes(Path("int8")));
  EXPECT_NEAR(MeanNll(Path("int4"), ids), MeanNll(Model(), ids), 1.0);
  ExpectError({"quantize", Model(), "--weights", "int4", "--group", "256", "-o", Path("z")}, 2,
              {"32, 64 or 128"});
  std::ofstream(Path("bad.yaml")) << "steps: 3\n";
  ExpectError({"compress", Model(), "-r", Path("bad.yaml"), "-o", Path("y")}, 2, {"steps"});
  ExpectError({"compress", Model(), "-r", Path("no.yaml"), "-o", Path("y")}, 1, {"no.yaml"});
}

TEST_F(Cli, CompareWithItself) {
  const Json same =
      MustRun({"compare", Model(), Model(), "--text", Path("text.txt"), "--limit", "2", "-p", "0",
               "-n", "4", "-r", "1", "--min-seconds", "0", "-o", "json"})
          .Json();
  EXPECT_EQ(same["kl"], 0);
  EXPECT_EQ(same["top1_agreement"], 1);
  EXPECT_EQ(same["delta_nll"], 0);
  EXPECT_EQ(same["disk_ratio"], 1);
  EXPECT_TRUE(same["prefill_speedup"].is_null());
  const Json speed =
      MustRun({"compare", Model(), Path("bare"), "-n", "4", "--min-seconds", "0", "-o", "json"})
          .Json();
  EXPECT_TRUE(speed["kl"].is_null());
  EXPECT_NE(speed["accuracy"].get<std::string>().find("--text"), std::string::npos);
}

// No figure from one repetition, and none in the text besides the verdict.
TEST_F(Cli, CompareSaysWhatTheTimesTell) {
  const std::vector<std::string> args = {"compare", Model(), Model(),         "-p", "0", "-n", "1",
                                         "-r",      "1",     "--min-seconds", "0"};
  const ProgramResult text = MustRun(args);
  EXPECT_NE(text.out.find("decode_verdict"), std::string::npos) << text.out;
  EXPECT_EQ(text.out.find("_speedup"), std::string::npos) << text.out;
  std::vector<std::string> json = args;
  json.insert(json.end(), {"-o", "json"});
  const Json report = MustRun(json).Json();
  EXPECT_NE(report["decode_verdict"].get<std::string>().find("one repetition"), std::string::npos);
  EXPECT_EQ(report["prefill_verdict"], "");
}

TEST_F(Cli, CompareRefusesTokenizersThatDisagree) {
  std::filesystem::copy(Model(), Path("swapped"));
  std::ifstream file(Model() + "/tokenizer.json");
  Json tokenizer = Json::parse(file);
  std::swap(tokenizer["model"]["vocab"]["h"], tokenizer["model"]["vocab"]["z"]);
  std::ofstream(Path("swapped") + "/tokenizer.json") << tokenizer;
  ExpectError({"compare", Model(), Path("swapped"), "--text", Path("text.txt")}, 2,
              {"text.txt", Path("swapped"), "tokenizer", "token 5 is 122, not 104"});
  // A model without a tokenizer takes the other's ids.
  const Json bare = MustRun({"compare", Model(), Path("bare"), "--text", Path("text.txt"),
                             "--limit", "1", "-p", "0", "-n", "0", "-o", "json"})
                        .Json();
  EXPECT_EQ(bare["accuracy"], "measured");
}

TEST_F(Cli, CompareRepetitionsLastAsLongAsAsked) {
  const auto start = std::chrono::steady_clock::now();
  const Json report = MustRun({"compare", Model(), Model(), "-p", "0", "-n", "1", "-r", "2",
                               "--min-seconds", "0.2", "-o", "json"})
                          .Json();
  EXPECT_GE(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 0.8);
  EXPECT_EQ(report["min_seconds"], 0.2);
  EXPECT_EQ(report["n_gen"], 1);
}

TEST_F(Cli, BenchKeepsWhatAPatternKeeps) {
  const std::vector<std::string> args = {"bench", "--shape", Model(), "-p", "0",    "-n",
                                         "2",     "-r",      "1",     "-o", "json", "--format"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), args.begin(), args.end());
    return more;
  };
  const Json plain = MustRun(with({"nm-i8 2:4"})).Json();
  EXPECT_EQ(plain["rows"][0]["density"], 0.5);
  EXPECT_EQ(MustRun(with({"nm-i8 2:4", "--density", "0.5"})).Json()["rows"][0]["density"], 0.5);
  ExpectError(with({"nm-i8 2:4", "--density", "0.3"}), 2, {"--density", "0.3", "2:4", "0.5"});
  ExpectError(with({"nm-i8 2:4:0.3"}), 2, {"--format", "0.3", "2 of every 4"});
  ExpectError(with({"dense-i8", "--vs", "nm-i8 2:4:0.3"}), 2, {"--vs", "0.3", "2 of every 4"});
}

TEST_F(Cli, Bench) {
  const std::vector<std::string> args = {
      "bench",     "--shape", Model(), "--format",    "bitmask-i8/32",
      "--density", "0.5",     "--vs",  "dense-i8/32", "-p",
      "16",        "-n",      "8",     "-r",          "2",
      "-t",        "1"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = args;
    all.insert(all.end(), more.begin(), more.end());
    return MustRun(all);
  };
  const Json report = with({"-o", "json"}).Json();
  ASSERT_EQ(report["rows"].size(), 4u);
  const Json& prefill = report["rows"][0];
  const Json& decode = report["rows"][2];
  EXPECT_EQ(prefill["test"], "pp16");
  EXPECT_EQ(decode["test"], "tg8");
  EXPECT_EQ(decode["threads"], 1);
  EXPECT_EQ(decode["density"], 0.5);
  EXPECT_GT(decode["ratio_low"].get<double>(), 0);
  EXPECT_GE(decode["ratio_high"], decode["ratio_low"]);
  if (!decode["ratio"].is_null()) {  // not too noisy
    EXPECT_GE(decode["ratio"], decode["ratio_low"]);
    EXPECT_LE(decode["ratio"], decode["ratio_high"]);
  } else {
    EXPECT_NE(report["notes"].dump().find("too noisy to tell"), std::string::npos);
  }
  EXPECT_TRUE(report["rows"][3]["ratio_low"].is_null());
  EXPECT_TRUE(prefill["roof_fraction"].is_null());
  EXPECT_GT(decode["roof_gbps"].get<double>(), 0);
  EXPECT_LT(decode["bytes_per_token"].get<double>(),
            report["rows"][3]["bytes_per_token"].get<double>());
  EXPECT_NEAR(decode["gbps"].get<double>(),
              decode["tps"].get<double>() * decode["bytes_per_token"].get<double>() / 1e9, 1e-9);
  EXPECT_FALSE(decode["kernels"].empty());
  EXPECT_EQ(with({"-o", "md"}).out.substr(0, 9), "| model |");
  EXPECT_EQ(with({"-o", "csv"}).out.substr(0, 13), "model,format,");
  EXPECT_NE(with({}).out.find("tg8"), std::string::npos);
  ExpectError({"bench", Model(), "-p", "65"}, 2, {"--n-prompt", "64"});
}

TEST_F(Cli, Doctor) {
  const Json report = MustRun({"doctor", "--kernels", "--isa", "scalar", "-o", "json"}).Json();
  EXPECT_EQ(report["isa_active"], "scalar");
  ASSERT_FALSE(report["kernels"].empty());
  EXPECT_EQ(report["kernels"].back()["name"], "linear.ref");
  EXPECT_EQ(report["kernels"].back()["runs_here"], true);
  EXPECT_NE(MustRun({"doctor", "--kernels"}).out.find("linear.ref"), std::string::npos);
}

TEST_F(Cli, DoctorMeasuresStoresAndExplains) {
  const std::string file = Path("profile.json");
  const auto doctor = [&file](std::vector<std::string> args) {
    args.insert(args.begin(), {"doctor", "--profile", file});
    return args;
  };
  const Json measured = MustRun(doctor({"--measure", "--quick", "--seconds", "1", "--shape",
                                        "128x256", "--only", "bitmask-i8", "-o", "json"}))
                            .Json();
  const Json& profile = measured["profile"];
  EXPECT_EQ(profile["rows"], 128);
  EXPECT_EQ(profile["key"]["cpu"], measured["cpu"]);
  EXPECT_EQ(profile["rates"][0]["unit"], "scalar");
  EXPECT_EQ(profile["bandwidths"].back()["level"], "memory");
  EXPECT_EQ(profile["fork_joins"].back()["threads"], profile["threads"]);
  ASSERT_EQ(profile["break_even"].size(), 15U)
      << "dense, bitmask and its 1x4 form at two densities, with three M each";
  EXPECT_EQ(profile["break_even"][3]["format"], "bitmask-i8/128");
  EXPECT_EQ(measured["profile_file"], file);

  const Json stored = MustRun(doctor({"-o", "json"})).Json();
  EXPECT_EQ(stored["profile"], profile);
  EXPECT_EQ(stored["profile_state"].get<std::string>().rfind("measured 2", 0), 0U);
  EXPECT_NE(MustRun(doctor({})).out.find("bitmask-i8/128"), std::string::npos);
  EXPECT_NE(MustRun(doctor({"-o", "md"})).out.find("| bitmask-i8/128 | 80 % |"), std::string::npos);
  const Json again = MustRun(doctor({"--measure", "--quick", "--seconds", "1", "--shape", "128x256",
                                     "--only", "nm-i8", "-o", "json"}))
                         .Json();
  EXPECT_EQ(again["profile"]["break_even"].size(), 18U) << "--only keeps what it does not measure";

  const Json explained = MustRun(doctor({"--explain", "256x256", "--format", "bitmask-i8",
                                         "--tokens", "1,8", "-o", "json"}))
                             .Json();
  ASSERT_EQ(explained["tokens"].size(), 2U);
  EXPECT_GT(explained["tokens"][0]["us"].get<double>(), 0);
  EXPECT_EQ(explained["tokens"][1]["cell"], "0.5, M 8");

  // A full profile is not lost to a quick one.
  Json full = Json::parse(std::ifstream(file));
  EXPECT_EQ(full["quick"], true);
  full["quick"] = false;
  Json& row = full["break_even"].back();
  row["m"] = 512;
  row["rounds"] = 20;
  row["spread"] = 0.01;
  row["us"] = row["dense_us"] = row["ratio"] = 1;
  row["kernel"] = "linear.ref";
  row["rule"] = "linear.other";
  row["kernels"] = {"linear.ref", "linear.other"};
  row["kernel_us"] = {1, 2};
  std::ofstream(file) << full;
  ExpectError(doctor({"--measure", "--quick"}), 2, {"--quick", file, "full profile"});
  EXPECT_EQ(Json::parse(std::ifstream(file)), full);
  const std::string text = MustRun(doctor({})).out;
  EXPECT_NE(text.find("and more  linear.ref"), std::string::npos) << text;
  ExpectError(doctor({"--measure", "--activations", "bf16"}), 2, {"--activations", "bf16"});

  ExpectError({"doctor", "--quick"}, 2, {"--quick", "--measure"});
  ExpectError({"doctor", "--measure"}, 2, {"--profile FILE"});
  ExpectError({"doctor", "--explain", "12"}, 2, {"--explain", "12"});
  ExpectError({"doctor", "--profile", Path("nothing.json"), "-o", "md"}, 1, {"--measure"});
}

// A profile that cannot be used is said to be so, and the work is done without it.
TEST_F(Cli, DamagedProfileWarns) {
  const std::string file = Path("damaged.json");
  std::ofstream(file) << "{\"kind\": ";
  const std::vector<std::string> run = {"score", Model(), "--ids", "1,2,3"};
  std::vector<std::string> with = run;
  with.insert(with.end(), {"--profile", file});
  const ProgramResult result = MustRun(with);
  EXPECT_NE(result.err.find("warning: machine profile not used"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(file), std::string::npos);
  EXPECT_EQ(result.out, MustRun(run).out);
  const Json report = MustRun({"doctor", "--profile", file, "-o", "json"}).Json();
  EXPECT_EQ(report["profile_state"].get<std::string>().rfind("not used: ", 0), 0U);
}

TEST_F(Cli, InterruptExitsWith130) {
  const ProgramResult result =
      RunHarrow({"bench", Model(), "-p", "64", "-n", "64", "-r", "1000"}, {.after_ms = 700});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("interrupted"), std::string::npos);
}

TEST_F(Cli, InterruptedCompressionSaysHowToGoOn) {
  {
    std::ofstream text(Path("long.txt"));
    for (int i = 0; i < 40000; ++i)
      text << "Lily had " << i << " cats and a dog.\n";
  }
  const std::vector<std::string> args = {"prune",
                                         Model(),
                                         "--method",
                                         "wanda",
                                         "--sparsity",
                                         "0.5",
                                         "--calibration",
                                         Path("long.txt"),
                                         "--mode",
                                         "concat",
                                         "--samples",
                                         "50000",
                                         "--seqlen",
                                         "16",
                                         "-o",
                                         Path("cut_short")};
  const ProgramResult stopped = RunHarrow(args, {.after_ms = 500});
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_NE(stopped.err.find("cancelled; the same command continues\n"), std::string::npos)
      << stopped.err;
}

TEST_F(Cli, ProgressGoesToStderrOnRequest) {
  const std::vector<std::string> args = {"eval",           Model(),   "--ppl",
                                         Path("text.txt"), "--limit", "2"};
  EXPECT_EQ(MustRun(args).err, "");
  std::vector<std::string> loud = args;
  loud.push_back("--progress");
  EXPECT_NE(MustRun(loud).err.find("windows 2/2"), std::string::npos);
}

// docs/cli.md carries the program's own reference, so the two cannot drift apart.
TEST_F(Cli, DocumentationIsCurrent) {
  std::ifstream file(SourcePath("docs/cli.md"));
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(MustRun({"reference"}).out), std::string::npos)
      << "replace the part after <!-- reference --> of docs/cli.md by `harrow reference`";
}

}  // namespace
}  // namespace harrow::testing
