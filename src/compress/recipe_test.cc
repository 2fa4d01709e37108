#include "compress/recipe.h"

#include <gtest/gtest.h>

#include "harrow/compress.h"

namespace harrow {
namespace {

constexpr char kFull[] =
    R"(calibration: {file: c4.jsonl, samples: 16, sequence_length: 64, seed: 3, mode: concat}
steps:
  - method: sparsegpt
    sparsity: 0.5
    targets: ["re:.*mlp.*", model.layers.0.self_attn.q_proj]
    ignore: ["re:down"]
    damping: 0.02
    block_size: 64
  - method: rtn
    format: int8
    group: 64
    embed: false
store: dense
output_error: true
)";

TEST(RecipeTest, ReadsEveryKey) {
  const Result<Recipe> recipe = ParseRecipe(kFull, "r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
  EXPECT_EQ(recipe->calibration->file, "c4.jsonl");
  EXPECT_EQ(recipe->calibration->samples, 16);
  EXPECT_EQ(recipe->calibration->sequence_length, 64);
  EXPECT_EQ(recipe->calibration->seed, 3);
  EXPECT_EQ(recipe->calibration->mode, CalibrationMode::kConcat);
  ASSERT_EQ(recipe->steps.size(), 2u);
  EXPECT_EQ(recipe->steps[0].method_name, "sparsegpt");
  EXPECT_EQ(recipe->steps[0].targets.size(), 2u);
  EXPECT_EQ(recipe->steps[0].ignore.size(), 1u);
  EXPECT_EQ(recipe->steps[0].method->needs(), StatisticsNeed::kHessian);
  EXPECT_TRUE(recipe->steps[1].method->quantizes());
  EXPECT_FALSE(recipe->steps[1].method->includes_embedding());
  EXPECT_EQ(recipe->store, Store::kDense);
  EXPECT_TRUE(recipe->output_error);
}

TEST(RecipeTest, DefaultsAreThePapers) {
  const Result<Recipe> recipe =
      ParseRecipe("calibration: {file: a.txt}\nsteps: [{method: wanda, pattern: 2:4}]", "r");
  ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
  EXPECT_EQ(recipe->calibration->samples, 128);
  EXPECT_EQ(recipe->calibration->sequence_length, 0);
  EXPECT_EQ(recipe->calibration->seed, 0);
  EXPECT_EQ(recipe->calibration->mode, CalibrationMode::kPapers);
  EXPECT_EQ(recipe->store, Store::kSmall);
}

// The canonical text has all defaults and means the same recipe.
TEST(RecipeTest, CanonicalTextIsAFixedPoint) {
  for (const std::string& yaml :
       {std::string(kFull), std::string("steps: [{method: rtn}]"),
        std::string("calibration: {file: \"ü \\\"q\\\".txt\"}\nsteps: [{method: sparsegpt, "
                    "pattern: \"4:8\"}]")}) {
    const Result<Recipe> recipe = ParseRecipe(yaml, "r");
    ASSERT_TRUE(recipe.ok()) << recipe.status().ToString();
    const Result<Recipe> again = ParseRecipe(recipe->canonical, "canonical");
    ASSERT_TRUE(again.ok()) << again.status().ToString() << recipe->canonical;
    EXPECT_EQ(again->canonical, recipe->canonical);
  }
}

struct BadRecipe {
  const char* yaml;
  const char* expected;  // a part of the message
};

TEST(RecipeTest, MistakesNameLineKeyAndExpectation) {
  const std::string cal = "calibration: {file: a.txt}\n";
  const BadRecipe cases[] = {
      {"", "empty document"},
      {"- a", "expected a mapping"},
      {"steps: [", "not YAML"},
      {"steps: []\n---\nsteps: []", "several documents"},
      {"calibration: {file: a.txt}", "steps: missing"},
      {"steps: []", "1 to 1000 steps"},
      {"steps: {method: rtn}", "r.yaml:1: steps: expected a list"},
      {"steps:\n - 7", "r.yaml:2: steps[0]: expected a mapping"},
      {"steps:\n - format: int8", "steps[0].method: missing; expected magnitude"},
      {"steps:\n - method: snip", "r.yaml:2: steps[0].method: expected magnitude | wanda"},
      {"steps:\n - method: rtn\n   colour: red", "r.yaml:3: steps[0].colour: unknown key"},
      {"stepz: []\nsteps: [{method: rtn}]", "r.yaml:1: stepz: unknown key"},
      {"steps: [{method: rtn}]\nsteps: [{method: rtn}]", "r.yaml:2: steps: given twice"},
      {"steps: [{method: rtn, format: int3}]", "expected int8 | int4, found \"int3\""},
      {"steps: [{method: rtn, format: int4, group: 96}]", "32, 64 or 128"},
      {"steps: [{method: rtn, symmetric: false}]", "symmetric: expected true"},
      {"steps: [{method: rtn, group: 48}]", "multiple of 32"},
      {"steps: [{method: rtn, group: 0}]", "expected an integer in [32"},
      {"steps: [{method: rtn, group: big}]", "expected an integer in [32, 65536], found \"big\""},
      {"steps: [{method: rtn, embed: 1}]", "expected true or false"},
      {"steps: [{method: magnitude}]", "steps[0].sparsity: missing"},
      {"steps: [{method: magnitude, sparsity: 0.5, pattern: 2:4}]", "not both"},
      {"steps: [{method: magnitude, sparsity: 1.5}]",
       "steps[0].sparsity: expected a fraction, 0 < sparsity < 1, found \"1.5\""},
      {"steps: [{method: magnitude, sparsity: 0}]",
       "steps[0].sparsity: expected a fraction, 0 < sparsity < 1, found \"0\""},
      {"steps: [{method: magnitude, sparsity: 1}]",
       "steps[0].sparsity: expected a fraction, 0 < sparsity < 1, found \"1\""},
      {"steps: [{method: magnitude, sparsity: nan}]", "expected a fraction"},
      {"steps: [{method: magnitude, sparsity: \"0.5\"}]", "expected a fraction"},
      {"steps: [{method: magnitude, sparsity: [0.5]}]", "found a list"},
      {"steps: [{method: magnitude, pattern: 4:2}]", "keep N of every M"},
      {"steps: [{method: magnitude, sparsity: 0.5, targets: \"re:(\"}]",
       "not a regular expression"},
      {"steps: [{method: magnitude, sparsity: 0.5, targets: []}]", "a list of 1 to"},
      {"steps: [{method: magnitude, sparsity: 0.5, ignore: {a: b}}]", "found a mapping"},
      {"steps: [{method: magnitude, sparsity: 0.5, damping: 1}]", "damping: unknown key"},
      // An absent key may be there, misspelt.
      {"steps: [{method: magnitude, sparsty: 0.5}]",
       "r.yaml:1: steps[0].sparsty: unknown key (did you mean sparsity?)"},
      {"steps: [{method: magnitude, sparsty: 0.5, patern: x}]", "steps[0].sparsty: unknown key"},
      {"steps: [{method: magnitude, colour: red}]",
       "steps[0].colour: unknown key; expected one of"},
      {"calibration: {flie: a}\nsteps: [{method: rtn}]", "flie: unknown key (did you mean file?)"},
      {"structure: [{method: shortgpt, drops: 1}]", "drops: unknown key (did you mean drop?)"},
      {"structure: [{method: flap, ration: 0.2}]", "ration: unknown key (did you mean ratio?)"},
      {"step: [{method: rtn}]", "r.yaml:1: step: unknown key (did you mean steps?)"},
      {"steps: [{methd: rtn}]", "steps[0].method: missing; expected magnitude"},
      {"steps: [{method: magnitude, sparsty: 0.5, sparsty: 0.5}]", "sparsty: given twice"},
      {"steps: [{method: magnitude, sparsity: 50}]", "found \"50\"; 50 % is 0.5"},
      {"steps: [{method: wanda, sparsity: 0.5}]", "calibration: missing"},
      {"output_error: true\nsteps: [{method: magnitude, sparsity: 0.5}]", "output_error needs it"},
      {"steps: [{method: rtn}]\nstore: sparse", "r.yaml:2: store: expected auto | fast | dense"},
      {"calibration: {samples: 3}\nsteps: [{method: rtn}]", "calibration.file: missing"},
      {"calibration: {file: a, samples: 0}\nsteps: [{method: rtn}]", "expected an integer in [1"},
      {"calibration: {file: a, mode: random}\nsteps: [{method: rtn}]", "papers | concat"},
      {"calibration: 3\nsteps: [{method: rtn}]", "calibration: expected a mapping"},
      {"calibration: {file: a}\nsteps: [{method: sparsegpt, pattern: 3:7}]", "block_size"},
      {"calibration: {file: a}\nsteps: [{method: sparsegpt, sparsity: 0.5, damping: -1}]",
       "expected a number in [0, 100]"},
      {"calibration: {file: a}\nsteps: [{method: sparsegpt, sparsity: 0.5, damping: 0, "
       "allow_damping_escalation: true}]",
       "must not be 0"},
  };
  for (const BadRecipe& bad : cases) {
    const Result<Recipe> recipe = ParseRecipe(bad.yaml, "r.yaml");
    ASSERT_FALSE(recipe.ok()) << bad.yaml;
    EXPECT_EQ(recipe.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(recipe.status().message().find(bad.expected), std::string::npos)
        << bad.yaml << "\n  -> " << recipe.status().message();
    EXPECT_NE(recipe.status().message().find("r.yaml"), std::string::npos);
  }
}

TEST(RecipeTest, HostileTextIsRefused) {
  EXPECT_FALSE(ParseRecipe(std::string(2 << 20, ' '), "r").ok());
  EXPECT_FALSE(ParseRecipe(std::string(100000, '['), "r").ok());
  EXPECT_FALSE(ParseRecipe(std::string(100000, '{'), "r").ok());
  // Found by fuzz_recipe: yaml-cpp never came back from text behind a NUL.
  const Result<Recipe> nul = ParseRecipe(std::string("# Rec\n\0\0\0ipes\n\nA", 16), "r");
  ASSERT_FALSE(nul.ok());
  EXPECT_NE(nul.status().message().find("r:2: control character 0x00"), std::string::npos);
  EXPECT_FALSE(ParseRecipe("!,", "r").ok());
  EXPECT_FALSE(ParseRecipe("steps: [{method: rtn, ignore: \"\xff\"}]", "r").ok());
  EXPECT_FALSE(ParseRecipe("a: &a [*a]\nsteps: [{method: rtn}]", "r").ok());
  EXPECT_FALSE(
      ParseRecipe("steps: [{method: rtn, targets: \"re:" + std::string(300, '(') + "\"}]", "r")
          .ok());
}

TEST(RecipeTest, NamesMatchWithAndWithoutSuffix) {
  EXPECT_TRUE(MatchesExactly("lm_head", "lm_head.weight"));
  EXPECT_TRUE(MatchesExactly("lm_head.weight", "lm_head.weight"));
  EXPECT_FALSE(MatchesExactly("lm", "lm_head.weight"));
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  EXPECT_TRUE(*MatchesRegex("re:layers\\.[01]\\.", up));
  EXPECT_FALSE(*MatchesRegex("re:^layers", up));
  EXPECT_FALSE(*MatchesRegex("layers", up));
  // "No match" would silently leave the weight as it is.
  const Result<bool> failed = MatchesRegex("re:(", up);
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.status().message().find(up), std::string::npos);
}

TEST(ShortFormsTest, PruneIsARecipe) {
  PruneOptions options;
  options.sparsity = 0.6;
  options.calibration = "odd \"name\".txt";
  options.mode = "concat";
  options.samples = 7;
  options.weights = "int8";
  options.group = 64;
  options.ignore = {"re:down"};
  const Result<std::string> yaml = PruneRecipe(options);
  ASSERT_TRUE(yaml.ok()) << yaml.status().ToString();
  const Result<Recipe> recipe = ParseRecipe(*yaml, "r");
  ASSERT_TRUE(recipe.ok()) << recipe.status().ToString() << *yaml;
  EXPECT_EQ(recipe->calibration->file, options.calibration);
  EXPECT_EQ(recipe->calibration->samples, 7);
  ASSERT_EQ(recipe->steps.size(), 2u);
  EXPECT_EQ(recipe->steps[0].method_name, "sparsegpt");
  EXPECT_EQ(recipe->steps[0].ignore, options.ignore);
  EXPECT_EQ(recipe->steps[1].method_name, "rtn");
  EXPECT_NE(recipe->canonical.find("\"sparsity\": 0.6"), std::string::npos) << recipe->canonical;
}

TEST(ShortFormsTest, BadFlagsAreErrors) {
  PruneOptions prune;
  prune.calibration = "a.txt";
  EXPECT_FALSE(PruneRecipe(prune).ok());  // neither sparsity nor pattern
  prune.pattern = "2:4";
  EXPECT_TRUE(PruneRecipe(prune).ok());
  prune.sparsity = 0.5;
  EXPECT_FALSE(PruneRecipe(prune).ok());  // both
  prune.pattern = "";
  for (const std::string method : {"obs", "gptq", "dsnot", ""}) {
    prune.method = method;
    const Status status = PruneRecipe(prune).status();
    EXPECT_NE(status.message().find("--method: expected magnitude | wanda | ria | sparsegpt | alps "
                                    "| lasso, found \"" +
                                    method + "\""),
              std::string::npos)
        << status.ToString();
  }
  prune.method = "wanda";
  prune.weights = "int3";
  EXPECT_FALSE(PruneRecipe(prune).ok());
  prune.weights = "";
  prune.calibration = "";
  EXPECT_EQ(PruneRecipe(prune).status().message().find("--calibration: missing"), 0u);
  prune.method = "magnitude";
  EXPECT_TRUE(PruneRecipe(prune).ok());

  QuantizeOptions quantize;
  EXPECT_TRUE(QuantizeRecipe(quantize).ok());
  const Result<Recipe> all = ParseRecipe(*QuantizeRecipe(quantize), "r");
  ASSERT_TRUE(all.ok());
  EXPECT_TRUE(all->steps[0].method->includes_embedding());
  quantize.targets = {"re:down_proj"};
  const Result<Recipe> some = ParseRecipe(*QuantizeRecipe(quantize), "r");
  ASSERT_TRUE(some.ok());
  EXPECT_FALSE(some->steps[0].method->includes_embedding());
  quantize.group = 33;
  EXPECT_FALSE(QuantizeRecipe(quantize).ok());
  quantize.group = 128;
  quantize.weights = "fp4";
  EXPECT_FALSE(QuantizeRecipe(quantize).ok());

  quantize.weights = "int4";
  quantize.targets.clear();
  for (const std::string method : {"gptq", "awq"}) {
    quantize.method = method;
    quantize.calibration = "";
    EXPECT_FALSE(QuantizeRecipe(quantize).ok());
    quantize.calibration = "a.txt";
    const Result<std::string> text = QuantizeRecipe(quantize);
    ASSERT_TRUE(text.ok()) << text.status().ToString();
    const Result<Recipe> recipe = ParseRecipe(*text, "r");
    ASSERT_TRUE(recipe.ok());
    // The embedding and the head, which no block number is part of, are rounded to nearest.
    ASSERT_EQ(recipe->steps.size(), 2u);
    EXPECT_EQ(recipe->steps[0].method_name, method);
    EXPECT_FALSE(recipe->steps[0].method->includes_embedding());
    EXPECT_TRUE(recipe->steps[1].method->includes_embedding());
    const std::string& rest = recipe->steps[1].ignore.back();
    EXPECT_TRUE(*MatchesRegex(rest, "model.layers.10.mlp.up_proj.weight"));
    EXPECT_FALSE(*MatchesRegex(rest, "model.embed_tokens.weight"));
    EXPECT_FALSE(*MatchesRegex(rest, "lm_head.weight"));
    quantize.embed = false;
    EXPECT_EQ(ParseRecipe(*QuantizeRecipe(quantize), "r")->steps.size(), 1u);
    quantize.embed = true;
  }
  quantize.method = "obs";
  EXPECT_FALSE(QuantizeRecipe(quantize).ok());
}

TEST(ShortFormsTest, MessagesAreAboutFlags) {
  const std::pair<const char*, const char*> cases[] = {
      {"recipe:2: steps[0].targets: \"x\" matches nothing", "--targets: \"x\" matches nothing"},
      {"recipe:4: steps[1].format: expected", "--weights: expected"},
      {"recipe:11: allocation.file: missing", "--sensitivity: missing"},
      {"recipe:11: allocation.method: expected", "--allocation: expected"},
      {"recipe:11: allocation: recipe:3: steps[0]: too much", "--allocation: too much"},
      {"recipe:2: calibration.file: no such file", "--calibration: no such file"},
      {"recipe:2: calibration.sequence_length: 9", "--sequence-length: 9"},
      {"recipe:3: steps[0]: model.x: not 2:4", "model.x: not 2:4"},
      {"recipe:3: steps[0]: a comes before it (recipe:5: steps[1])",
       "a comes before it (steps[1])"},
      {"model.safetensors: no such file", "model.safetensors: no such file"}};
  for (const auto& [message, typed] : cases)
    EXPECT_EQ(InFlags(message), typed);
}

}  // namespace
}  // namespace harrow
