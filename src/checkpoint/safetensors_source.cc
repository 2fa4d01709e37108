#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>

#include "base/mapped_file.h"
#include "checkpoint/json_util.h"
#include "checkpoint/safetensors.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxIndexBytes = 16 << 20;  // a model of 90,000 tensors needs about 9 MB

struct Shard {
  std::shared_ptr<const MappedFile> file;
  SafetensorsHeader header;
};

// The entry called `name`, or null.
const SafetensorsEntry* FindEntry(const SafetensorsHeader& header, const std::string& name) {
  const auto it = std::lower_bound(header.entries.begin(), header.entries.end(), name,
                                   [](const auto& e, const auto& n) { return e.name < n; });
  return it != header.entries.end() && it->name == name ? &*it : nullptr;
}

Result<Shard> OpenShard(const std::string& path) {
  Shard shard;
  HARROW_ASSIGN_OR_RETURN(shard.file, MappedFile::Open(path));
  HARROW_ASSIGN_OR_RETURN(shard.header, ParseSafetensorsHeader(shard.file->bytes(), path));
  return shard;
}

class SafetensorsSource : public TensorSource {
 public:
  // A single file: all its tensors.
  SafetensorsSource(std::string where, Shard shard) : where_(std::move(where)) {
    shards_.push_back(std::move(shard));
    for (const SafetensorsEntry& e : shards_[0].header.entries)
      Add(e, 0);
  }
  // Shards with the tensors that the index assigns to them, to be added in the order of names.
  SafetensorsSource(std::string where, std::vector<Shard> shards)
      : where_(std::move(where)), shards_(std::move(shards)) {}

  void Add(const SafetensorsEntry& entry, size_t shard) {
    names_.push_back(entry.name);
    places_.push_back({&entry, shard});
  }
  const std::vector<Shard>& shards() const { return shards_; }

  const std::vector<std::string>& names() const override { return names_; }
  bool Contains(const std::string& name) const override {
    return std::binary_search(names_.begin(), names_.end(), name);
  }
  Result<TensorView> Find(const std::string& name) const override {
    const auto it = std::lower_bound(names_.begin(), names_.end(), name);
    if (it == names_.end() || *it != name) return NotFound("{}: no tensor {}", where_, name);
    const Place& place = places_[static_cast<size_t>(it - names_.begin())];
    const Shard& shard = shards_[place.shard];
    return TensorView{place.entry->dtype, place.entry->shape,
                      shard.file->bytes().data() + shard.header.data_offset + place.entry->begin,
                      shard.file};
  }
  uint64_t file_bytes() const override {
    uint64_t bytes = 0;
    for (const Shard& shard : shards_)
      bytes += shard.file->bytes().size();
    return bytes;
  }
  void DropResident(const TensorView& view) const override {
    for (const Shard& shard : shards_) {
      const std::span<const std::byte> all = shard.file->bytes();
      if (std::less_equal<>()(all.data(), view.data) &&
          std::less<>()(view.data, all.data() + all.size())) {
        shard.file->DropResident(view.span());
      }
    }
  }

 private:
  struct Place {
    const SafetensorsEntry* entry;  // inside shards_[shard].header
    size_t shard;
  };
  std::string where_;
  std::vector<Shard> shards_;
  std::vector<std::string> names_;
  std::vector<Place> places_;  // beside names_
};

Result<std::shared_ptr<const TensorSource>> OpenIndexed(const fs::path& directory) {
  const std::string index_path = (directory / kSafetensorsIndex).string();
  HARROW_ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path, kMaxIndexBytes));
  HARROW_ASSIGN_OR_RETURN(const auto weight_map, ParseSafetensorsIndex(text, index_path));
  std::map<std::string, size_t> shard_ids;
  std::vector<Shard> shards;
  for (const auto& [tensor, shard_name] : weight_map) {
    if (shard_ids.contains(shard_name)) continue;
    auto shard = OpenShard((directory / shard_name).string());
    if (!shard.ok()) {
      return shard.status().code() == StatusCode::kNotFound
                 ? NotFound("{}: tensor {}: no shard {} beside the index", index_path,
                            PrintableName(tensor), PrintableName(shard_name))
                 : shard.status();
    }
    shard_ids.emplace(shard_name, shards.size());
    shards.push_back(*std::move(shard));
  }
  auto source = std::make_shared<SafetensorsSource>(directory.string(), std::move(shards));
  for (const auto& [tensor, shard_name] : weight_map) {
    const size_t shard = shard_ids.at(shard_name);
    const SafetensorsEntry* entry = FindEntry(source->shards()[shard].header, tensor);
    if (entry == nullptr) {
      return Corruption("{}: tensor {} is not in shard {}", index_path, PrintableName(tensor),
                        PrintableName(shard_name));
    }
    source->Add(*entry, shard);
  }
  return std::shared_ptr<const TensorSource>(std::move(source));
}

}  // namespace

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

Result<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view text,
                                                                 std::string_view where) {
  HARROW_ASSIGN_OR_RETURN(const nlohmann::json index, ParseJsonObject(text, where));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) return Corruption("{}: no weight_map object", where);
  std::map<std::string, std::string> shards;
  for (const auto& item : map->items()) {
    if (!item.value().is_string()) {
      return Corruption("{}: tensor {}: its shard is not a string", where,
                        PrintableName(item.key()));
    }
    const std::string& shard = item.value().get_ref<const std::string&>();
    if (!IsPlainFileName(shard)) {
      return Corruption("{}: tensor {}: shard {} is not a plain file name", where,
                        PrintableName(item.key()), JsonQuote(shard));
    }
    shards.emplace(item.key(), shard);
  }
  return shards;
}

Result<std::shared_ptr<const TensorSource>> OpenSafetensors(const std::string& file_or_directory) {
  const fs::path path(file_or_directory);
  std::error_code error;
  std::string file = file_or_directory;
  if (fs::is_directory(path, error)) {
    if (fs::exists(path / kSafetensorsIndex, error)) return OpenIndexed(path);
    file = (path / kSafetensorsFile).string();
    if (!fs::exists(file, error)) {
      return NotFound("{}: neither {} nor {} is there", file_or_directory, kSafetensorsFile,
                      kSafetensorsIndex);
    }
  }
  HARROW_ASSIGN_OR_RETURN(Shard shard, OpenShard(file));
  return std::shared_ptr<const TensorSource>(
      std::make_shared<SafetensorsSource>(file, std::move(shard)));
}

}  // namespace harrow
