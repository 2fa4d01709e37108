// A compressed model as an ordinary dense Hugging Face directory.
#include <chrono>
#include <cstring>
#include <set>

#include "base/buffer.h"
#include "base/float16.h"
#include "checkpoint/checkpoint.h"
#include "compress/output_path.h"
#include "harrow/compress.h"

namespace harrow {
namespace {

constexpr uint64_t kShardBytes = uint64_t{1} << 30;
constexpr int64_t kChunkElements = int64_t{1} << 20;

// Reads any tensor of a checkpoint, packed or not, as float32.
class Exporter {
 public:
  Exporter(std::shared_ptr<const Checkpoint> checkpoint, const RunControl* control)
      : checkpoint_(std::move(checkpoint)), control_(control) {}

  struct Item {
    std::string name;
    Shape shape;
    bool packed = false;        // or low-rank: a linear weight that is no plain tensor
    DType dtype = DType::kF32;  // of a tensor that is not packed
  };

  Status ListItems() {
    const HfConfig& config = checkpoint_->config();
    std::set<std::string> compressed;  // seen; a low-rank weight has several tensors
    for (const std::string& stored : checkpoint_->tensors().names()) {
      Item item{stored, {}, false, DType::kF32};
      const std::string name(WeightOfTensor(stored));
      if (config.packed.contains(name) || config.low_rank.contains(name)) {
        if (!compressed.insert(name).second) continue;
        item.name = name;
        HARROW_ASSIGN_OR_RETURN(item.shape, checkpoint_->LinearShape(name));
        item.packed = true;
      } else {
        HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(stored));
        item.shape = view.shape;
        item.dtype = view.dtype;
      }
      items_.push_back(std::move(item));
    }
    return OkStatus();
  }
  const std::vector<Item>& items() const { return items_; }

  // Whether every float value of the model is a BF16 number.
  Result<bool> FitsBf16() {
    bool fits = true;
    for (size_t i = 0; i < items_.size() && fits; ++i) {
      if (!IsFloat(items_[i].dtype) || items_[i].dtype == DType::kBf16) continue;
      HARROW_RETURN_IF_ERROR(Visit(i, [&fits](int64_t, const float* values, int64_t count) {
        for (int64_t j = 0; j < count && fits; ++j) {
          if (Bf16ToF32(F32ToBf16(values[j])) != values[j]) fits = false;
        }
      }));
    }
    return fits;
  }

  // Item i in `dtype` (F32 or BF16); what is not float is passed through.
  Result<TensorView> Read(size_t i, DType dtype) {
    const Item& item = items_[i];
    if (!item.packed && (!IsFloat(item.dtype) || item.dtype == dtype)) {
      return checkpoint_->tensors().Find(item.name);
    }
    TensorView view{dtype, item.shape, nullptr, nullptr};
    const std::shared_ptr<std::byte> bytes = AllocateBytes(view.bytes());
    view.data = bytes.get();
    view.owner = bytes;
    HARROW_RETURN_IF_ERROR(Visit(i, [&](int64_t begin, const float* values, int64_t count) {
      if (dtype == DType::kF32) {
        std::memcpy(bytes.get() + begin * 4, values, static_cast<size_t>(count) * 4);
        return;
      }
      for (int64_t j = 0; j < count; ++j) {
        const uint16_t value = F32ToBf16(values[j]);
        std::memcpy(bytes.get() + (begin + j) * 2, &value, 2);
      }
    }));
    return view;
  }

 private:
  // Calls body(begin, values, count) for runs of elements of item i.
  template <class Body>
  Status Visit(size_t i, const Body& body) {
    if (control_ != nullptr && control_->Cancelled()) {
      return Error(StatusCode::kCancelled, "cancelled");
    }
    const Item& item = items_[i];
    if (item.packed) {
      HARROW_ASSIGN_OR_RETURN(const LinearWeight weight,
                              checkpoint_->Linear(item.name, item.shape[0], item.shape[1]));
      const int64_t rows = std::max<int64_t>(1, kChunkElements / weight.cols);
      values_.resize(static_cast<size_t>(rows * weight.cols));
      for (int64_t row = 0; row < weight.rows; row += rows) {
        const int64_t end = std::min(row + rows, weight.rows);
        UnpackRows(weight, row, end, values_.data());
        body(row * weight.cols, values_.data(), (end - row) * weight.cols);
      }
      return OkStatus();
    }
    HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(item.name));
    values_.resize(static_cast<size_t>(kChunkElements));
    for (int64_t begin = 0; begin < view.elements(); begin += kChunkElements) {
      const int64_t count = std::min(kChunkElements, view.elements() - begin);
      ToFloat32(view, begin, count, values_.data());
      body(begin, values_.data(), count);
    }
    checkpoint_->tensors().DropResident(view);
    return OkStatus();
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  const RunControl* control_;
  std::vector<Item> items_;
  std::vector<float> values_;
};

}  // namespace

Result<ExportReport> ExportDense(const ExportOptions& options, const RunControl* control) {
  const auto start = std::chrono::steady_clock::now();
  if (options.dtype != "auto" && options.dtype != "f32" && options.dtype != "bf16") {
    return InvalidArgument("--dtype: expected auto | f32 | bf16, found \"{}\"", options.dtype);
  }
  HARROW_RETURN_IF_ERROR(CheckOutputSparesSource(options.output, options.model));
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                          Checkpoint::Open(options.model));
  Exporter exporter(checkpoint, control);
  HARROW_RETURN_IF_ERROR(exporter.ListItems());
  bool bf16 = false;
  if (options.dtype != "f32") {
    HARROW_ASSIGN_OR_RETURN(bf16, exporter.FitsBf16());
    if (!bf16 && options.dtype == "bf16") {
      return InvalidArgument(
          "{}: --dtype bf16 would round its values (quantized weights times their scales, or F32 "
          "tensors); use f32",
          options.model);
    }
  }
  const DType dtype = bf16 ? DType::kBf16 : DType::kF32;

  HARROW_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointWriter> writer,
                          CheckpointWriter::Create(options.output, {.overwrite = options.overwrite,
                                                                    .resume_key = "",
                                                                    .discard_partial = true}));
  ExportReport report;
  report.model = options.model;
  report.output = options.output;
  report.dtype = bf16 ? "bf16" : "f32";
  const auto total = static_cast<int64_t>(exporter.items().size());
  uint64_t shard_bytes = 0;
  int shards = 0;
  const auto shard_name = [](int index) { return fmt::format("shard-{:05d}", index); };
  for (int64_t i = 0; i < total; ++i) {
    if (control != nullptr) {
      control->Progress("export " + exporter.items()[static_cast<size_t>(i)].name, i, total);
    }
    HARROW_ASSIGN_OR_RETURN(const TensorView view, exporter.Read(static_cast<size_t>(i), dtype));
    if (i == 0 || shard_bytes + view.bytes() > kShardBytes) {
      if (i > 0) HARROW_RETURN_IF_ERROR(writer->EndShard());
      HARROW_RETURN_IF_ERROR(writer->BeginShard(shard_name(shards++)));
      shard_bytes = 0;
    }
    shard_bytes += view.bytes();
    HARROW_RETURN_IF_ERROR(writer->AddTensor(exporter.items()[static_cast<size_t>(i)].name, view));
    ++report.tensors;
  }
  if (shards == 0) return InvalidArgument("{}: has no tensors", options.model);
  HARROW_RETURN_IF_ERROR(writer->EndShard());
  for (int s = 0; s < shards; ++s) {
    HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const TensorSource> shard,
                            writer->OpenShard(shard_name(s)));
    report.disk_bytes += shard->file_bytes();
  }
  report.sparsity = PackedSparsity(checkpoint->config());
  HARROW_RETURN_IF_ERROR(writer->CopySideFiles(options.model));
  HARROW_RETURN_IF_ERROR(writer->Finish(checkpoint->config(), "", bf16 ? "bfloat16" : "float32"));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace harrow
