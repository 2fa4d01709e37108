#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;
using testing::ConfigText;
using testing::ExpectError;
using testing::FloatTensor;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;

using Writer = std::unique_ptr<CheckpointWriter>;

HfConfig TestConfig() {
  return *ParseHfConfig(ConfigText(R"(, "torch_dtype": "float32")"), "config.json");
}

CheckpointWriter::Options Key(const std::string& key) {
  CheckpointWriter::Options options;
  options.resume_key = key;
  return options;
}

Writer Create(const std::string& directory, const CheckpointWriter::Options& options) {
  auto writer = CheckpointWriter::Create(directory, options);
  EXPECT_TRUE(writer.ok()) << writer.status().ToString();
  return writer.ok() ? *std::move(writer) : nullptr;
}

// A shard with the tensors "<shard>.a" = [value, ...] and the packed "<shard>.w".
Status WriteShard(CheckpointWriter* writer, const std::string& shard, float value) {
  const std::vector<float> w(32 * 32, value);
  HARROW_ASSIGN_OR_RETURN(const LinearWeight packed,
                          PackWeight(*ParseSpec("bitmask-bf16"), 32, 32, w.data()));
  HARROW_RETURN_IF_ERROR(writer->BeginShard(shard));
  HARROW_RETURN_IF_ERROR(writer->AddTensor(shard + ".a", FloatTensor({3}, {value, value, value})));
  HARROW_RETURN_IF_ERROR(writer->AddLinear(shard + ".w", packed));
  return writer->EndShard();
}

#define ASSERT_STATUS_OK(expr)                                   \
  do {                                                           \
    const Status assert_status = (expr);                         \
    ASSERT_TRUE(assert_status.ok()) << assert_status.ToString(); \
  } while (false)

// What WriteShard wrote is there, whole.
void ExpectShards(const std::string& directory, const std::map<std::string, float>& shards) {
  const auto checkpoint = Checkpoint::Open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ((*checkpoint)->tensors().names().size(), 2 * shards.size());
  for (const auto& [shard, value] : shards) {
    EXPECT_EQ(*(*checkpoint)->Float32(shard + ".a", {3}), std::vector<float>(3, value));
    const auto weight = (*checkpoint)->Linear(shard + ".w", 32, 32);
    ASSERT_TRUE(weight.ok()) << weight.status().ToString();
    std::vector<float> w(32 * 32);
    UnpackRows(*weight, 0, 32, w.data());
    EXPECT_EQ(w, std::vector<float>(32 * 32, value));
  }
}

std::vector<std::string> FilesOf(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(CheckpointWriter, OneShardNeedsNoIndex) {
  TempDir dir;
  const std::string out = dir.File("out");
  Writer writer = Create(out + "/", {});
  ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 2));
  EXPECT_FALSE(fs::exists(out));
  ASSERT_STATUS_OK(writer->WriteSideFile("report.json", "{}"));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  EXPECT_EQ(FilesOf(out),
            (std::vector<std::string>{"config.json", "model.safetensors", "report.json"}));
  EXPECT_EQ(FilesOf(dir.path()), std::vector<std::string>{"out"});
  ExpectShards(out, {{"s", 2}});
}

TEST(CheckpointWriter, SeveralShardsHaveAnIndex) {
  TempDir dir;
  const std::string out = dir.File("deep/er/out");
  Writer writer = Create(out, {});
  for (const auto& [shard, value] : std::map<std::string, float>{{"b", 2}, {"a", 1}, {"c", 3}})
    ASSERT_STATUS_OK(WriteShard(writer.get(), shard, value));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  EXPECT_EQ(FilesOf(out), (std::vector<std::string>{
                              "config.json", "model-00001-of-00003.safetensors",
                              "model-00002-of-00003.safetensors",
                              "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  const auto index = nlohmann::json::parse(ReadBytes(out + "/model.safetensors.index.json"));
  EXPECT_EQ(index["weight_map"]["b.a"], "model-00002-of-00003.safetensors");
  uint64_t total = 0;
  const auto source = OpenSafetensors(out);
  for (const std::string& name : (*source)->names())
    total += (*source)->Find(name)->bytes();
  EXPECT_EQ(index["metadata"]["total_size"], total);
  ExpectShards(out, {{"a", 1}, {"b", 2}, {"c", 3}});
}

TEST(CheckpointWriter, TensorsOfWholeCacheLinesAreAligned) {
  TempDir dir;
  Writer writer = Create(dir.File("out"), {});
  ASSERT_STATUS_OK(writer->BeginShard("s"));
  for (int i = 0; i < 9; ++i) {
    const int64_t n = i % 3 == 0 ? 16 * (i + 1) : i;
    ASSERT_STATUS_OK(writer->AddTensor(
        fmt::format("t{}", i), FloatTensor({n}, std::vector<float>(static_cast<size_t>(n)))));
  }
  ASSERT_STATUS_OK(writer->EndShard());
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  const auto source = OpenSafetensors(dir.File("out"));
  for (const std::string& name : (*source)->names()) {
    const auto view = (*source)->Find(name);
    if (view->bytes() % 64 == 0) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 64, 0u) << name;
    }
  }
}

TEST(CheckpointWriter, MisuseIsAnError) {
  TempDir dir;
  Writer writer = Create(dir.File("out"), {});
  const auto kInvalid = StatusCode::kInvalidArgument;
  const TensorView t = FloatTensor({1}, {1});
  ExpectError(writer->AddTensor("t", t), kInvalid, {"tensor t", "no shard"});
  ExpectError(writer->EndShard(), kInvalid, {"no shard"});
  ExpectError(writer->Finish(TestConfig(), "", ""), kInvalid, {dir.File("out"), "no shards"});
  ExpectError(writer->BeginShard("../x"), kInvalid, {"../x"});
  ASSERT_STATUS_OK(writer->BeginShard("s"));
  ExpectError(writer->BeginShard("s2"), kInvalid, {"shard s"});
  ExpectError(writer->Finish(TestConfig(), "", ""), kInvalid, {"shard s"});
  ExpectError(writer->EndShard(), kInvalid, {"shard s", "no tensors"});
  ASSERT_STATUS_OK(writer->BeginShard("s"));
  ASSERT_STATUS_OK(writer->AddTensor("t", t));
  ExpectError(writer->AddTensor("t", t), kInvalid, {"tensor t", "twice"});
  ASSERT_STATUS_OK(writer->EndShard());
  ExpectError(writer->BeginShard("s"), kInvalid, {"shard s", "finished"});
  ASSERT_STATUS_OK(writer->BeginShard("s2"));
  ASSERT_STATUS_OK(writer->AddTensor("t", t));
  ASSERT_STATUS_OK(writer->EndShard());
  ExpectError(writer->Finish(TestConfig(), "", ""), kInvalid, {"tensor t", "two shards"});
  for (const char* name :
       {"config.json", "../x", "model.safetensors", "", "a/b", "model.safetensors.index.json"}) {
    ExpectError(writer->WriteSideFile(name, ""), kInvalid, {name});
  }
  ExpectError(CheckpointWriter::Create("", {}).status(), kInvalid, {"output directory"});
}

TEST(CheckpointWriter, WithoutAKeyNothingStaysBehind) {
  TempDir dir;
  {
    Writer writer = Create(dir.File("out"), {});
    ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 2));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  {
    Writer writer = Create(dir.File("out"), Key("k"));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 2));
    writer->Discard();
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

// A killed run without a key leaves its folder: the next run, with a key or not, starts anew.
TEST(CheckpointWriter, WhatAKilledRunWithoutAKeyLeftIsCleared) {
  TempDir dir;
  const std::string out = dir.File("out"), partial = out + ".partial";
  for (const char* key : {"", "k"}) {
    for (const bool got_to_its_key : {false, true}) {
      fs::create_directories(partial + "/model");
      WriteBytes(partial + "/harrow.lock", "");
      WriteBytes(partial + "/model/0.safetensors", "torn");
      if (got_to_its_key) WriteBytes(partial + "/resume.json", R"({"resume_key": ""})");
      Writer writer = Create(out, Key(key));
      ASSERT_NE(writer, nullptr);
      EXPECT_TRUE(fs::is_empty(partial + "/model"));
      writer->Discard();
      EXPECT_TRUE(fs::is_empty(dir.path()));
    }
  }
  // A key that cannot be read may be that of a run worth continuing.
  fs::create_directories(partial);
  WriteBytes(partial + "/harrow.lock", "");
  WriteBytes(partial + "/resume.json", "{");
  ExpectError(CheckpointWriter::Create(out, {}).status(), StatusCode::kCorruption,
              {partial + "/resume.json"});
  EXPECT_TRUE(fs::exists(partial + "/resume.json"));
}

// One discards while another opens the same lock file: never do two of them hold the folder.
TEST(CheckpointWriter, DiscardNeverLetsTwoIn) {
  TempDir dir;
  const std::string out = dir.File("out");
  std::atomic<int> holders{0}, taken{0};
  std::atomic<bool> clash{false};
  const auto work = [&] {
    for (int i = 0; i < 100; ++i) {
      auto writer = CheckpointWriter::Create(out, Key("k"));
      if (!writer.ok()) {
        EXPECT_NE(writer.status().message().find("another process"), std::string::npos)
            << writer.status().ToString();
        continue;
      }
      ++taken;
      if (++holders > 1) clash = true;
      if (!fs::exists(out + ".partial/resume.json")) clash = true;
      --holders;
      (*writer)->Discard();
    }
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_FALSE(clash);
  EXPECT_GT(taken, 0);
}

TEST(CheckpointWriter, OverwritePolicy) {
  TempDir dir;
  const std::string out = dir.File("out");
  const auto kInvalid = StatusCode::kInvalidArgument;
  CheckpointWriter::Options overwrite;
  overwrite.overwrite = true;

  WriteBytes(out, "a file");
  ExpectError(CheckpointWriter::Create(out, overwrite).status(), kInvalid, {out, "directory"});
  fs::remove(out);
  fs::create_directory(out);  // an empty directory is free to take
  {
    Writer writer = Create(out, {});
    ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 1));
    ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  }
  ExpectError(CheckpointWriter::Create(out, {}).status(), kInvalid, {out, "not empty"});
  WriteBytes(out + "/leftover.json", "{}");
  {
    // The old directory is there, and readable, until the new one is whole.
    const auto before = Checkpoint::Open(out);
    ASSERT_TRUE(before.ok());
    Writer writer = Create(out, overwrite);
    ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 5));
    ExpectShards(out, {{"s", 1}});
    ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
    EXPECT_EQ((*before)->Float32("s.a", {3})->front(), 1);  // its mapping outlives the file
  }
  ExpectShards(out, {{"s", 5}});
  EXPECT_FALSE(fs::exists(out + "/leftover.json"));
  EXPECT_EQ(FilesOf(dir.path()), std::vector<std::string>{"out"});

  fs::remove(out + "/config.json");
  ExpectError(CheckpointWriter::Create(out, overwrite).status(), kInvalid, {out, "config.json"});
  EXPECT_TRUE(fs::exists(out + "/model.safetensors"));
}

TEST(CheckpointWriter, ResumesFinishedShards) {
  TempDir dir;
  const std::string out = dir.File("out");
  {
    Writer writer = Create(out, Key("k"));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "0", 1));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "1", 2));
    ASSERT_STATUS_OK(writer->BeginShard("2"));
    ASSERT_STATUS_OK(writer->AddTensor("2.a", FloatTensor({1}, {1})));
  }
  EXPECT_FALSE(fs::exists(out));
  WriteBytes(out + ".partial/model/2.safetensors.123.tmp", "torn");
  ExpectError(CheckpointWriter::Create(out, Key("other")).status(), StatusCode::kInvalidArgument,
              {out + ".partial", "--restart", "remove the folder"});
  ExpectError(CheckpointWriter::Create(out, {}).status(), StatusCode::kInvalidArgument,
              {out + ".partial", "--restart", "remove the folder"});
  {
    Writer writer = Create(out, Key("k"));
    EXPECT_TRUE(writer->HasShard("0"));
    EXPECT_TRUE(writer->HasShard("1"));
    EXPECT_FALSE(writer->HasShard("2"));
    const auto shard = writer->OpenShard("1");
    ASSERT_TRUE(shard.ok()) << shard.status().ToString();
    const auto packed = writer->ShardPackedInfo("1");
    ASSERT_EQ(packed.size(), 1u);
    const auto weight = RestorePackedWeight("1.w", packed.at("1.w"), *(*shard)->Find("1.w.packed"));
    ASSERT_TRUE(weight.ok()) << weight.status().ToString();
    EXPECT_EQ(weight->rows, 32);
    EXPECT_TRUE(writer->ShardPackedInfo("2").empty());
    ExpectError(writer->OpenShard("2").status(), StatusCode::kNotFound, {"shard 2"});
    // While it lives, nobody else may write there.
    ExpectError(CheckpointWriter::Create(out, Key("k")).status(), StatusCode::kInvalidArgument,
                {out + ".partial", "another process"});
    ASSERT_STATUS_OK(WriteShard(writer.get(), "2", 3));
    ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  }
  ExpectShards(out, {{"0", 1}, {"1", 2}, {"2", 3}});
  EXPECT_EQ(FilesOf(out).size(), 5u);
  EXPECT_EQ(FilesOf(dir.path()), std::vector<std::string>{"out"});
}

TEST(CheckpointWriter, DamagedWorkFilesAreRedone) {
  TempDir dir;
  const std::string out = dir.File("out"), model = out + ".partial/model/";
  const auto write_all = [&] {
    Writer writer = Create(out, Key("k"));
    for (const char* shard : {"cut", "flip", "gone", "norecord", "badrecord", "good"}) {
      if (!writer->HasShard(shard)) {
        ASSERT_STATUS_OK(WriteShard(writer.get(), shard, 1));
      }
    }
  };
  write_all();
  const uint64_t size = fs::file_size(model + "cut.safetensors");
  fs::resize_file(model + "cut.safetensors", size - 1);
  testing::PatchByte(model + "flip.safetensors", size - 5, '\x7f');
  fs::remove(model + "gone.safetensors");
  fs::remove(out + ".partial/shard-norecord.json");
  WriteBytes(out + ".partial/shard-badrecord.json", R"({"file_bytes": )");
  WriteBytes(out + ".partial/notes.json", "of the caller");
  {
    Writer writer = Create(out, Key("k"));
    EXPECT_TRUE(writer->HasShard("good"));
    for (const char* shard : {"cut", "flip", "gone", "norecord", "badrecord"})
      EXPECT_FALSE(writer->HasShard(shard)) << shard;
    EXPECT_EQ(FilesOf(model), std::vector<std::string>{"good.safetensors"});
    EXPECT_TRUE(fs::exists(out + ".partial/notes.json"));
  }
  write_all();
  Writer writer = Create(out, Key("k"));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  ExpectShards(
      out, {{"cut", 1}, {"flip", 1}, {"gone", 1}, {"norecord", 1}, {"badrecord", 1}, {"good", 1}});
}

TEST(CheckpointWriter, DiscardPartialStartsAgain) {
  TempDir dir;
  const std::string out = dir.File("out");
  {
    Writer writer = Create(out, Key("old"));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "0", 1));
  }
  CheckpointWriter::Options options = Key("new");
  options.discard_partial = true;
  Writer writer = Create(out, options);
  EXPECT_FALSE(writer->HasShard("0"));
  ASSERT_STATUS_OK(WriteShard(writer.get(), "0", 9));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  ExpectShards(out, {{"0", 9}});
}

TEST(CheckpointWriter, AFolderThatIsNotOursIsLeftAlone) {
  TempDir dir;
  const std::string out = dir.File("out");
  fs::create_directory(out + ".partial");
  WriteBytes(out + ".partial/thesis.txt", "precious");
  CheckpointWriter::Options options = Key("k");
  options.discard_partial = true;
  ExpectError(CheckpointWriter::Create(out, options).status(), StatusCode::kInvalidArgument,
              {out + ".partial", "something else"});
  EXPECT_EQ(ReadBytes(out + ".partial/thesis.txt"), "precious");
}

// Finish was interrupted between its renames: the shards are found again under either name.
TEST(CheckpointWriter, ResumesAnInterruptedFinish) {
  TempDir dir;
  const std::string out = dir.File("out"), model = out + ".partial/model/";
  {
    Writer writer = Create(out, Key("k"));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "0", 1));
    ASSERT_STATUS_OK(WriteShard(writer.get(), "1", 2));
  }
  WriteBytes(out + ".partial/finish.json",
             R"({"0": "model-00001-of-00002.safetensors", "1": "model-00002-of-00002.safetensors",
                 "x": "../../victim", "y": 3})");
  WriteBytes(model + "config.json", "{}");
  fs::rename(model + "0.safetensors", model + "model-00001-of-00002.safetensors");
  Writer writer = Create(out, Key("k"));
  EXPECT_TRUE(writer->HasShard("0"));
  EXPECT_TRUE(writer->HasShard("1"));
  EXPECT_FALSE(fs::exists(model + "config.json"));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  ExpectShards(out, {{"0", 1}, {"1", 2}});
}

TEST(CheckpointWriter, CopiesSideFiles) {
  TempDir dir;
  const std::string source = dir.File("source"), out = dir.File("out");
  fs::create_directories(source + "/sub.json");
  for (const char* name : {"tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja",
                           "LICENSE", "config.json", "model.safetensors", "weights.bin",
                           "pytorch_model.bin.index.json", "harrow_report.json"}) {
    WriteBytes(source + "/" + name, name);
  }
  Writer writer = Create(out, {});
  ASSERT_STATUS_OK(WriteShard(writer.get(), "s", 1));
  ASSERT_STATUS_OK(writer->CopySideFiles(source));
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  EXPECT_EQ(FilesOf(out),
            (std::vector<std::string>{"LICENSE", "chat_template.jinja", "config.json", "merges.txt",
                                      "model.safetensors", "tokenizer.json", "tokenizer.model"}));
  EXPECT_EQ(ReadBytes(out + "/tokenizer.model"), "tokenizer.model");
  Writer other = Create(dir.File("other"), {});
  ExpectError(other->CopySideFiles(dir.File("none")), StatusCode::kIoError, {"/none"});
}

// Runs out of space while a shard is written: one error, no directory, and no torn file.
void ExpectFullDisk(const std::string& out, int error_number) {
  Writer writer = Create(out, Key("k"));
  ASSERT_NE(writer, nullptr);
  ASSERT_STATUS_OK(WriteShard(writer.get(), "small", 1));
  ASSERT_STATUS_OK(writer->BeginShard("large"));
  ASSERT_STATUS_OK(
      writer->AddTensor("large", FloatTensor({1 << 20}, std::vector<float>(1 << 20, 1.0f))));
  const Status status = writer->EndShard();
  ExpectError(status, StatusCode::kIoError, {"large.safetensors", std::strerror(error_number)});
  EXPECT_FALSE(writer->HasShard("large"));
  EXPECT_FALSE(fs::exists(out));
  EXPECT_EQ(FilesOf(out + ".partial/model"), std::vector<std::string>{"small.safetensors"});
}

TEST(CheckpointWriter, AFullDiskLeavesNoDirectory) {
  TempDir dir;
  if (::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "needs to mount a tmpfs: " << std::strerror(errno);
  }
  ExpectFullDisk(dir.File("out"), ENOSPC);
  ASSERT_EQ(::umount2(dir.path().c_str(), MNT_DETACH), 0);
}

TEST(CheckpointWriter, AFileSizeLimitLeavesNoDirectory) {
  TempDir dir;
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limited = before;
  limited.rlim_cur = 1 << 20;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
  ExpectFullDisk(dir.File("out"), EFBIG);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
}

// The weight "w" [24, 16] of rank 2, as a plain residual and plain factors.
LinearWeight LowRankWeight(const std::vector<float>& w, bool residual) {
  LinearWeight weight;
  if (residual) weight = *PackWeight(*ParseSpec("dense-bf16"), 24, 16, w.data());
  weight.rows = 24;
  weight.cols = 16;
  auto factors = std::make_shared<LowRankFactors>();
  factors->a = *PackWeight(*ParseSpec("dense-bf16"), 2, 16, w.data());
  factors->b = *PackWeight(*ParseSpec("dense-i8/32"), 24, 2, w.data());
  weight.low_rank = std::move(factors);
  return weight;
}

TEST(CheckpointWriter, LowRankWeightsRoundTrip) {
  const std::vector<float> w(24 * 16, 0.5f);
  for (const bool residual : {false, true}) {
    TempDir dir;
    const std::string out = dir.File("out");
    {
      const Writer writer = Create(out, Key("k"));
      ASSERT_STATUS_OK(writer->BeginShard("s"));
      ASSERT_STATUS_OK(writer->AddLinear("w", LowRankWeight(w, residual)));
      ASSERT_STATUS_OK(writer->EndShard());
    }
    const Writer writer = Create(out, Key("k"));  // a later run finds the shard whole
    const auto shard = writer->OpenShard("s");
    ASSERT_TRUE(shard.ok());
    EXPECT_EQ(writer->ShardLowRankInfo("s").at("w").residual, residual);
    const auto found = ReadLinear(**shard, writer->ShardPackedInfo("s"),
                                  writer->ShardLowRankInfo("s"), "w", 24, 16);
    ASSERT_TRUE(found.ok()) << found.status().ToString();
    ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
    const auto checkpoint = Checkpoint::Open(out);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    EXPECT_EQ((*checkpoint)->tensors().Contains("w"), residual);
    EXPECT_TRUE((*checkpoint)->HasLinear("w"));
    EXPECT_EQ(*(*checkpoint)->LinearShape("w"), (Shape{24, 16}));
    EXPECT_EQ((*checkpoint)->LinearTensors("w").size(), residual ? 3u : 2u);
    const auto weight = (*checkpoint)->Linear("w", 24, 16);
    ASSERT_TRUE(weight.ok()) << weight.status().ToString();
    std::vector<float> values(24 * 16);
    UnpackRows(*weight, 0, 24, values.data());
    for (const float value : values) {
      EXPECT_NEAR(value, residual ? 1.0f : 0.5f, 0.01f);  // the INT8 scale is rounded
    }
    ExpectError((*checkpoint)->Linear("w", 16, 24).status(), StatusCode::kCorruption,
                {"weight w", "[24, 16]", "[16, 24]"});
  }
}

// config.json and tensors that tell different stories.
TEST(CheckpointWriter, LowRankStoriesMustAgree) {
  const std::vector<float> w(24 * 16, 0.5f);
  TempDir dir;
  const std::string out = dir.File("out");
  const Writer writer = Create(out, {});
  ASSERT_STATUS_OK(writer->BeginShard("s"));
  ASSERT_STATUS_OK(writer->AddLinear("w", LowRankWeight(w, false)));
  ASSERT_STATUS_OK(writer->EndShard());
  ASSERT_STATUS_OK(writer->Finish(TestConfig(), "", ""));
  const std::string good = ReadBytes(out + "/config.json");
  const auto with = [&](const std::string& from, const std::string& to) {
    nlohmann::json root = nlohmann::json::parse(good);
    nlohmann::json& entry = root["harrow"]["low_rank"];
    if (from == "name") {
      entry[to] = entry["w"];
      entry.erase("w");
    } else if (from == "residual") {
      entry["w"]["residual"] = true;
    } else {
      entry["w"][from] = std::stoi(to);
    }
    WriteBytes(out + "/config.json", root.dump());
    auto checkpoint = Checkpoint::Open(out);
    if (!checkpoint.ok()) return checkpoint.status();
    return (*checkpoint)->Linear("w", 24, 16).status();
  };
  ExpectError(with("name", "v"), StatusCode::kCorruption, {"weight v", "v.low_rank_a"});
  ExpectError(with("residual", "true"), StatusCode::kCorruption, {"weight w", "residual", "none"});
  ExpectError(with("rank", "3"), StatusCode::kCorruption, {"w.low_rank_a", "[2, 16]", "[3, 16]"});
  ExpectError(with("rows", "23"), StatusCode::kCorruption, {"weight w", "[23, 16]", "[24, 16]"});
  nlohmann::json root = nlohmann::json::parse(good);
  root["harrow"]["low_rank"] = nlohmann::json::object();
  WriteBytes(out + "/config.json", root.dump());
  ExpectError(Checkpoint::Open(out).status(), StatusCode::kCorruption, {"w.low_rank_", "describe"});
}

}  // namespace
}  // namespace harrow
