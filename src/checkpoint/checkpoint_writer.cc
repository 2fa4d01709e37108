#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <set>
#include <utility>

#include <xxhash.h>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/packed_json.h"
#include "checkpoint/safetensors.h"
#include "formats/low_rank.h"

// The work folder "<directory>.partial":
//   harrow.lock        held while a writer lives; marks the folder as ours
//   resume.json        {"resume_key"}
//   shard-<shard>.json {"file_bytes", "xxh3", "weights"}: written after the shard, so that its
//                      presence means the shard is whole
//   finish.json        {"<shard>": final file name}, written before shards are renamed
//   model/             what becomes the directory: <shard>.safetensors and side files

namespace harrow {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMaxWorkFileBytes = 16 << 20;
constexpr uint64_t kMaxSideFileBytes = 64 << 20;
constexpr std::string_view kLockFile = "harrow.lock";
constexpr std::string_view kResumeFile = "resume.json";
constexpr std::string_view kFinishFile = "finish.json";
constexpr std::string_view kShardPrefix = "shard-";
constexpr std::string_view kSafetensorsSuffix = ".safetensors";

struct ShardRecord {
  uint64_t file_bytes = 0;
  uint64_t hash = 0;  // XXH3-64 of the whole file
  PackedWeights packed;
  LowRankWeights low_rank;
};

Status FsError(const std::string& what, const std::error_code& error) {
  return Error(StatusCode::kIoError, "{}: {}", what, error.message());
}

Result<ShardRecord> RecordOf(const std::string& path) {
  HARROW_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  return ShardRecord{
      file->bytes().size(), XXH3_64bits(file->bytes().data(), file->bytes().size()), {}, {}};
}

Status WriteRecord(const std::string& path, const ShardRecord& record) {
  HARROW_ASSIGN_OR_RETURN(const std::string text,
                          DumpJson({{"file_bytes", record.file_bytes},
                                    {"xxh3", record.hash},
                                    {"weights", PackedWeightsJson(record.packed)},
                                    {"low_rank", LowRankWeightsJson(record.low_rank)}}));
  return WriteFileAtomically(path, text);
}

Result<ShardRecord> ReadRecord(const std::string& path) {
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxWorkFileBytes));
  HARROW_ASSIGN_OR_RETURN(const json root, ParseJsonObject(text, path));
  const json* bytes = JsonGet(root, "file_bytes");
  const json* hash = JsonGet(root, "xxh3");
  const json* weights = JsonGet(root, "weights");
  const json* low_rank = JsonGet(root, "low_rank");
  if (!bytes || !bytes->is_number_unsigned() || !hash || !hash->is_number_unsigned() || !weights ||
      !low_rank) {
    return Corruption("{}: not the record of a shard", path);
  }
  ShardRecord record{bytes->get<uint64_t>(), hash->get<uint64_t>(), {}, {}};
  HARROW_RETURN_IF_ERROR(ReadPackedWeights(*weights, &record.packed).At(path));
  HARROW_RETURN_IF_ERROR(ReadLowRankWeights(*low_rank, &record.low_rank).At(path));
  return record;
}

// Whether the output may go to `directory`.
Status CheckTarget(const fs::path& directory, bool overwrite) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(directory, error))) return OkStatus();
  if (!fs::is_directory(directory, error)) {
    return InvalidArgument("{}: exists and is not a directory", directory.string());
  }
  if (fs::is_empty(directory, error)) return OkStatus();
  if (error) return FsError("read " + directory.string(), error);
  if (!overwrite) {
    return InvalidArgument("{}: exists and is not empty; --overwrite replaces it",
                           directory.string());
  }
  if (!fs::exists(directory / kConfigFile, error)) {
    return InvalidArgument("{}: has no {}, so it is not replaced as if it were a model directory",
                           directory.string(), kConfigFile);
  }
  return OkStatus();
}

Result<fs::path> OutputFolder(const std::string& directory) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(directory, error);
  if (!path.has_filename()) path = path.parent_path();  // "out/"
  if (directory.empty() || error || !path.has_filename()) {
    return InvalidArgument("output directory \"{}\": not a usable path", directory);
  }
  return path;
}

void SyncFolder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

class WriterImpl : public CheckpointWriter {
 public:
  WriterImpl(fs::path directory, Options options)
      : directory_(std::move(directory)),
        work_(directory_.string() + ".partial"),
        model_(work_ / "model"),
        options_(std::move(options)) {}

  ~WriterImpl() override {
    if (lock_ >= 0 && options_.resume_key.empty()) Discard();
    Unlock();
  }

  Status Start() {
    HARROW_RETURN_IF_ERROR(CheckTarget(directory_, options_.overwrite));
    std::error_code error;
    // Looked at twice: another writer that is discarding its work removes the lock last.
    if (HoldsSomethingElse() && HoldsSomethingElse()) {
      return InvalidArgument("{}: needed as work folder, but holds something else; move it away",
                             work_.string());
    }
    HARROW_RETURN_IF_ERROR(Lock());
    // What a run without a key left (the lock says that it is dead) nobody can continue.
    const Result<std::string> stored = options_.discard_partial ? std::string() : StoredKey();
    if (!stored.ok()) {
      Unlock();
      return stored.status();
    }
    const bool discard = stored->empty();
    if (!discard && *stored != options_.resume_key) {
      Unlock();
      return InvalidArgument(
          "{}: left by a run with other settings that was interrupted or failed; repeat that run "
          "to "
          "continue it, or discard it: give --restart or remove the folder",
          work_.string());
    }
    HARROW_RETURN_IF_ERROR(discard ? Clear() : Adopt());
    fs::create_directories(model_, error);
    if (error) return FsError("create " + model_.string(), error);
    HARROW_ASSIGN_OR_RETURN(const std::string text,
                            DumpJson({{"resume_key", options_.resume_key}}));
    return WriteFileAtomically((work_ / kResumeFile).string(), text);
  }

  bool HasShard(const std::string& shard) const override { return shards_.contains(shard); }

  Result<std::shared_ptr<const TensorSource>> OpenShard(const std::string& shard) const override {
    if (!HasShard(shard)) return NotFound("{}: no finished shard {}", work_.string(), shard);
    return OpenSafetensors(ShardPath(shard));
  }

  PackedWeights ShardPackedInfo(const std::string& shard) const override {
    const auto it = shards_.find(shard);
    return it == shards_.end() ? PackedWeights() : it->second.packed;
  }

  LowRankWeights ShardLowRankInfo(const std::string& shard) const override {
    const auto it = shards_.find(shard);
    return it == shards_.end() ? LowRankWeights() : it->second.low_rank;
  }

  Status BeginShard(const std::string& shard) override {
    if (!open_shard_.empty()) return InvalidArgument("shard {} is still open", open_shard_);
    if (!IsPlainFileName(shard)) return InvalidArgument("shard name \"{}\"", shard);
    if (HasShard(shard)) return InvalidArgument("shard {} is finished already", shard);
    open_shard_ = shard;
    tensors_.clear();
    packed_.clear();
    low_rank_.clear();
    return OkStatus();
  }

  Status AddTensor(const std::string& name, const TensorView& view) override {
    if (open_shard_.empty()) return InvalidArgument("tensor {}: no shard is open", name);
    if (!tensors_.emplace(name, view).second) {
      return InvalidArgument("tensor {}: added twice to shard {}", name, open_shard_);
    }
    return OkStatus();
  }

  Status AddLinear(const std::string& name, const LinearWeight& weight) override {
    if (weight.low_rank == nullptr) return AddStored(name, weight);
    const LowRankFactors& factors = *weight.low_rank;
    HARROW_RETURN_IF_ERROR(
        ValidateLowRank(factors, weight.rows, weight.cols).status().At("weight " + name));
    if (weight.has_residual()) HARROW_RETURN_IF_ERROR(AddStored(name, weight));
    low_rank_[name] = {factors.a.rows, weight.rows, weight.cols, weight.has_residual()};
    HARROW_RETURN_IF_ERROR(AddStored(name + std::string(kLowRankASuffix), factors.a));
    return AddStored(name + std::string(kLowRankBSuffix), factors.b);
  }

  Status EndShard() override {
    if (open_shard_.empty()) return InvalidArgument("no shard is open");
    const std::string shard = std::exchange(open_shard_, "");
    const std::map<std::string, TensorView> tensors = std::exchange(tensors_, {});
    if (tensors.empty()) return InvalidArgument("shard {} has no tensors", shard);
    // Multiples of 64 bytes first: then each of those starts on a cache line.
    std::vector<const std::pair<const std::string, TensorView>*> order;
    for (const auto& item : tensors)
      order.push_back(&item);
    std::stable_partition(order.begin(), order.end(),
                          [](const auto* item) { return item->second.bytes() % 64 == 0; });
    std::vector<SafetensorsWriter::Planned> planned;
    for (const auto* item : order)
      planned.push_back({item->first, item->second.dtype, item->second.shape});
    HARROW_ASSIGN_OR_RETURN(  // transformers refuses files without this entry
        SafetensorsWriter writer,
        SafetensorsWriter::Create(ShardPath(shard), planned, {{"format", "pt"}}));
    for (const auto* item : order)
      HARROW_RETURN_IF_ERROR(writer.Append(item->second.span()));
    HARROW_RETURN_IF_ERROR(writer.Finish());
    HARROW_ASSIGN_OR_RETURN(ShardRecord record, RecordOf(ShardPath(shard)));
    record.packed = std::exchange(packed_, {});
    record.low_rank = std::exchange(low_rank_, {});
    HARROW_RETURN_IF_ERROR(WriteRecord(RecordPath(shard), record));
    shards_.emplace(shard, std::move(record));
    return OkStatus();
  }

  Status CopySideFiles(const std::string& source_directory) override;

  Status WriteSideFile(const std::string& name, std::string_view text) override {
    if (!IsPlainFileName(name) || name == kConfigFile || name == kSafetensorsIndex ||
        name.ends_with(kSafetensorsSuffix)) {
      return InvalidArgument("side file name \"{}\"", name);
    }
    return WriteFileAtomically((model_ / name).string(), text);
  }

  Status Finish(const HfConfig& config, std::string_view recipe_json,
                std::string_view torch_dtype) override;

  void Discard() override {
    std::error_code ignored;
    if (lock_ >= 0) {
      // The lock goes last, so that nothing of another writer, who may take the folder from that
      // moment on, is removed.
      Clear().ok();
      fs::remove(work_ / kLockFile, ignored);
      fs::remove(work_, ignored);
    }
    Unlock();
    shards_.clear();
  }

 private:
  // Whether the work folder has files, but not the lock that ours begin with.
  bool HoldsSomethingElse() const {
    std::error_code error;
    bool found = false;
    for (const auto& entry : fs::directory_iterator(work_, error)) {
      if (entry.path().filename() == kLockFile) return false;
      found = true;
    }
    return found;
  }
  // A weight without its factors.
  Status AddStored(const std::string& name, const LinearWeight& weight) {
    if (weight.spec.format == FormatId::kDense) {
      const DType dtype = weight.spec.values == ValueType::kF32   ? DType::kF32
                          : weight.spec.values == ValueType::kF16 ? DType::kF16
                                                                  : DType::kBf16;
      const TensorView view{dtype, {weight.rows, weight.cols}, weight.data.data(), weight.owner};
      if (view.bytes() != weight.data.size()) {
        return InvalidArgument("weight {}: {} bytes, expected {}", name, weight.data.size(),
                               view.bytes());
      }
      return AddTensor(name, view);
    }
    LinearWeight residual = weight;
    residual.low_rank = nullptr;
    auto nonzeros = ValidateWeight(residual);
    if (!nonzeros.ok()) return nonzeros.status().At("weight " + name);
    HARROW_RETURN_IF_ERROR(
        AddTensor(name + std::string(kPackedSuffix), {DType::kU8,
                                                      {static_cast<int64_t>(weight.data.size())},
                                                      weight.data.data(),
                                                      weight.owner}));
    packed_[name] = {weight.spec, weight.rows, weight.cols, *nonzeros, WeightChecksum(weight)};
    return OkStatus();
  }

  std::string ShardPath(const std::string& shard) const {
    return (model_ / (shard + std::string(kSafetensorsSuffix))).string();
  }
  std::string RecordPath(const std::string& shard) const {
    return (work_ / (std::string(kShardPrefix) + shard + ".json")).string();
  }

  // Creates the work folder and locks it.
  Status Lock() {
    const std::string path = (work_ / kLockFile).string();
    // Each failed turn means that another writer discarded the folder meanwhile.
    constexpr int kMaxTries = 100;
    for (int i = 0; i < kMaxTries; ++i) {
      std::error_code error;
      fs::create_directories(work_, error);
      if (error) return FsError("create " + work_.string(), error);
      lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (lock_ < 0 && errno == ENOENT) continue;
      if (lock_ < 0) return IoErrorWithErrno("create " + path, errno);
      if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
        const int reason = errno;
        Unlock();
        if (reason != EWOULDBLOCK) return IoErrorWithErrno("lock " + path, reason);
        break;
      }
      struct stat held, there;  // a lock on a file that was removed keeps nobody out
      if (::fstat(lock_, &held) == 0 && ::stat(path.c_str(), &there) == 0 &&
          held.st_dev == there.st_dev && held.st_ino == there.st_ino) {
        return OkStatus();
      }
      Unlock();
    }
    return InvalidArgument("{}: another process is writing there", work_.string());
  }
  void Unlock() {
    if (lock_ >= 0) ::close(lock_);
    lock_ = -1;
  }

  // The key of the run that left the work folder; empty when that had none or did not get so far.
  Result<std::string> StoredKey() const {
    const std::string path = (work_ / kResumeFile).string();
    const auto text = ReadFile(path, kMaxWorkFileBytes);
    if (!text.ok() && text.status().code() == StatusCode::kNotFound) return std::string();
    if (!text.ok()) return text.status();
    HARROW_ASSIGN_OR_RETURN(const json root, ParseJsonObject(*text, path));
    std::string key;
    HARROW_RETURN_IF_ERROR(ReadJsonString(root, "resume_key", &key).At(path));
    return key;
  }

  Status Clear() {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(work_, error)) {
      if (entry.path().filename() != kLockFile) fs::remove_all(entry.path(), error);
    }
    return error ? FsError("clear " + work_.string(), error) : OkStatus();
  }

  Status Adopt();
  // Gives shards back the names they had before an interrupted Finish.
  void UndoFinish();
  Result<std::map<std::string, std::string>> NameShards();
  Status Publish();

  const fs::path directory_, work_, model_;
  const Options options_;
  int lock_ = -1;
  std::map<std::string, ShardRecord> shards_;  // finished
  std::string open_shard_;
  std::map<std::string, TensorView> tensors_;  // of the open shard
  PackedWeights packed_;
  LowRankWeights low_rank_;
};

void WriterImpl::UndoFinish() {
  const std::string path = (work_ / kFinishFile).string();
  const auto text = ReadFile(path, kMaxWorkFileBytes);
  if (!text.ok()) return;
  std::error_code ignored;
  if (const auto names = ParseJsonObject(*text, path); names.ok()) {
    for (const auto& item : names->items()) {
      if (!item.value().is_string()) continue;
      const std::string& name = item.value().get_ref<const std::string&>();
      if (!IsPlainFileName(name) || !IsPlainFileName(item.key())) continue;
      if (fs::exists(model_ / name, ignored)) {
        fs::rename(model_ / name, ShardPath(item.key()), ignored);
      }
    }
  }
  fs::remove(path, ignored);
}

// Takes over the shards that are whole. Other records and everything else in model/ go; what else
// lies in the work folder may be notes of the job that is continued, and stays.
Status WriterImpl::Adopt() {
  UndoFinish();
  std::error_code error;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(work_, error)) {
    const std::string file = entry.path().filename().string();
    if (!file.starts_with(kShardPrefix) || !file.ends_with(".json")) continue;
    found.push_back(file.substr(kShardPrefix.size(), file.size() - kShardPrefix.size() - 5));
  }
  if (error) return FsError("read " + work_.string(), error);
  std::set<fs::path> keep;
  for (const std::string& shard : found) {
    auto record = ReadRecord(RecordPath(shard));
    const auto actual = RecordOf(ShardPath(shard));
    if (record.ok() && actual.ok() && actual->file_bytes == record->file_bytes &&
        actual->hash == record->hash) {
      shards_.emplace(shard, *std::move(record));
      keep.insert(ShardPath(shard));
    } else {
      fs::remove(RecordPath(shard), error);
      if (error) return FsError("remove " + RecordPath(shard), error);
    }
  }
  if (!fs::exists(model_, error)) return OkStatus();
  for (const auto& entry : fs::directory_iterator(model_, error)) {
    if (!keep.contains(entry.path())) fs::remove_all(entry.path(), error);
  }
  return error ? FsError("clean " + model_.string(), error) : OkStatus();
}

Status WriterImpl::CopySideFiles(const std::string& source_directory) {
  constexpr std::string_view kExtensions[] = {".json", ".txt",   ".model",
                                              ".md",   ".jinja", ".tiktoken"};
  constexpr std::string_view kPrefixes[] = {"LICENSE", "NOTICE", "USE_POLICY"};
  std::error_code error;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(source_directory, error)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    const bool wanted =
        std::find(std::begin(kExtensions), std::end(kExtensions), extension) !=
            std::end(kExtensions) ||
        std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                    [&name](std::string_view prefix) { return name.starts_with(prefix); });
    // Reports of an earlier compression (harrow*) and indexes describe other weights than these.
    const bool stale =
        name == kConfigFile || name.ends_with(".index.json") || name.starts_with("harrow");
    std::error_code ignored;
    if (wanted && !stale && entry.is_regular_file(ignored)) files.push_back(entry.path());
  }
  if (error) return FsError("read " + source_directory, error);
  for (const fs::path& file : files) {
    HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(file.string(), kMaxSideFileBytes));
    HARROW_RETURN_IF_ERROR(WriteSideFile(file.filename().string(), text));
  }
  return OkStatus();
}

// Final file name of each shard, and the index that goes with them.
Result<std::map<std::string, std::string>> WriterImpl::NameShards() {
  std::map<std::string, std::string> names;
  json weight_map = json::object();
  uint64_t total = 0;
  for (const auto& [shard, record] : shards_) {
    const std::string name = shards_.size() == 1 ? std::string(kSafetensorsFile)
                                                 : fmt::format("model-{:05d}-of-{:05d}.safetensors",
                                                               names.size() + 1, shards_.size());
    HARROW_ASSIGN_OR_RETURN(const auto source, OpenSafetensors(ShardPath(shard)));
    for (const std::string& tensor : source->names()) {
      if (weight_map.contains(tensor)) {
        return InvalidArgument("tensor {}: in two shards, {} and {}", tensor,
                               weight_map[tensor].get<std::string>(), name);
      }
      weight_map[tensor] = name;
      HARROW_ASSIGN_OR_RETURN(const TensorView view, source->Find(tensor));
      total += view.bytes();
    }
    names[shard] = name;
  }
  if (names.size() > 1) {
    HARROW_ASSIGN_OR_RETURN(
        const std::string text,
        DumpJson({{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}}));
    HARROW_RETURN_IF_ERROR(WriteFileAtomically((model_ / kSafetensorsIndex).string(), text));
  }
  return names;
}

// Makes model/ the directory. An existing one is exchanged in one step, so that at every moment
// either the old or the new directory is whole.
Status WriterImpl::Publish() {
  std::error_code error;
  HARROW_RETURN_IF_ERROR(CheckTarget(directory_, options_.overwrite));
  SyncFolder(model_);
  if (!fs::exists(directory_, error) || fs::is_empty(directory_, error)) {
    fs::rename(model_, directory_, error);
    if (error) return FsError("rename to " + directory_.string(), error);
  } else if (::renameat2(AT_FDCWD, model_.c_str(), AT_FDCWD, directory_.c_str(), RENAME_EXCHANGE) !=
             0) {
    // File systems without the exchange: the old directory waits in the work folder.
    const fs::path old = work_ / "replaced";
    fs::rename(directory_, old, error);
    if (error) return FsError("rename " + directory_.string(), error);
    fs::rename(model_, directory_, error);
    if (error) {
      std::error_code ignored;
      fs::rename(old, directory_, ignored);
      return FsError("rename to " + directory_.string(), error);
    }
  }
  SyncFolder(directory_.parent_path());
  return OkStatus();
}

Status WriterImpl::Finish(const HfConfig& config, std::string_view recipe_json,
                          std::string_view torch_dtype) {
  if (!open_shard_.empty()) return InvalidArgument("shard {} is still open", open_shard_);
  if (shards_.empty()) return InvalidArgument("{}: no shards were written", directory_.string());
  PackedWeights packed;
  LowRankWeights low_rank;
  for (const auto& [shard, record] : shards_) {
    packed.insert(record.packed.begin(), record.packed.end());
    low_rank.insert(record.low_rank.begin(), record.low_rank.end());
  }
  HARROW_ASSIGN_OR_RETURN(const std::string config_text,
                          WithHarrowSection(config, packed, recipe_json, torch_dtype, low_rank));
  HARROW_ASSIGN_OR_RETURN(const auto names, NameShards());
  HARROW_ASSIGN_OR_RETURN(const std::string names_text, DumpJson(names));
  HARROW_RETURN_IF_ERROR(WriteFileAtomically((work_ / kFinishFile).string(), names_text));
  HARROW_RETURN_IF_ERROR(WriteFileAtomically((model_ / kConfigFile).string(), config_text));
  // From here on only renames, which need no space. An interruption is undone by UndoFinish.
  std::error_code error;
  for (const auto& [shard, name] : names) {
    fs::rename(ShardPath(shard), model_ / name, error);
    if (error) return FsError("rename to " + (model_ / name).string(), error);
  }
  HARROW_RETURN_IF_ERROR(Publish());
  Discard();  // what is left of the work folder
  return OkStatus();
}

}  // namespace

Status CheckpointWriter::CheckDirectory(const std::string& directory, bool overwrite) {
  HARROW_ASSIGN_OR_RETURN(const fs::path path, OutputFolder(directory));
  return CheckTarget(path, overwrite);
}

Result<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Create(const std::string& directory,
                                                                   const Options& options) {
  HARROW_ASSIGN_OR_RETURN(fs::path path, OutputFolder(directory));
  auto writer = std::make_unique<WriterImpl>(std::move(path), options);
  HARROW_RETURN_IF_ERROR(writer->Start());
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

}  // namespace harrow
