#include "checkpoint/checkpoint.h"

#include <cstring>
#include <filesystem>
#include <utility>

#include "base/buffer.h"
#include "checkpoint/safetensors.h"

namespace harrow {
namespace {

// The kernels load whole vectors from packed weights.
constexpr uint64_t kPackedAlignment = 64;

// `view` itself where its data lies on the boundary, as in every file that Harrow wrote; else a
// copy that does (other tools may rewrite a file without padding).
TensorView Aligned(const TensorView& view, uint64_t alignment) {
  if (reinterpret_cast<uintptr_t>(view.data) % alignment == 0) return view;
  const std::shared_ptr<std::byte> copy = AllocateBytes(view.bytes());
  std::memcpy(copy.get(), view.data, view.bytes());
  return TensorView{view.dtype, view.shape, copy.get(), copy};
}

std::string PackedName(const std::string& name) {
  return name + std::string(kPackedSuffix);
}

bool TakeSuffix(std::string_view* text, std::string_view suffix) {
  if (!text->ends_with(suffix)) return false;
  text->remove_suffix(suffix.size());
  return true;
}

bool IsStored(const HfConfig& config, const TensorSource& tensors, const std::string& name) {
  return config.packed.contains(name) || tensors.Contains(name);
}

Status CheckLowRankNames(const HfConfig& config, const TensorSource& tensors) {
  for (const auto& [name, info] : config.low_rank) {
    for (const std::string_view suffix : {kLowRankASuffix, kLowRankBSuffix}) {
      const std::string factor = name + std::string(suffix);
      if (!IsStored(config, tensors, factor)) {
        return Corruption("weight {}: low-rank according to {}, but there is no tensor {}", name,
                          kConfigFile, factor);
      }
    }
    if (IsStored(config, tensors, name) != info.residual) {
      return Corruption("weight {}: {} says that it has {} residual beside its factors, but {}",
                        name, kConfigFile, info.residual ? "a" : "no",
                        info.residual ? "there is none" : "there is one");
    }
  }
  for (const std::string& tensor : tensors.names()) {
    std::string_view name = tensor;
    TakeSuffix(&name, kPackedSuffix);
    if (!TakeSuffix(&name, kLowRankASuffix) && !TakeSuffix(&name, kLowRankBSuffix)) continue;
    if (!config.low_rank.contains(std::string(name))) {
      return Corruption(
          "tensor {}: a low-rank factor, but the harrow section of {} does not "
          "describe it",
          tensor, kConfigFile);
    }
  }
  return OkStatus();
}

// The harrow section and the tensors must tell the same story.
Status CheckPackedNames(const HfConfig& config, const TensorSource& tensors) {
  for (const auto& [name, info] : config.packed) {
    if (!tensors.Contains(PackedName(name))) {
      return Corruption("weight {}: described in {}, but there is no tensor {}", name, kConfigFile,
                        PackedName(name));
    }
    if (tensors.Contains(name)) {
      return Corruption("weight {}: stored twice, plain and as {}", name, PackedName(name));
    }
  }
  for (const std::string& tensor : tensors.names()) {
    if (!tensor.ends_with(kPackedSuffix)) continue;
    if (!config.packed.contains(tensor.substr(0, tensor.size() - kPackedSuffix.size()))) {
      return Corruption("tensor {}: packed, but the harrow section of {} does not describe it",
                        tensor, kConfigFile);
    }
  }
  return CheckLowRankNames(config, tensors);
}

Result<LinearWeight> ReadStored(const TensorSource& tensors, const PackedWeights& packed,
                                const std::string& name, int64_t rows, int64_t cols) {
  if (const auto found = packed.find(name); found != packed.end()) {
    const PackedWeightInfo& info = found->second;
    if (info.rows != rows || info.cols != cols) {
      return Corruption("weight {}: packed as [{}, {}], expected [{}, {}]", name, info.rows,
                        info.cols, rows, cols);
    }
    HARROW_ASSIGN_OR_RETURN(const TensorView view, tensors.Find(PackedName(name)));
    return RestorePackedWeight(name, info, view);
  }
  HARROW_ASSIGN_OR_RETURN(const TensorView view, tensors.Find(name));
  if (view.shape != Shape{rows, cols}) {
    return Corruption("tensor {}: shape {}, expected [{}, {}]", name, ShapeToString(view.shape),
                      rows, cols);
  }
  auto weight = WrapDense(Aligned(view, static_cast<uint64_t>(DTypeBytes(view.dtype))));
  if (!weight.ok()) return weight.status().At("tensor " + name);
  return weight;
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& directory) {
  std::error_code error;
  if (std::filesystem::is_regular_file(directory, error)) {
    return InvalidArgument(
        "{}: expected a Hugging Face directory, found a file; `harrow convert` turns a llama2.c "
        "checkpoint into one",
        directory);
  }
  if (!std::filesystem::is_directory(directory, error)) {
    return NotFound("{}: no such directory; a model is a Hugging Face directory", directory);
  }
  if (!std::filesystem::exists(std::filesystem::path(directory) / "config.json", error)) {
    return NotFound("{}: no model: a Hugging Face directory has a config.json, this one has none",
                    directory);
  }
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->directory_ = directory;
  HARROW_ASSIGN_OR_RETURN(checkpoint->config_, LoadHfConfig(directory));
  HARROW_ASSIGN_OR_RETURN(checkpoint->tensors_, OpenSafetensors(directory));
  HARROW_RETURN_IF_ERROR(
      CheckPackedNames(checkpoint->config_, *checkpoint->tensors_).At(directory));
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

Result<LinearWeight> Checkpoint::Linear(const std::string& name, int64_t rows, int64_t cols) const {
  auto weight = ReadLinear(*tensors_, config_.packed, config_.low_rank, name, rows, cols);
  if (!weight.ok() && weight.status().code() != StatusCode::kNotFound) {
    return weight.status().At(directory_);
  }
  return weight;
}

bool Checkpoint::HasLinear(const std::string& name) const {
  return config_.low_rank.contains(name) || IsStored(config_, *tensors_, name);
}

Result<Shape> Checkpoint::LinearShape(const std::string& name) const {
  if (const auto info = config_.low_rank.find(name); info != config_.low_rank.end()) {
    return Shape{info->second.rows, info->second.cols};
  }
  if (const auto info = config_.packed.find(name); info != config_.packed.end()) {
    return Shape{info->second.rows, info->second.cols};
  }
  HARROW_ASSIGN_OR_RETURN(const TensorView view, tensors_->Find(name));
  return view.shape;
}

std::vector<std::string> Checkpoint::LinearTensors(const std::string& name) const {
  std::vector<std::string> found;
  for (const std::string_view part : {std::string_view(), kLowRankASuffix, kLowRankBSuffix}) {
    const std::string weight = name + std::string(part);
    const std::string tensor = config_.packed.contains(weight) ? PackedName(weight) : weight;
    if (tensors_->Contains(tensor)) found.push_back(tensor);
  }
  return found;
}

Result<LinearWeight> ReadLinear(const TensorSource& tensors, const PackedWeights& packed,
                                const LowRankWeights& low_rank, const std::string& name,
                                int64_t rows, int64_t cols) {
  const auto found = low_rank.find(name);
  if (found == low_rank.end()) return ReadStored(tensors, packed, name, rows, cols);
  const LowRankInfo& info = found->second;
  if (info.rows != rows || info.cols != cols) {
    return Corruption("weight {}: low-rank of [{}, {}], expected [{}, {}]", name, info.rows,
                      info.cols, rows, cols);
  }
  LinearWeight weight;
  if (info.residual) {
    HARROW_ASSIGN_OR_RETURN(weight, ReadStored(tensors, packed, name, rows, cols));
  }
  weight.rows = rows;
  weight.cols = cols;
  auto factors = std::make_shared<LowRankFactors>();
  HARROW_ASSIGN_OR_RETURN(
      factors->a,
      ReadStored(tensors, packed, name + std::string(kLowRankASuffix), info.rank, cols));
  HARROW_ASSIGN_OR_RETURN(
      factors->b,
      ReadStored(tensors, packed, name + std::string(kLowRankBSuffix), rows, info.rank));
  weight.low_rank = std::move(factors);
  return weight;
}

std::string_view WeightOfTensor(std::string_view tensor) {
  TakeSuffix(&tensor, kPackedSuffix);
  if (!TakeSuffix(&tensor, kLowRankASuffix)) TakeSuffix(&tensor, kLowRankBSuffix);
  return tensor;
}

Result<std::vector<float>> Checkpoint::Float32(const std::string& name, const Shape& shape) const {
  HARROW_ASSIGN_OR_RETURN(const TensorView view, tensors_->Find(name));
  if (view.shape != shape) {
    return Corruption("{}: tensor {}: shape {}, expected {}", directory_, name,
                      ShapeToString(view.shape), ShapeToString(shape));
  }
  if (!IsFloat(view.dtype)) {
    return Unsupported("{}: tensor {}: dtype {}, expected F32, F16, BF16 or F64", directory_, name,
                       DTypeName(view.dtype));
  }
  std::vector<float> values(static_cast<size_t>(view.elements()));
  ToFloat32(view, 0, view.elements(), values.data());
  return values;
}

Result<LinearWeight> RestorePackedWeight(const std::string& name, const PackedWeightInfo& info,
                                         const TensorView& packed) {
  const auto where = [&name] { return "weight " + name; };
  if (packed.dtype != DType::kU8 || packed.shape.size() != 1) {
    return Corruption("{}: its packed tensor is {} {}, expected U8 [bytes]", where(),
                      DTypeName(packed.dtype), ShapeToString(packed.shape));
  }
  HARROW_RETURN_IF_ERROR(ValidateSpec(info.spec).At(where()));
  if (info.rows <= 0 || info.cols <= 0) {
    return Corruption("{}: [{}, {}], expected positive dimensions", where(), info.rows, info.cols);
  }
  const TensorView aligned = Aligned(packed, kPackedAlignment);
  const LinearWeight weight{info.spec, info.rows, info.cols, aligned.span(), aligned.owner};
  // The checksum first: a damaged file is then named as such, not by the first field that looks
  // wrong. It protects against accidents only, so the structure is checked all the same.
  const uint64_t checksum = WeightChecksum(weight);
  if (checksum != info.checksum) {
    return Corruption("{}: checksum {:016x}, expected {:016x}: the packed bytes are damaged",
                      where(), checksum, info.checksum);
  }
  auto nonzeros = ValidateWeight(weight);
  if (!nonzeros.ok()) return nonzeros.status().At(where());
  if (*nonzeros != info.nonzeros) {
    return Corruption("{}: {} non-zeros, expected {}", where(), *nonzeros, info.nonzeros);
  }
  return weight;
}

}  // namespace harrow
