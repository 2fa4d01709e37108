#include "compress/structure/structure_pass.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/buffer.h"
#include "base/float16.h"
#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "compress/hidden_store.h"
#include "compress/model_calibration.h"
#include "compress/output_path.h"
#include "compress/plan.h"
#include "compress/report_json.h"
#include "compress/resume_key.h"
#include "compress/row_slices.h"

namespace harrow {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Marks a folder as the result of a structural step: {"key", "report"}.
constexpr char kMarkFile[] = "harrow_structure.json";
constexpr uint64_t kMaxMarkBytes = uint64_t{64} << 20;
// Of the ratio asked for, absolute, that is worth a warning.
constexpr double kMissedRatio = 0.01;

// Rows and columns of a weight that stay; empty: all.
struct Slice {
  std::vector<int64_t> rows;
  std::vector<int64_t> cols;
};

std::vector<int64_t> Expand(const std::vector<int32_t>& units, int64_t width) {
  std::vector<int64_t> indices;
  for (const int32_t unit : units) {
    for (int64_t i = 0; i < width; ++i)
      indices.push_back(unit * width + i);
  }
  return indices;
}

Result<LinearWeight> SliceWeight(const LinearLayer& layer, const Slice& slice) {
  const auto rows = slice.rows.empty() ? layer.rows : static_cast<int64_t>(slice.rows.size());
  const auto cols = slice.cols.empty() ? layer.cols : static_cast<int64_t>(slice.cols.size());
  std::vector<float> whole(static_cast<size_t>(layer.cols));
  // The values are those of the source's type, so that packing them again changes nothing.
  return PackWeight(layer.weight.spec, rows, cols, [&](int64_t row, float* out) {
    const int64_t from = slice.rows.empty() ? row : slice.rows[static_cast<size_t>(row)];
    UnpackRows(layer.weight, from, from + 1, whole.data());
    if (slice.cols.empty()) {
      std::copy(whole.begin(), whole.end(), out);
      return;
    }
    for (size_t j = 0; j < slice.cols.size(); ++j)
      out[j] = whole[static_cast<size_t>(slice.cols[j])];
  });
}

// The layer's bias plus what the inputs outside `kept_cols` add at their means. Empty: no bias.
std::vector<float> Compensated(const LinearLayer& layer, const std::vector<int64_t>& kept_cols,
                               const std::vector<double>& means) {
  std::vector<float> bias = layer.bias;
  if (means.empty() || static_cast<int64_t>(kept_cols.size()) == layer.cols) return bias;
  bias.resize(static_cast<size_t>(layer.rows));
  std::vector<double> lost = means;
  for (const int64_t col : kept_cols)
    lost[static_cast<size_t>(col)] = 0;
  std::vector<float> row(static_cast<size_t>(layer.cols));
  for (int64_t i = 0; i < layer.rows; ++i) {
    UnpackRows(layer.weight, i, i + 1, row.data());
    double sum = bias[static_cast<size_t>(i)];
    for (size_t j = 0; j < row.size(); ++j)
      sum += static_cast<double>(row[j]) * lost[j];
    bias[static_cast<size_t>(i)] = static_cast<float>(sum);
  }
  return bias;
}

// In the type of the weight it goes with.
TensorView BiasTensor(const std::vector<float>& bias, ValueType type) {
  TensorView view{type == ValueType::kF32 ? DType::kF32 : DType::kBf16,
                  {static_cast<int64_t>(bias.size())},
                  nullptr,
                  nullptr};
  const std::shared_ptr<std::byte> bytes = AllocateBytes(view.bytes());
  for (size_t i = 0; i < bias.size(); ++i) {
    if (view.dtype == DType::kF32) {
      reinterpret_cast<float*>(bytes.get())[i] = bias[i];
    } else {
      reinterpret_cast<uint16_t*>(bytes.get())[i] = F32ToBf16(bias[i]);
    }
  }
  view.data = bytes.get();
  view.owner = bytes;
  return view;
}

uint64_t TensorBytes(const Checkpoint& checkpoint) {
  uint64_t bytes = 0;
  for (const std::string& name : checkpoint.tensors().names()) {
    if (const auto view = checkpoint.tensors().Find(name); view.ok()) bytes += view->bytes();
  }
  return bytes;
}

class StructureStepRun {
 public:
  StructureStepRun(const CompressOptions& options, const Recipe& recipe, const StructureStep& step,
                   ThreadPool* pool, const RunControl& control)
      : options_(options), recipe_(recipe), step_(step), pool_(pool), control_(control) {}

  // Reads `source`, writes `target`; takes over what an earlier run left there.
  Result<StructureReport> Run(const std::string& source, const std::string& target,
                              CalibrationReport* calibration);
  bool taken_over() const { return taken_over_; }

 private:
  Status CheckSource() const;
  Result<bool> TakeOver(const std::string& target, const std::string& key);
  Result<std::vector<BlockDecision>> Calibrate(const std::string& folder);
  Status WriteBlock(int32_t b, const BlockDecision& decision, CheckpointWriter* writer);
  Status WriteOuter(CheckpointWriter* writer);
  Result<HfConfig> NewConfig() const;

  const CompressOptions& options_;
  const Recipe& recipe_;
  const StructureStep& step_;
  ThreadPool* pool_;
  const RunControl& control_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  Calibration calibration_;
  StructureReport report_;
  bool taken_over_ = false;
  int64_t weights_before_ = 0;  // of the blocks' linears
  int64_t weights_ = 0;
  std::vector<LayerSizes> sizes_;  // of the blocks written
  std::set<std::string> written_;  // tensors of the source that belong to a block
};

// A weight that is no number would show up as the input of another, or as scores that mean nothing.
Status StructureStepRun::CheckSource() const {
  const TensorSource& tensors = checkpoint_->tensors();
  for (const std::string& name : tensors.names()) {
    if (control_.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
    HARROW_ASSIGN_OR_RETURN(const TensorView view, tensors.Find(name));
    HARROW_RETURN_IF_ERROR(CheckFinite(name, view));
    tensors.DropResident(view);
  }
  return OkStatus();
}

// Whether `target` is this step's result already.
Result<bool> StructureStepRun::TakeOver(const std::string& target, const std::string& key) {
  std::error_code error;
  if (!fs::exists(target, error) || options_.restart) return false;
  const Result<std::string> text = ReadFile(target + "/" + kMarkFile, kMaxMarkBytes);
  const json mark = text.ok() ? json::parse(*text, nullptr, /*allow_exceptions=*/false) : json();
  if (!mark.is_object() || !mark.contains("key") || !mark.contains("report")) {
    return InvalidArgument(
        "{}: needed for the result of {}, but holds something else; move it away", target,
        step_.where);
  }
  if (mark["key"] != key) {
    return InvalidArgument(
        "{}: left by a run with other settings that was interrupted or failed; repeat that run to "
        "continue it, or discard it: give --restart or remove the folder",
        target);
  }
  HARROW_ASSIGN_OR_RETURN(report_, ReportFromJson<StructureReport>(mark["report"]));
  return true;
}

// Runs the dense model over the calibration text, block by block, before the eyes of the method.
Result<std::vector<BlockDecision>> StructureStepRun::Calibrate(const std::string& folder) {
  const int64_t length = calibration_.sequence_length;
  const auto elements = static_cast<size_t>(length * model_->config().hidden);
  const int64_t samples = calibration_.samples();
  const auto blocks = static_cast<int32_t>(model_->blocks().size());
  const auto state = NewForwardState(pool_, length);
  const auto kv = NewKvCache(model_->config(), 1, length);
  HARROW_ASSIGN_OR_RETURN(const std::unique_ptr<HiddenStore> hidden,
                          HiddenStore::Create(samples, static_cast<int64_t>(elements), folder));
  std::vector<float> before(elements);
  std::vector<float> after(elements);
  for (int64_t s = 0; s < samples; ++s) {
    HARROW_RETURN_IF_ERROR(model_->Embed(calibration_.sequence(s), length, before.data()));
    HARROW_RETURN_IF_ERROR(hidden->Write(s, before.data()));
  }
  const std::unique_ptr<StructureRun> run = step_.method->Start(*model_);
  for (int32_t b = 0; b < blocks; ++b) {
    HARROW_RETURN_IF_ERROR(model_->LoadBlock(b));
    for (int64_t s = 0; s < samples; ++s) {
      if (control_.Cancelled()) return Error(StatusCode::kCancelled, "cancelled");
      control_.Progress(fmt::format("{}: block {}/{}", step_.method_name, b + 1, blocks),
                        b * samples + s, blocks * samples);
      HARROW_RETURN_IF_ERROR(hidden->Read(s, before.data()));
      after = before;
      HARROW_RETURN_IF_ERROR(
          model_->ForwardBlock(b, after.data(), length, 0, kv.get(), 0, state.get(), run.get()));
      HARROW_RETURN_IF_ERROR(run->EndSequence(b, before.data(), after.data(), length));
      HARROW_RETURN_IF_ERROR(hidden->Write(s, after.data()));
    }
    HARROW_RETURN_IF_ERROR(
        run->EndBlock(b, std::as_const(*model_).blocks()[static_cast<size_t>(b)]));
    model_->ReleaseBlock(b);
  }
  return run->Decide();
}

// A kept block under its new number: sliced linears, everything else as it is.
Status StructureStepRun::WriteBlock(int32_t b, const BlockDecision& decision,
                                    CheckpointWriter* writer) {
  const std::string from = BlockPrefix(model_->blocks()[static_cast<size_t>(b)], b);
  std::string to = from;
  const std::string number = std::to_string(b);
  to.replace(to.size() - 1 - number.size(), number.size(), std::to_string(sizes_.size()));
  const auto renamed = [&](const std::string& name) { return to + name.substr(from.size()); };
  for (const std::string& name : checkpoint_->tensors().names()) {
    if (name.starts_with(from)) written_.insert(name);
  }
  StructureBlockReport report;
  report.block = b;
  report.kept = !decision.dropped;
  report.score = decision.score;
  for (const LinearLayer* layer : std::as_const(model_->blocks()[static_cast<size_t>(b)]).linears())
    weights_before_ += layer->rows * layer->cols;
  for (const std::string& warning : decision.warnings)
    report_.warnings.push_back(fmt::format("block {}: {}", b, warning));
  if (decision.dropped) {
    report_.blocks.push_back(report);
    return OkStatus();
  }

  HARROW_RETURN_IF_ERROR(model_->LoadBlock(b));
  Block& block = model_->blocks()[static_cast<size_t>(b)];
  const int64_t head_dim = model_->config().head_dim;
  const bool cut = !decision.kv_groups.empty();
  const int64_t queries = block.heads / block.kv_heads;
  const std::vector<int64_t> q = Expand(decision.kv_groups, queries * head_dim);
  const std::vector<int64_t> kv = Expand(decision.kv_groups, head_dim);
  const std::vector<int64_t> neurons = Expand(decision.neurons, 1);
  const Slice slices[] = {{q, {}},       {kv, {}},      {kv, {}},     {{}, q},
                          {neurons, {}}, {neurons, {}}, {{}, neurons}};
  LayerSizes sizes = {block.heads, block.kv_heads, block.ffn, false, false};
  if (cut) {
    sizes.num_key_value_heads = static_cast<int64_t>(decision.kv_groups.size());
    sizes.num_attention_heads = sizes.num_key_value_heads * queries;
    sizes.intermediate_size = static_cast<int64_t>(neurons.size());
  }
  HARROW_RETURN_IF_ERROR(writer->BeginShard(fmt::format("block-{:05d}", sizes_.size())));
  std::set<std::string> linears;
  const std::vector<LinearLayer*> layers = block.linears();
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = *layers[i];
    linears.insert({layer.name, layer.bias_name});
    LinearWeight weight = layer.weight;
    if (cut) {
      HARROW_ASSIGN_OR_RETURN(weight, SliceWeight(layer, slices[i]));
    }
    weights_ += weight.rows * weight.cols;
    HARROW_RETURN_IF_ERROR(writer->AddLinear(renamed(layer.name), weight));
  }
  const auto add_bias = [&](const LinearLayer& layer, const std::vector<int64_t>& kept,
                            const std::vector<double>& means, bool* exists) -> Status {
    const std::vector<float> bias = cut ? Compensated(layer, kept, means) : layer.bias;
    *exists = !bias.empty();
    if (bias.empty()) return OkStatus();
    std::string name = renamed(layer.name);
    name.replace(name.rfind(".weight"), std::string::npos, ".bias");
    return writer->AddTensor(name, BiasTensor(bias, layer.weight.spec.values));
  };
  HARROW_RETURN_IF_ERROR(add_bias(block.o, q, decision.o_means, &sizes.o_proj_bias));
  HARROW_RETURN_IF_ERROR(add_bias(block.down, neurons, decision.down_means, &sizes.down_proj_bias));
  for (const std::string& name : checkpoint_->tensors().names()) {
    if (!name.starts_with(from) || linears.contains(name)) continue;
    HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(name));
    HARROW_RETURN_IF_ERROR(writer->AddTensor(renamed(name), view));
  }
  HARROW_RETURN_IF_ERROR(writer->EndShard());
  model_->ReleaseBlock(b);
  report.heads = sizes.num_attention_heads;
  report.kv_heads = sizes.num_key_value_heads;
  report.ffn = sizes.intermediate_size;
  report_.blocks.push_back(report);
  sizes_.push_back(sizes);
  return OkStatus();
}

Status StructureStepRun::WriteOuter(CheckpointWriter* writer) {
  HARROW_RETURN_IF_ERROR(writer->BeginShard("outer"));
  for (const std::string& name : checkpoint_->tensors().names()) {
    if (written_.contains(name)) continue;
    HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(name));
    HARROW_RETURN_IF_ERROR(writer->AddTensor(name, view));
  }
  return writer->EndShard();
}

// The source's config.json with the new sizes: plain fields where all blocks have the same.
Result<HfConfig> StructureStepRun::NewConfig() const {
  json root = json::parse(checkpoint_->config().json);
  root["num_hidden_layers"] = sizes_.size();
  const LayerSizes& first = sizes_.front();
  const bool uniform = std::all_of(sizes_.begin(), sizes_.end(),
                                   [&first](const LayerSizes& sizes) { return sizes == first; }) &&
                       !first.o_proj_bias && !first.down_proj_bias;
  if (uniform) {
    root["num_attention_heads"] = first.num_attention_heads;
    root["num_key_value_heads"] = first.num_key_value_heads;
    root["intermediate_size"] = first.intermediate_size;
  }
  root["head_dim"] = checkpoint_->config().head_dim;
  // transformers lists what kind each layer is.
  if (auto types = root.find("layer_types");
      types != root.end() && types->is_array() && types->size() == report_.blocks.size()) {
    json kept = json::array();
    for (size_t i = 0; i < report_.blocks.size(); ++i) {
      if (report_.blocks[i].kept) kept.push_back((*types)[i]);
    }
    *types = std::move(kept);
  }
  root.erase("harrow");
  HARROW_ASSIGN_OR_RETURN(HfConfig config, ParseHfConfig(root.dump(), kConfigFile));
  if (!uniform) config.layers = sizes_;
  return config;
}

Result<StructureReport> StructureStepRun::Run(const std::string& source, const std::string& target,
                                              CalibrationReport* calibration) {
  const auto start = std::chrono::steady_clock::now();
  HARROW_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(source));
  const HfConfig& config = checkpoint_->config();
  if (!config.packed.empty() || !config.low_rank.empty()) {
    return InvalidArgument(
        "{}: structural steps need a dense model; {} is compressed already ({})", step_.where,
        source,
        config.packed.empty() ? config.low_rank.begin()->first : config.packed.begin()->first);
  }
  HARROW_ASSIGN_OR_RETURN(model_, Model::Load(checkpoint_, {.lazy_blocks = true}));
  HARROW_RETURN_IF_ERROR(step_.method->Check(*model_).At(step_.where));
  HARROW_ASSIGN_OR_RETURN(ModelCalibration taken,
                          CalibrateFor(*recipe_.calibration, model_->config(), options_, control_));
  calibration_ = std::move(taken.calibration);
  *calibration = std::move(taken.report);
  HARROW_ASSIGN_OR_RETURN(const std::string key, ResumeKey(*checkpoint_, step_.canonical,
                                                           pool_->size(), calibration_.ids));
  HARROW_ASSIGN_OR_RETURN(taken_over_, TakeOver(target, key));
  if (taken_over_) return std::move(report_);

  report_.method = step_.method_name;
  report_.bytes_before = TensorBytes(*checkpoint_);
  HARROW_ASSIGN_OR_RETURN(
      const std::unique_ptr<CheckpointWriter> writer,
      CheckpointWriter::Create(
          target, {.overwrite = options_.restart, .resume_key = "", .discard_partial = true}));
  HARROW_RETURN_IF_ERROR(CheckSource());
  Result<std::vector<BlockDecision>> decisions = Calibrate(target + ".partial");
  if (!decisions.ok()) return decisions.status().At(step_.where);
  for (size_t b = 0; b < decisions->size(); ++b)
    HARROW_RETURN_IF_ERROR(WriteBlock(static_cast<int32_t>(b), (*decisions)[b], writer.get()));
  report_.ratio = 1 - static_cast<double>(weights_) / static_cast<double>(weights_before_);
  report_.requested_ratio = step_.method->ratio();
  if (report_.requested_ratio &&
      std::fabs(*report_.requested_ratio - report_.ratio) > kMissedRatio) {
    report_.warnings.push_back(fmt::format(
        "{}: asked to remove {} of the blocks' linear weights, removed {:.4f}; heads and rounded "
        "numbers of neurons leave as a whole, and every layer keeps some",
        report_.method, *report_.requested_ratio, report_.ratio));
  }
  HARROW_RETURN_IF_ERROR(WriteOuter(writer.get()));
  HARROW_ASSIGN_OR_RETURN(const HfConfig new_config, NewConfig());
  HARROW_RETURN_IF_ERROR(writer->CopySideFiles(source));
  for (int64_t i = 0; i <= static_cast<int64_t>(sizes_.size()); ++i) {
    const bool outer = i == static_cast<int64_t>(sizes_.size());
    HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const TensorSource> shard,
                            writer->OpenShard(outer ? "outer" : fmt::format("block-{:05d}", i)));
    for (const std::string& name : shard->names()) {
      HARROW_ASSIGN_OR_RETURN(const TensorView view, shard->Find(name));
      report_.bytes += view.bytes();
    }
  }
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const json mark = {{"key", key}, {"report", ReportToJson(report_)}};
  HARROW_RETURN_IF_ERROR(writer->WriteSideFile(
      kMarkFile, mark.dump(1, ' ', false, json::error_handler_t::replace) + "\n"));
  HARROW_RETURN_IF_ERROR(writer->Finish(new_config, "", ""));
  return std::move(report_);
}

// Mistakes that can be told before any step. The blocks that stay are not known, but their names,
// which begin at 0 again, are.
Status CheckBeforehand(const CompressOptions& options, const Recipe& recipe,
                       const std::shared_ptr<const Checkpoint>& original) {
  HARROW_RETURN_IF_ERROR(CheckpointWriter::CheckDirectory(options.output, options.overwrite));
  HARROW_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Load(original, {.lazy_blocks = true}));
  for (const StructureStep& step : recipe.structure) {
    HARROW_RETURN_IF_ERROR(step.method->Check(*model).At(step.where));
    model->blocks().resize(model->blocks().size() -
                           static_cast<size_t>(step.method->dropped_blocks()));
  }
  return MakePlan(recipe, *model, /*check_sizes=*/false).status();
}

}  // namespace

std::string BlockPrefix(const Block& block, int64_t index) {
  const std::string marker = fmt::format(".{}.", index);
  return block.q.name.substr(0, block.q.name.find(marker) + marker.size());
}

Status ApplyStructure(const CompressOptions& options, const Recipe& recipe, ThreadPool* pool,
                      const RunControl& control, StructuredSource* source) {
  HARROW_ASSIGN_OR_RETURN(const std::string output, OutputPath(options.output));
  {
    HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> original,
                            Checkpoint::Open(options.model));
    HARROW_RETURN_IF_ERROR(CheckBeforehand(options, recipe, original));
    source->disk_bytes_before = original->tensors().file_bytes();
    source->resident_bytes_before = TensorBytes(*original);
  }
  source->directory = options.model;
  for (size_t i = 0; i < recipe.structure.size(); ++i) {
    const std::string target = fmt::format("{}.structure-{}", output, i);
    StructureStepRun step(options, recipe, recipe.structure[i], pool, control);
    HARROW_ASSIGN_OR_RETURN(StructureReport report,
                            step.Run(source->directory, target, &source->calibration));
    for (const std::string& warning : report.warnings)
      control.Warn(warning);
    source->reports.push_back(std::move(report));
    source->directory = target;
    source->folders.push_back(target);
    if (!step.taken_over()) source->made.push_back(target);
  }
  return OkStatus();
}

void RemoveStructured(const StructuredSource& source, const CompressOptions& options,
                      const Status& outcome) {
  std::error_code ignored;
  if (!outcome.ok()) {
    const bool repeats = outcome.code() == StatusCode::kInvalidArgument ||
                         outcome.code() == StatusCode::kUnsupported ||
                         outcome.code() == StatusCode::kNumerical;
    const Result<std::string> output = OutputPath(options.output);
    if (!repeats || !output.ok() || fs::exists(WorkFolder(*output), ignored)) return;
  }
  for (const std::string& folder : outcome.ok() ? source.folders : source.made)
    fs::remove_all(folder, ignored);
}

}  // namespace harrow
