#include "kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "base/check.h"
#include "formats/panel.h"
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "kernels/linear_kernel.h"

namespace harrow {

class LinearScratch {
 public:
  std::deque<PackedXBuffer> x;  // one per distinct XFormat of a call; references stay valid
  std::vector<AlignedArray<std::byte>> threads;
  struct Product {
    const LinearOp* op;
    const LinearKernel* kernel;
    const PackedX* x;
    uint64_t begin_byte;  // within the call
  };
  std::vector<Product> products;
  // Of calls with low-rank weights.
  std::vector<LinearOp> expanded;
  std::deque<AlignedArray<float>> inner;  // x A^T of each such weight
  AlignedArray<float> outer;              // (x A^T) B^T of one
};

namespace {

bool RunsHere(const LinearKernel& kernel) {
  return kernel.needs <= ActiveIsa();
}

bool AnyRunsHere(std::string_view prefix) {
  const std::span<const LinearKernel> kernels = LinearKernels();
  return std::any_of(kernels.begin(), kernels.end(), [prefix](const LinearKernel& kernel) {
    return kernel.name.starts_with(prefix) && RunsHere(kernel);
  });
}

std::string PrefixFromEnvironment() {
  const char* text = std::getenv("HARROW_KERNEL");
  if (text == nullptr || *text == '\0') return "";
  if (!AnyRunsHere(text)) {
    // Going on with another kernel would make a forced run lie.
    std::fprintf(stderr, "harrow: HARROW_KERNEL=%s: no kernel of that name runs here\n", text);
    std::exit(2);
  }
  return text;
}

std::string& ForcedPrefix() {
  static std::string prefix = PrefixFromEnvironment();
  return prefix;
}

Activations ActivationsFromEnvironment() {
  const char* text = std::getenv("HARROW_ACTIVATIONS");
  if (text == nullptr || *text == '\0') return Activations::kInt8;
  const std::optional<Activations> activations = ParseActivations(text);
  if (!activations) {
    std::fprintf(stderr, "harrow: HARROW_ACTIVATIONS=%s: expected int8 or bf16\n", text);
    std::exit(2);
  }
  return *activations;
}

Activations& ActivationsInForce() {
  static Activations activations = ActivationsFromEnvironment();
  return activations;
}

// Whether the kernel takes the weight, and rounds x as it must.
bool Takes(const LinearKernel& kernel, const WeightSpec& spec) {
  if (!kernel.supports(spec)) return false;
  if (!IsQuantized(spec.values)) return true;
  const XElement element = kernel.x_format(spec, 1).element;
  const bool int8 = element == XElement::kI8 || element == XElement::kU8;
  return int8 == (ActivationsInForce() == Activations::kInt8);
}

struct InstalledChoice {
  KernelChoice row;
  const LinearKernel* kernel;
};
std::vector<InstalledChoice>& ChoiceTable() {
  static std::vector<InstalledChoice> choices;
  return choices;
}

bool SameLayout(const WeightSpec& a, const WeightSpec& b) {
  return a.format == b.format && a.values == b.values && a.block_rows == b.block_rows &&
         a.block_cols == b.block_cols;
}

bool Applies(const KernelChoice& row, const LinearWeight& weight, int64_t m) {
  if (m < row.min_m || m > row.max_m || !SameLayout(row.spec, weight.spec)) return false;
  const double density = StoredDensity(weight);
  return density >= row.min_density && density <= row.max_density;
}

struct Chosen {
  const LinearKernel* kernel;
  ChosenBy by;
};

Chosen ChooseKernel(const LinearWeight& weight, int64_t m) {
  const std::string& forced = ForcedPrefix();
  const std::span<const LinearKernel> kernels = LinearKernels();
  // Whether a prefix is in force for this weight. The exact name wins: "...avx512" is also a prefix
  // of "...avx512bf16", which is listed first.
  bool bound = false;
  if (!forced.empty()) {
    for (const LinearKernel& kernel : kernels) {
      if (!kernel.name.starts_with(forced) || !RunsHere(kernel) || !kernel.supports(weight.spec))
        continue;
      if (kernel.name == forced) return {&kernel, ChosenBy::kForce};
      bound |= Takes(kernel, weight.spec);
    }
  }
  const auto eligible = [&](const LinearKernel& kernel) {
    return RunsHere(kernel) && (!bound || kernel.name.starts_with(forced)) &&
           Takes(kernel, weight.spec);
  };
  for (const InstalledChoice& choice : ChoiceTable()) {
    if (Applies(choice.row, weight, m) && eligible(*choice.kernel))
      return {choice.kernel, bound ? ChosenBy::kForce : ChosenBy::kTable};
  }
  const LinearKernel* first = nullptr;
  for (const LinearKernel& kernel : kernels) {
    if (!eligible(kernel)) continue;
    if (first == nullptr) first = &kernel;
    if (kernel.pays == nullptr || kernel.pays(weight, m)) {
      first = &kernel;
      break;
    }
  }
  HARROW_CHECK(first != nullptr);
  return {first, bound ? ChosenBy::kForce : ChosenBy::kRule};
}

uint64_t StreamBytes(const LinearWeight& weight) {
  return weight.data.size();
}

// The row, a multiple of kTaskRows, nearest to where `byte` of the weight lies.
int64_t RowAtByte(const LinearWeight& weight, uint64_t byte) {
  if (byte >= StreamBytes(weight)) return weight.rows;
  int64_t row;
  if (weight.spec.format == FormatId::kDense) {
    row = static_cast<int64_t>(static_cast<double>(byte) / static_cast<double>(weight.data.size()) *
                               static_cast<double>(weight.rows));
  } else {
    // The last panel that starts at or before `byte`.
    int64_t low = 0;
    int64_t high = (weight.rows + kPanelRows - 1) / kPanelRows;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (PanelOffset(weight, middle) <= byte ? low : high) = middle;
    }
    row = low * kPanelRows;
  }
  return std::min((row + kTaskRows / 2) / kTaskRows * kTaskRows, weight.rows);
}

// LinearTask::fetch_distance. Software has to ask ahead where the hardware's prefetcher does not
// keep a core busy; and everywhere for blocks, whose units come between lists and gathers. Else it
// asks only where more than about 11 cycles of arithmetic, counted by units, stand between two
// lines, so that the hardware's own guess runs out of time (fitted to what Zen 4 took with and
// without, decision 049).
int64_t FetchDistance(const LinearWeight& weight, int64_t m) {
  constexpr int64_t kFar = 12288;
  constexpr int64_t kNear = 4096;
  const WeightSpec& spec = weight.spec;
  if (!HardwarePrefetchSuffices() || spec.format == FormatId::kBlock || IsQuadMask(spec))
    return kFar;
  if (spec.format == FormatId::kIndex) return m <= 4 ? 0 : kFar;
  const bool masked = spec.format == FormatId::kBitmask || spec.format == FormatId::kNm;
  const bool four_bits = spec.values == ValueType::kI4 || spec.values == ValueType::kU4;
  const int64_t decoding = masked ? four_bits ? 3 : 4 : four_bits ? 1 : 0;
  const bool single = spec.values == ValueType::kF32 || spec.values == ValueType::kF16;
  const int64_t unit = single ? kPanelRows : kPanelRows * CellOf(spec.values);
  const double units = static_cast<double>(weight.rows * weight.cols / unit);
  const double lines = static_cast<double>(StreamBytes(weight)) / 64;
  if (units * static_cast<double>(m + decoding) < 11 * lines) return 0;
  return masked ? kNear : kFar;
}

// Weight bytes times tokens below which handing half of the work over costs more than doing it: a
// hand-off takes about a microsecond, in which one core streams some 50-100 KB from its cache.
constexpr uint64_t kBytesWorthAFork = 128 << 10;

}  // namespace

LinearScratch* NewLinearScratch() {
  return new LinearScratch();
}

void DeleteLinearScratch(LinearScratch* scratch) {
  delete scratch;
}

namespace {

// Linear() for residuals: weights without low-rank products.
void RunProducts(const LinearContext& context, std::span<const LinearOp> ops, const float* x,
                 int64_t x_stride, int64_t m, int64_t k) {
  LinearScratch& scratch = *context.scratch;

  size_t packed = 0;
  uint64_t total_bytes = 0;
  int64_t scratch_bytes = 0;
  scratch.products.clear();
  for (const LinearOp& op : ops) {
    HARROW_CHECK(op.weight->cols == k);
    const LinearKernel& kernel = *ChooseKernel(*op.weight, m).kernel;
    const auto bytes = kernel.scratch_bytes != nullptr ? kernel.scratch_bytes : LinearScratchBytes;
    scratch_bytes = std::max(scratch_bytes, bytes(m, k));
    const XFormat format = kernel.x_format(op.weight->spec, m);
    const PackedX* shared = nullptr;
    for (size_t i = 0; i < packed; ++i) {
      if (scratch.x[i].packed().format == format) shared = &scratch.x[i].packed();
    }
    if (shared == nullptr) {
      if (packed == scratch.x.size()) scratch.x.emplace_back();
      shared = &scratch.x[packed++].Pack(format, x, x_stride, m, k, context.pool);
    }
    scratch.products.push_back({&op, &kernel, shared, total_bytes});
    total_bytes += StreamBytes(*op.weight);
  }

  const bool parallel = context.pool != nullptr && context.pool->size() > 1 &&
                        total_bytes * static_cast<uint64_t>(m) >= kBytesWorthAFork;
  const int threads = parallel ? context.pool->size() : 1;
  scratch.threads.resize(std::max(scratch.threads.size(), static_cast<size_t>(threads)));
  const auto run = [&](int thread) {
    const uint64_t begin = total_bytes * static_cast<uint64_t>(thread) / threads;
    const uint64_t end = total_bytes * static_cast<uint64_t>(thread + 1) / threads;
    LinearTask task;
    task.scratch =
        scratch.threads[static_cast<size_t>(thread)].Reserve(static_cast<uint64_t>(scratch_bytes));
    for (const LinearScratch::Product& product : scratch.products) {
      const LinearWeight& weight = *product.op->weight;
      const uint64_t first = product.begin_byte;
      if (end <= first || begin >= first + StreamBytes(weight)) continue;
      task.weight = &weight;
      task.x = product.x;
      task.y = product.op->y;
      task.y_stride = product.op->y_stride;
      task.fetch_distance = FetchDistance(weight, m);
      task.row_begin = begin <= first ? 0 : RowAtByte(weight, begin - first);
      task.row_end = RowAtByte(weight, end - first);
      if (task.row_begin < task.row_end) product.kernel->run(task);
    }
  };
  if (parallel) {
    context.pool->Run(run);
  } else {
    run(0);
  }
}

// y += (x A^T) B^T, or = where there is no residual, for `inner` = x A^T [m, rank].
void RunOuter(const LinearContext& context, const LinearOp& op, const float* inner, int64_t m) {
  const LowRankFactors& factors = *op.weight->low_rank;
  const int64_t rank = factors.a.rows;
  const int64_t rows = op.weight->rows;
  if (!op.weight->has_residual()) {
    const LinearOp product{.weight = &factors.b, .y = op.y, .y_stride = op.y_stride};
    RunProducts(context, {&product, 1}, inner, rank, m, rank);
    return;
  }
  float* const outer = context.scratch->outer.Reserve(static_cast<uint64_t>(m * rows));
  const LinearOp product{.weight = &factors.b, .y = outer, .y_stride = rows};
  RunProducts(context, {&product, 1}, inner, rank, m, rank);
  const auto add = [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      AddInPlace(op.y + token * op.y_stride, outer + token * rows, rows);
  };
  constexpr int64_t kFloatsPerPiece = 32768;
  if (context.pool != nullptr) {
    context.pool->ParallelFor(m, std::max<int64_t>(1, kFloatsPerPiece / rows), add);
  } else {
    add(0, m);
  }
}

}  // namespace

void Linear(const LinearContext& context, std::span<const LinearOp> ops, const float* x,
            int64_t x_stride, int64_t m, int64_t k) {
  if (m <= 0 || ops.empty()) return;
  HARROW_CHECK(context.scratch != nullptr);
  const auto has_factors = [](const LinearOp& op) { return op.weight->low_rank != nullptr; };
  if (std::none_of(ops.begin(), ops.end(), has_factors)) {
    RunProducts(context, ops, x, x_stride, m, k);
    return;
  }
  // Residuals and A factors share x and one fork-join; then each B has an x of its own.
  LinearScratch& scratch = *context.scratch;
  scratch.expanded.clear();
  scratch.inner.resize(std::max(scratch.inner.size(), ops.size()));
  for (size_t i = 0; i < ops.size(); ++i) {
    HARROW_CHECK(ops[i].weight->cols == k);
    if (ops[i].weight->low_rank == nullptr || ops[i].weight->has_residual())
      scratch.expanded.push_back(ops[i]);
    if (ops[i].weight->low_rank == nullptr) continue;
    const LinearWeight& a = ops[i].weight->low_rank->a;
    scratch.expanded.push_back({.weight = &a,
                                .y = scratch.inner[i].Reserve(static_cast<uint64_t>(m * a.rows)),
                                .y_stride = a.rows});
  }
  RunProducts(context, scratch.expanded, x, x_stride, m, k);
  for (size_t i = 0; i < ops.size(); ++i) {
    if (has_factors(ops[i])) RunOuter(context, ops[i], scratch.inner[i].data(), m);
  }
}

std::string_view ActivationsName(Activations activations) {
  return activations == Activations::kInt8 ? "int8" : "bf16";
}

std::optional<Activations> ParseActivations(std::string_view name) {
  for (const Activations activations : {Activations::kInt8, Activations::kBf16}) {
    if (name == ActivationsName(activations)) return activations;
  }
  return std::nullopt;
}

void SetQuantizedActivations(Activations activations) {
  ActivationsInForce() = activations;
}

Activations QuantizedActivations() {
  return ActivationsInForce();
}

double StoredDensity(const LinearWeight& weight) {
  const int64_t count = weight.rows * weight.cols;
  const WeightSpec& spec = weight.spec;
  if (spec.of_m > 0) return static_cast<double>(spec.keep_n) / spec.of_m;
  if (count == 0) return 1;
  const FormatOps& ops = OpsOf(spec.format);
  const uint64_t least = ops.analyze(spec, weight.rows, weight.cols, 0);
  const uint64_t most = ops.analyze(spec, weight.rows, weight.cols, count);
  if (most <= least) return 1;
  const double slope = static_cast<double>(most - least);
  const double bytes = static_cast<double>(weight.data.size());
  const double density = std::clamp((bytes - static_cast<double>(least)) / slope, 0.0, 1.0);
  if (spec.format != FormatId::kBitmask || CodeBits(spec.values) != 4) return density;
  // Halves bend the line a little: one step from where it would put this density.
  const int64_t nonzeros = std::llround(density * static_cast<double>(count));
  const double expected =
      static_cast<double>(ops.analyze(spec, weight.rows, weight.cols, nonzeros));
  return std::clamp(density + (bytes - expected) / slope, 0.0, 1.0);
}

Status SetKernelChoices(std::span<const KernelChoice> choices) {
  std::vector<InstalledChoice> installed;
  for (const KernelChoice& row : choices) {
    const std::span<const LinearKernel> kernels = LinearKernels();
    const auto kernel = std::find_if(kernels.begin(), kernels.end(),
                                     [&](const LinearKernel& k) { return k.name == row.kernel; });
    if (kernel == kernels.end()) return NotFound("no linear kernel is named {}", row.kernel);
    if (!Takes(*kernel, row.spec)) {
      return InvalidArgument("{} does not take {} weights with {} activations", row.kernel,
                             SpecName(row.spec), ActivationsName(ActivationsInForce()));
    }
    if (!(row.min_density <= row.max_density) || row.min_m > row.max_m) {
      return InvalidArgument("choice of {} for {}: density {} to {}, M {} to {} is empty",
                             row.kernel, SpecName(row.spec), row.min_density, row.max_density,
                             row.min_m, row.max_m);
    }
    installed.push_back({row, &*kernel});
  }
  ChoiceTable() = std::move(installed);
  return OkStatus();
}

std::vector<KernelChoice> InstalledKernelChoices() {
  std::vector<KernelChoice> rows;
  for (const InstalledChoice& choice : ChoiceTable())
    rows.push_back(choice.row);
  return rows;
}

LinearKernelChosen ChooseLinearKernel(const LinearWeight& weight, int64_t m) {
  const Chosen chosen = ChooseKernel(weight, m);
  return {chosen.kernel->name, chosen.by};
}

std::string_view LinearKernelName(const LinearWeight& weight, int64_t m) {
  return ChooseKernel(weight, m).kernel->name;
}

std::vector<LinearKernelInfo> ListLinearKernels() {
  std::vector<LinearKernelInfo> list;
  for (const LinearKernel& kernel : LinearKernels())
    list.push_back({kernel.name, kernel.needs, RunsHere(kernel)});
  return list;
}

std::vector<LinearKernelInfo> ListLinearKernels(const WeightSpec& spec) {
  std::vector<LinearKernelInfo> list;
  for (const LinearKernel& kernel : LinearKernels()) {
    if (Takes(kernel, spec)) list.push_back({kernel.name, kernel.needs, RunsHere(kernel)});
  }
  return list;
}

std::string_view ForcedLinearKernel() {
  return ForcedPrefix();
}

Status ForceLinearKernel(std::string_view prefix) {
  if (!prefix.empty() && !AnyRunsHere(prefix))
    return NotFound("no linear kernel named {}... runs here", prefix);
  ForcedPrefix() = std::string(prefix);
  return OkStatus();
}

}  // namespace harrow
