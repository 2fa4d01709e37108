// The engine: a recipe over a model, block by block.
//
// Source: the sequential convention of SparseGPT, GPTQ and Wanda (opt_sequential, prune_wanda):
// every linear of a block is calibrated on the inputs it has in the block before compression, and
// the next block on what the compressed block produces.
#include <chrono>
#include <map>
#include <set>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/allocation.h"
#include "compress/blas.h"
#include "compress/block_method.h"
#include "compress/calibration_run.h"
#include "compress/dense_stream.h"
#include "compress/layer.h"
#include "compress/model_calibration.h"
#include "compress/output_path.h"
#include "compress/plan.h"
#include "compress/recipe.h"
#include "compress/reorder.h"
#include "compress/report_json.h"
#include "compress/rescale.h"
#include "compress/resume_key.h"
#include "compress/row_slices.h"
#include "compress/structure/structure_pass.h"
#include "harrow/compress.h"
#include "model/model.h"

namespace harrow {
namespace {

constexpr char kOuterShard[] = "outer";
constexpr int64_t kDefaultSequenceLength = 2048;
// Reports of finished layers, beside the shards of an unfinished run.
constexpr char kLayersFile[] = "harrow_layers.json";
// Scores that an allocation is made from, there as well.
constexpr char kScoresFile[] = "harrow_allocation.json";
constexpr uint64_t kMaxWorkFileBytes = uint64_t{256} << 20;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Status Cancelled() {
  return Error(StatusCode::kCancelled, "cancelled");
}

class Compressor {
 public:
  // `structured` is the model that structural steps left in place of options.model, or null;
  // `start` is when they, or without them this run, began.
  Compressor(const CompressOptions& options, const RunControl* control, Recipe recipe,
             const StructuredSource* structured, std::chrono::steady_clock::time_point start)
      : options_(options),
        structured_(structured),
        source_(structured != nullptr ? structured->directory : options.model),
        control_(control != nullptr ? *control : silent_),
        pool_(options.threads),
        blas_threads_(&pool_),
        state_(NewForwardState(&pool_, kDefaultSequenceLength)),
        start_(start),
        recipe_(std::move(recipe)) {}

  Result<CompressReport> Run() {
    HARROW_RETURN_IF_ERROR(Prepare());
    HARROW_RETURN_IF_ERROR(Allocate());
    if (last_observed_ >= 0) {
      HARROW_ASSIGN_OR_RETURN(run_, CalibrationRun::Start(*model_, *calibration_, work_folder_));
    }
    if (plan_.NeedsDenseStream()) {
      HARROW_ASSIGN_OR_RETURN(
          dense_, DenseStream::Create(*model_, *calibration_, work_folder_, state_.get()));
    }
    for (int32_t b = 0; b < Blocks(); ++b) {
      HARROW_RETURN_IF_ERROR(RunBlock(b).At(fmt::format("block {}", b)));
    }
    HARROW_RETURN_IF_ERROR(RunOuter());
    return Finish();
  }

 private:
  int32_t Blocks() const { return static_cast<int32_t>(model_->blocks().size()); }
  int64_t Samples() const { return calibration_ ? calibration_->samples() : 0; }
  static std::string ShardName(int32_t block) { return fmt::format("block-{:05d}", block); }

  Status Prepare();
  Status CheckSource() const;
  Status PrepareCalibration();
  Status PrepareOutput();
  Status PrepareAllocation();
  Status Allocate();
  Status RunBlock(int32_t b);
  CalibrationRun::OnSequence TickEach(std::string what);
  Status CompressBlock(int32_t b);
  Result<std::vector<LinearWeight>> RestoreShard(const std::string& name,
                                                 const std::vector<const LinearLayer*>& linears);
  Status RestoreBlock(int32_t b);
  Status RunOuter();
  Status Observe(int32_t b, StatisticsObserver* observer);
  Result<CompressedLayer> CompressOne(const LinearLayer& layer, const LayerPlan& plan,
                                      InputStatistics* statistics, const UnscaledLayer* unscaled);
  Status RunBlockSteps(const Block& block,
                       const std::vector<std::shared_ptr<InputStatistics>>& statistics,
                       std::vector<std::optional<CompressedLayer>>* done);
  Status StoreLinear(std::optional<CompressedLayer> done, LinearLayer* linear);
  void FindOtherTensors();
  // Blocks(): those outside all blocks. `changed` replaces tensors of the source.
  Status AddOtherTensors(int32_t b, const std::map<std::string, TensorView>& changed);
  Status SaveLayerReports();
  void LoadLayerReports();
  Result<CompressReport> Finish();

  void Warn(const std::string& message) {
    report_.warnings.push_back(message);
    control_.Warn(message);
  }
  // Counts the embedding or the head as it is stored.
  void AddOuter(const LinearLayer& linear, const LinearWeight& weight) {
    report_.resident_bytes += WeightBytes(weight);
    (linear.name == model_->embedding().name ? report_.embedding : report_.head) =
        FormatText(weight);
  }
  void AddLayer(LayerReport layer) {
    for (const std::string& warning : layer.warnings)
      Warn(warning);
    rounded_ += layer.rounded;
    if (layer.name != model_->embedding().name && layer.name != model_->head().name) {
      block_rounded_to_zero_ += layer.rounded_to_zero;
    }
    report_.layers.push_back(std::move(layer));
  }
  // One unit of work done; `what` says where.
  void Tick(std::string_view what, int64_t units) {
    done_units_ += units;
    control_.Progress(what, done_units_, total_units_);
  }

  const CompressOptions& options_;
  const StructuredSource* structured_;
  const std::string source_;
  const RunControl silent_;
  const RunControl& control_;
  ThreadPool pool_;
  BlasThreads blas_threads_;
  std::unique_ptr<ForwardState, void (*)(ForwardState*)> state_;
  const std::chrono::steady_clock::time_point start_;

  Recipe recipe_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  CompressionPlan plan_;
  std::optional<Calibration> calibration_;
  std::optional<Allocation> allocation_;
  std::unique_ptr<CalibrationRun> run_;
  std::unique_ptr<DenseStream> dense_;  // null when no step needs it
  int32_t last_observed_ = -1;  // hidden states are needed up to this block; Blocks(): the head
  std::unique_ptr<CheckpointWriter> writer_;
  std::string work_folder_;
  std::map<std::string, LayerReport> earlier_;           // of an interrupted run
  std::vector<std::vector<std::string>> other_tensors_;  // by block; last: outside all blocks
  CompressReport report_;
  int64_t block_weights_ = 0;
  int64_t block_nonzeros_ = 0;
  int64_t rounded_ = 0;
  int64_t block_rounded_to_zero_ = 0;
  int64_t done_units_ = 0;
  int64_t total_units_ = 0;
};

Status Compressor::Prepare() {
  HARROW_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(source_));
  HARROW_ASSIGN_OR_RETURN(model_, Model::Load(checkpoint_, {.lazy_blocks = true}));
  HARROW_ASSIGN_OR_RETURN(plan_, MakePlan(recipe_, *model_));
  HARROW_RETURN_IF_ERROR(CheckSource());
  HARROW_RETURN_IF_ERROR(PrepareAllocation());
  for (int32_t b = 0; b < Blocks(); ++b) {
    for (const LinearLayer* linear : std::as_const(*model_).blocks()[b].linears()) {
      if (plan_.NeedOf(linear->name) != StatisticsNeed::kNone) last_observed_ = b;
    }
    if (plan_.HasBlockSteps(model_->blocks()[b])) last_observed_ = b;
  }
  if (plan_.NeedOf(model_->head().name) != StatisticsNeed::kNone) last_observed_ = Blocks();
  report_.model = options_.model;
  report_.output = options_.output;
  report_.recipe = recipe_.canonical;
  report_.disk_bytes_before = checkpoint_->tensors().file_bytes();
  FindOtherTensors();
  for (const std::vector<std::string>& names : other_tensors_) {
    for (const std::string& name : names) {
      HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(name));
      report_.resident_bytes_before += view.bytes();
      report_.resident_bytes += view.bytes();
    }
  }
  if (structured_ != nullptr) {
    report_.structure = structured_->reports;
    report_.calibration = structured_->calibration;
    report_.disk_bytes_before = structured_->disk_bytes_before;
    for (const StructureReport& step : structured_->reports) {  // already announced
      report_.warnings.insert(report_.warnings.end(), step.warnings.begin(), step.warnings.end());
    }
  }
  for (const std::string& warning : plan_.warnings)
    Warn(warning);
  if (last_observed_ >= 0 || (allocation_ && allocation_->needs() == DenseNeed::kActivations)) {
    HARROW_RETURN_IF_ERROR(PrepareCalibration());
  }
  HARROW_RETURN_IF_ERROR(PrepareOutput());

  const int64_t forward = Samples();
  if (allocation_) total_units_ += allocation_->units(forward);
  for (int32_t b = 0; b < Blocks(); ++b) {
    total_units_ += static_cast<int64_t>(model_->blocks()[b].linears().size());
    const bool observed = !writer_->HasShard(ShardName(b));
    if (b <= last_observed_ && observed) total_units_ += forward;
    if (b < last_observed_ && !observed && plan_.NeedsDenseStream()) total_units_ += forward;
    if (b < last_observed_) total_units_ += forward;
  }
  return OkStatus();
}

// Refuses weights that cannot be compressed now and not when their turn comes.
Status Compressor::CheckSource() const {
  const PackedWeights& packed = checkpoint_->config().packed;
  for (const auto& [name, plan] : plan_.layers) {
    if (checkpoint_->config().low_rank.contains(name)) {
      return InvalidArgument(
          "{}: is stored low-rank already; compress the original model, or leave this weight out "
          "with `ignore`",
          name);
    }
    if (const auto info = packed.find(name); info != packed.end()) {
      if (!IsQuantized(info->second.spec.values)) continue;
      return InvalidArgument(
          "{}: is stored as {} already; compress the original model, or leave this weight out with "
          "`ignore`",
          name, SpecName(info->second.spec));
    }
    HARROW_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->tensors().Find(name));
    if (const Result<LinearWeight> dense = WrapDense(view); !dense.ok()) {
      return dense.status().At(name);
    }
  }
  return OkStatus();
}

Status Compressor::PrepareCalibration() {
  HARROW_ASSIGN_OR_RETURN(ModelCalibration taken,
                          CalibrateFor(*recipe_.calibration, model_->config(), options_, control_));
  calibration_ = std::move(taken.calibration);
  report_.calibration = std::move(taken.report);
  if (!calibration_->warning.empty()) Warn(calibration_->warning);
  return OkStatus();
}

Status Compressor::PrepareOutput() {
  HARROW_ASSIGN_OR_RETURN(const std::string output, OutputPath(options_.output));
  work_folder_ = WorkFolder(output);
  // What an allocation is made from lies outside the recipe where it is a file.
  HARROW_ASSIGN_OR_RETURN(
      const std::string key,
      ResumeKey(
          *checkpoint_, recipe_.canonical + plan_.AllocationText(), pool_.size(),
          calibration_ ? std::span<const int32_t>(calibration_->ids) : std::span<const int32_t>()));
  HARROW_ASSIGN_OR_RETURN(
      writer_, CheckpointWriter::Create(options_.output, {.overwrite = options_.overwrite,
                                                          .resume_key = key,
                                                          .discard_partial = options_.restart}));
  LoadLayerReports();
  return OkStatus();
}

// A block's notes are written before its shard, so they are there whenever the shard is; should
// they be missing all the same, the block is described from what is stored.
void Compressor::LoadLayerReports() {
  const Result<std::string> text = ReadFile(work_folder_ + "/" + kLayersFile, kMaxWorkFileBytes);
  if (!text.ok()) return;
  const nlohmann::json layers = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!layers.is_array()) return;
  for (const nlohmann::json& layer : layers) {
    Result<LayerReport> report = ReportFromJson<LayerReport>(layer);
    if (report.ok()) earlier_[report->name] = std::move(report).value();
  }
}

Status Compressor::SaveLayerReports() {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  std::set<std::string> current;
  for (const LayerReport& layer : report_.layers) {
    layers.push_back(ReportToJson(layer));
    current.insert(layer.name);
  }
  // Shards not reached yet may be finished too; an interruption must not lose their notes.
  for (const auto& [name, layer] : earlier_) {
    if (!current.contains(name)) layers.push_back(ReportToJson(layer));
  }
  return WriteFileAtomically(work_folder_ + "/" + kLayersFile, layers.dump());
}

// What can be told before any work: mistakes, and allocations that need no scores.
Status Compressor::PrepareAllocation() {
  if (!recipe_.allocation) return OkStatus();
  HARROW_ASSIGN_OR_RETURN(allocation_, Allocation::Make(recipe_, *model_, plan_));
  if (allocation_->needs() != DenseNeed::kNothing) return OkStatus();
  return allocation_->Apply(&plan_);
}

// Scores the dense model, or takes the scores of the interrupted run, and allocates.
Status Compressor::Allocate() {
  if (!allocation_ || allocation_->needs() == DenseNeed::kNothing) return OkStatus();
  const std::string path = work_folder_ + "/" + kScoresFile;
  const Result<std::string> saved = ReadFile(path, kMaxWorkFileBytes);
  if (saved.ok() && allocation_->LoadScores(*saved)) {
    Tick("dense model: scores taken over", allocation_->units(Samples()));
  } else {
    const auto progress = [this](const std::string& what, int64_t units) {
      Tick(what, units);
      return control_.Cancelled() ? Cancelled() : OkStatus();
    };
    HARROW_RETURN_IF_ERROR(allocation_->ScoreDense(model_.get(),
                                                   calibration_ ? &*calibration_ : nullptr,
                                                   work_folder_, state_.get(), progress));
    HARROW_RETURN_IF_ERROR(WriteFileAtomically(path, allocation_->SaveScores()));
  }
  const size_t known = plan_.warnings.size();
  HARROW_RETURN_IF_ERROR(allocation_->Apply(&plan_));
  for (size_t i = known; i < plan_.warnings.size(); ++i)
    Warn(plan_.warnings[i]);
  return OkStatus();
}

CalibrationRun::OnSequence Compressor::TickEach(std::string what) {
  return [this, what = std::move(what)] {
    Tick(what, 1);
    return control_.Cancelled() ? Cancelled() : OkStatus();
  };
}

Status Compressor::RunBlock(int32_t b) {
  if (control_.Cancelled()) return Cancelled();
  HARROW_RETURN_IF_ERROR(model_->LoadBlock(b));
  for (const LinearLayer* linear : std::as_const(*model_).blocks()[b].linears()) {
    report_.resident_bytes_before += WeightBytes(linear->weight);
  }
  if (writer_->HasShard(ShardName(b))) {
    // The dense stream needs the weights that RestoreBlock replaces.
    StatisticsObserver none;
    if (dense_ != nullptr && b < last_observed_) HARROW_RETURN_IF_ERROR(Observe(b, &none));
    HARROW_RETURN_IF_ERROR(RestoreBlock(b));
  } else {
    HARROW_RETURN_IF_ERROR(CompressBlock(b));
  }
  for (const LinearLayer* linear : std::as_const(*model_).blocks()[b].linears()) {
    report_.resident_bytes += WeightBytes(linear->weight);
    const Result<int64_t> nonzeros = ValidateWeight(linear->weight);
    if (!nonzeros.ok()) return nonzeros.status().At(linear->name);
    block_weights_ += linear->rows * linear->cols;
    block_nonzeros_ += *nonzeros;
  }
  if (b < last_observed_) {
    // Moves the hidden states behind the compressed block.
    const auto start = std::chrono::steady_clock::now();
    HARROW_RETURN_IF_ERROR(
        run_->RunBlock(b, state_.get(), nullptr, nullptr, /*advance=*/true,
                       TickEach(fmt::format("block {}/{}: run compressed", b + 1, Blocks()))));
    report_.seconds_advance += SecondsSince(start);
  }
  model_->ReleaseBlock(b);
  return OkStatus();
}

// Runs the block as it is and lets `observer` see its inputs; the outputs are dropped. Also takes
// the dense stream through it.
Status Compressor::Observe(int32_t b, StatisticsObserver* observer) {
  const auto start = std::chrono::steady_clock::now();
  HARROW_RETURN_IF_ERROR(
      run_->RunBlock(b, state_.get(), observer, dense_.get(), /*advance=*/false,
                     TickEach(fmt::format("block {}/{}: calibrate", b + 1, Blocks()))));
  report_.seconds_observe += SecondsSince(start);
  return OkStatus();
}

Result<CompressedLayer> Compressor::CompressOne(const LinearLayer& layer, const LayerPlan& plan,
                                                InputStatistics* statistics,
                                                const UnscaledLayer* unscaled) {
  if (control_.Cancelled()) return Cancelled();
  Result<CompressedLayer> done =
      CompressLayer(layer, plan, recipe_.store, statistics, &pool_, &control_, unscaled);
  if (done.ok()) report_.seconds_weights += done->report.seconds;
  return done;
}

// Lets the block steps rewrite what the other steps made of the linears of `block`, which still
// has its original weights.
Status Compressor::RunBlockSteps(const Block& block,
                                 const std::vector<std::shared_ptr<InputStatistics>>& statistics,
                                 std::vector<std::optional<CompressedLayer>>* done) {
  BlockWork work;
  work.config = &model_->config();
  work.attention_norm = &block.attention_norm;
  work.ffn_norm = &block.ffn_norm;
  work.sequences = Samples();
  work.length = calibration_->sequence_length;
  work.read_input = [this](int64_t s, float* hidden) { return run_->ReadHidden(s, hidden); };
  work.folder = work_folder_;
  work.pool = &pool_;
  work.control = &control_;
  const std::vector<const LinearLayer*> linears = block.linears();
  for (size_t i = 0; i < linears.size(); ++i) {
    BlockLinear& linear = work.linears[i];
    linear.name = linears[i]->name;
    linear.rows = linears[i]->rows;
    linear.cols = linears[i]->cols;
    linear.original.resize(static_cast<size_t>(linear.rows * linear.cols));
    UnpackRows(linears[i]->weight, 0, linear.rows, linear.original.data());
    linear.w.resize(linear.original.size());
    UnpackRows((*done)[i] ? (*done)[i]->weight : linears[i]->weight, 0, linear.rows,
               linear.w.data());
  }
  std::set<size_t> changed;
  for (const BlockStep& step : plan_.block_steps) {
    for (size_t i = 0; i < linears.size(); ++i) {
      const std::optional<CompressedLayer>& layer = (*done)[i];
      work.linears[i].trainable = layer && step.names.contains(linears[i]->name) &&
                                  layer->weight.spec.group == 0 &&
                                  layer->weight.low_rank == nullptr;
      if (!work.linears[i].trainable) continue;
      changed.insert(i);
      (*done)[i]->report.method += "+" + step.step->method_name;
    }
    const Status status = step.step->method->block_method()->ApplyToBlock(&work);
    if (!status.ok()) return status.At(step.step->method_name);
  }
  for (const size_t i : changed) {
    CompressedLayer& layer = *(*done)[i];
    for (std::string& note : work.linears[i].notes)
      layer.report.notes.push_back(std::move(note));
    HARROW_RETURN_IF_ERROR(
        ReplaceValues(*linears[i], std::move(work.linears[i].w), statistics[i].get(), &layer));
  }
  for (const std::string& warning : work.warnings)
    (*done)[*changed.begin()]->report.warnings.push_back(block.q.name + ": " + warning);
  return OkStatus();
}

Status Compressor::StoreLinear(std::optional<CompressedLayer> done, LinearLayer* linear) {
  if (done) {
    linear->weight = std::move(done->weight);
    AddLayer(std::move(done->report));
  } else {
    HARROW_RETURN_IF_ERROR(CheckFinite(linear->name, linear->weight));
  }
  return writer_->AddLinear(linear->name, linear->weight);
}

Status Compressor::CompressBlock(int32_t b) {
  Block& block = model_->blocks()[static_cast<size_t>(b)];
  StatisticsObserver observer;
  if (dense_ != nullptr) dense_->ClearWatched();
  for (const std::vector<const LinearLayer*>& group : block.input_groups()) {
    StatisticsNeed need = StatisticsNeed::kNone;
    for (const LinearLayer* linear : group)
      need = need | plan_.NeedOf(linear->name);
    if (Has(need, StatisticsNeed::kDenseInputs)) {
      observer.WatchDense(group, need, dense_.get());
    } else if (need != StatisticsNeed::kNone) {
      observer.Watch(group, need);
    }
  }
  if (!observer.empty() || (dense_ != nullptr && b <= last_observed_)) {
    HARROW_RETURN_IF_ERROR(Observe(b, &observer));
  } else if (b <= last_observed_) {
    done_units_ += Samples();
  }

  std::map<std::string, uint64_t> source_bytes;
  for (const LinearLayer* linear : std::as_const(block).linears())
    source_bytes[linear->name] = WeightBytes(linear->weight);
  HARROW_ASSIGN_OR_RETURN(const auto ordered, ReorderInputs(plan_, model_->config().head_dim,
                                                            observer, &pool_, &control_, &block));
  HARROW_ASSIGN_OR_RETURN(ScaledInputs scaled, ScaleInputs(plan_, checkpoint_->tensors(), observer,
                                                           &pool_, &control_, &block));
  HARROW_RETURN_IF_ERROR(writer_->BeginShard(ShardName(b)));
  // Block steps need the source's weights and the statistics until all linears are done.
  const bool has_block_steps = plan_.HasBlockSteps(block);
  std::vector<std::shared_ptr<InputStatistics>> kept;
  std::vector<std::optional<CompressedLayer>> waiting;
  for (LinearLayer* linear : block.linears()) {
    const LayerPlan* plan = plan_.Find(linear->name);
    // Taken also when unused, so that the statistics are freed with the last linear of a group.
    const std::shared_ptr<InputStatistics> statistics = observer.Take(linear->name);
    Tick(fmt::format("block {}/{}: {}", b + 1, Blocks(), linear->name), 1);
    std::optional<CompressedLayer> done;
    if (plan != nullptr) {
      const auto before = scaled.unscaled.extract(linear->name);  // freed after its last use
      HARROW_ASSIGN_OR_RETURN(
          done, CompressOne(*linear, *plan, statistics.get(), before ? &before.mapped() : nullptr));
      done->report.bytes_before = source_bytes[linear->name];
      for (const auto* found : {&ordered, &std::as_const(scaled.notes)}) {
        const auto note = found->find(linear->name);
        if (note != found->end()) done->report.notes.push_back(note->second);
      }
    }
    if (has_block_steps) {
      waiting.push_back(std::move(done));
      kept.push_back(statistics);
    } else {
      HARROW_RETURN_IF_ERROR(StoreLinear(std::move(done), linear));
    }
  }
  if (has_block_steps) {
    HARROW_RETURN_IF_ERROR(RunBlockSteps(block, kept, &waiting));
    for (size_t i = 0; i < waiting.size(); ++i) {
      HARROW_RETURN_IF_ERROR(StoreLinear(std::move(waiting[i]), block.linears()[i]));
    }
  }
  HARROW_RETURN_IF_ERROR(AddOtherTensors(b, scaled.norms));
  HARROW_RETURN_IF_ERROR(SaveLayerReports());
  return writer_->EndShard();
}

// Takes the linears of a shard over that an interrupted run has finished, in `linears` order.
Result<std::vector<LinearWeight>> Compressor::RestoreShard(
    const std::string& name, const std::vector<const LinearLayer*>& linears) {
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const TensorSource> shard,
                          writer_->OpenShard(name));
  const PackedWeights packed = writer_->ShardPackedInfo(name);
  const LowRankWeights low_rank = writer_->ShardLowRankInfo(name);
  std::vector<LinearWeight> weights;
  for (const LinearLayer* linear : linears) {
    HARROW_ASSIGN_OR_RETURN(LinearWeight weight, ReadLinear(*shard, packed, low_rank, linear->name,
                                                            linear->rows, linear->cols));
    if (const LayerPlan* plan = plan_.Find(linear->name); plan != nullptr) {
      const auto found = earlier_.find(linear->name);
      if (found != earlier_.end()) {
        AddLayer(found->second);
      } else {
        HARROW_ASSIGN_OR_RETURN(const int64_t nonzeros, ValidateWeight(weight));
        LayerReport layer = DescribeStored(linear->name, weight, nonzeros, *plan);
        layer.bytes_before = WeightBytes(linear->weight);
        AddLayer(std::move(layer));
      }
    }
    weights.push_back(std::move(weight));
  }
  HARROW_RETURN_IF_ERROR(SaveLayerReports());
  return weights;
}

Status RestoreNorm(const TensorSource& shard, const std::string& name, std::vector<float>* norm) {
  HARROW_ASSIGN_OR_RETURN(const TensorView view, shard.Find(name));
  if (!IsFloat(view.dtype) || view.elements() != static_cast<int64_t>(norm->size())) {
    return Corruption("{}: {} {}, expected {} numbers", name, DTypeName(view.dtype),
                      ShapeToString(view.shape), norm->size());
  }
  ToFloat32(view, 0, view.elements(), norm->data());
  return OkStatus();
}

Status Compressor::RestoreBlock(int32_t b) {
  Block& block = model_->blocks()[static_cast<size_t>(b)];
  HARROW_ASSIGN_OR_RETURN(std::vector<LinearWeight> weights,
                          RestoreShard(ShardName(b), std::as_const(block).linears()));
  Tick(fmt::format("block {}/{}: taken over", b + 1, Blocks()),
       static_cast<int64_t>(weights.size()));
  for (size_t i = 0; i < weights.size(); ++i)
    block.linears()[i]->weight = std::move(weights[i]);
  // Scaled inputs change the norms as well.
  HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const TensorSource> shard,
                          writer_->OpenShard(ShardName(b)));
  HARROW_RETURN_IF_ERROR(RestoreNorm(*shard, block.attention_norm_name, &block.attention_norm));
  HARROW_RETURN_IF_ERROR(RestoreNorm(*shard, block.ffn_norm_name, &block.ffn_norm));
  ++report_.resumed_blocks;
  return OkStatus();
}

// Sorts the source's tensors that are no linear weights of the model by the block that their names
// begin with; the rest comes last.
void Compressor::FindOtherTensors() {
  std::set<std::string> linears = {model_->embedding().name, model_->head().name};
  std::vector<std::string> prefixes;
  for (const Block& block : std::as_const(*model_).blocks()) {
    for (const LinearLayer* linear : block.linears())
      linears.insert(linear->name);
    prefixes.push_back(BlockPrefix(block, static_cast<int64_t>(prefixes.size())));
  }
  other_tensors_.resize(prefixes.size() + 1);
  for (const std::string& name : checkpoint_->tensors().names()) {
    if (linears.contains(std::string(WeightOfTensor(name)))) continue;
    const auto block = std::find_if(prefixes.begin(), prefixes.end(),
                                    [&name](const std::string& p) { return name.starts_with(p); });
    other_tensors_[static_cast<size_t>(block - prefixes.begin())].push_back(name);
  }
}

Status Compressor::AddOtherTensors(int32_t b, const std::map<std::string, TensorView>& changed) {
  for (const std::string& name : other_tensors_[static_cast<size_t>(b)]) {
    HARROW_ASSIGN_OR_RETURN(TensorView view, checkpoint_->tensors().Find(name));
    if (const auto found = changed.find(name); found != changed.end()) view = found->second;
    HARROW_RETURN_IF_ERROR(CheckFinite(name, view));
    HARROW_RETURN_IF_ERROR(writer_->AddTensor(name, view));
  }
  return OkStatus();
}

// Embedding, head, final norm and whatever else lies outside the blocks.
Status Compressor::RunOuter() {
  std::vector<const LinearLayer*> linears = {&model_->embedding()};
  if (!model_->config().tied_head) linears.push_back(&std::as_const(*model_).head());
  for (const LinearLayer* linear : linears) {
    report_.resident_bytes_before += WeightBytes(linear->weight);
  }
  if (writer_->HasShard(kOuterShard)) {
    HARROW_ASSIGN_OR_RETURN(const std::vector<LinearWeight> weights,
                            RestoreShard(kOuterShard, linears));
    for (size_t i = 0; i < weights.size(); ++i)
      AddOuter(*linears[i], weights[i]);
    return OkStatus();
  }
  StatisticsObserver observer;
  const StatisticsNeed need = plan_.NeedOf(model_->head().name);
  if (need != StatisticsNeed::kNone) {
    observer.Watch({&model_->head()}, need);
    HARROW_RETURN_IF_ERROR(run_->ObserveHead(
        &observer, [this] { return control_.Cancelled() ? Cancelled() : OkStatus(); }));
  }
  HARROW_RETURN_IF_ERROR(writer_->BeginShard(kOuterShard));
  for (const LinearLayer* linear : linears) {
    control_.Progress(linear->name, done_units_, total_units_);
    LinearWeight weight = linear->weight;
    if (const LayerPlan* plan = plan_.Find(linear->name); plan != nullptr) {
      HARROW_ASSIGN_OR_RETURN(
          CompressedLayer done,
          CompressOne(*linear, *plan, observer.Take(linear->name).get(), nullptr));
      weight = std::move(done.weight);
      AddLayer(std::move(done.report));
    } else {
      HARROW_RETURN_IF_ERROR(CheckFinite(linear->name, weight));
    }
    AddOuter(*linear, weight);
    HARROW_RETURN_IF_ERROR(writer_->AddLinear(linear->name, weight));
  }
  HARROW_RETURN_IF_ERROR(AddOtherTensors(Blocks(), {}));
  HARROW_RETURN_IF_ERROR(SaveLayerReports());
  return writer_->EndShard();
}

Result<CompressReport> Compressor::Finish() {
  if (rounded_ > 0) {
    Warn(
        fmt::format("{} weights have more precision than the BF16 values of the sparse formats and "
                    "were rounded; `store: dense` keeps theirs",
                    rounded_));
  }
  HARROW_RETURN_IF_ERROR(writer_->CopySideFiles(options_.model));
  report_.sparsity =
      1.0 - static_cast<double>(block_nonzeros_) / static_cast<double>(block_weights_);
  report_.rounded_to_zero =
      static_cast<double>(block_rounded_to_zero_) / static_cast<double>(block_weights_);
  if (structured_ != nullptr) report_.resident_bytes_before = structured_->resident_bytes_before;
  report_.seconds = SecondsSince(start_);
  for (int32_t b = 0; b <= Blocks(); ++b) {
    HARROW_ASSIGN_OR_RETURN(const std::shared_ptr<const TensorSource> shard,
                            writer_->OpenShard(b < Blocks() ? ShardName(b) : kOuterShard));
    report_.disk_bytes += shard->file_bytes();
  }
  const std::string json =
      ReportToJson(report_).dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  HARROW_RETURN_IF_ERROR(writer_->WriteSideFile(kReportFile, json + "\n"));
  HARROW_RETURN_IF_ERROR(writer_->Finish(checkpoint_->config(), recipe_.canonical, ""));
  return std::move(report_);
}

}  // namespace

Result<CompressReport> Compress(const CompressOptions& options, const RunControl* control) {
  if (options.recipe_path.empty() == options.recipe_text.empty()) {
    return InvalidArgument("give a recipe, as a file or as text");
  }
  if (options.output.empty()) return InvalidArgument("no output directory");
  HARROW_RETURN_IF_ERROR(CheckOutputSparesSource(options.output, options.model));
  HARROW_ASSIGN_OR_RETURN(Recipe recipe, options.recipe_path.empty()
                                             ? ParseRecipe(options.recipe_text, kUnnamedRecipe)
                                             : LoadRecipe(options.recipe_path));
  const auto start = std::chrono::steady_clock::now();
  if (recipe.structure.empty()) {
    return Compressor(options, control, std::move(recipe), nullptr, start).Run();
  }
  StructuredSource structured;
  Status status;
  {
    const RunControl silent;
    ThreadPool pool(options.threads);
    status =
        ApplyStructure(options, recipe, &pool, control != nullptr ? *control : silent, &structured);
  }
  Result<CompressReport> report =
      status.ok() ? Compressor(options, control, std::move(recipe), &structured, start).Run()
                  : std::move(status);
  RemoveStructured(structured, options, report.status());
  return report;
}

}  // namespace harrow
