#include "eval/diagnose.h"

#include <fstream>

#include "base/thread_pool.h"
#include "eval/speed.h"
#include "kernels/isa.h"
#include "kernels/linear.h"

namespace harrow {

std::string CpuModelName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

DoctorReport DiagnoseMachine() {
  DoctorReport report;
  report.cpu = CpuModelName();
  report.cpus = ThreadPool::AvailableCpus();
  report.l3_bytes = LastLevelCacheBytes();
  report.isa_detected = std::string(IsaName(DetectedIsa()));
  report.isa_active = std::string(IsaName(ActiveIsa()));
  for (const LinearKernelInfo& kernel : ListLinearKernels()) {
    report.kernels.push_back(
        {std::string(kernel.name), std::string(IsaName(kernel.isa)), kernel.runs_here});
  }
  return report;
}

Status ApplyMachineOptions(const MachineOptions& options) {
  if (!options.isa.empty()) {
    const std::optional<Isa> isa = ParseIsa(options.isa);
    if (!isa) {
      return InvalidArgument("--isa: '{}' is unknown; it may be scalar, avx2, avx512 or avx512bf16",
                             options.isa);
    }
    HARROW_RETURN_IF_ERROR(SetIsaLimit(*isa).At("--isa"));
  }
  if (!options.kernel.empty()) {
    const Status forced = ForceLinearKernel(options.kernel);
    if (!forced.ok()) return InvalidArgument("--kernel: {}", forced.message());
  }
  if (!options.activations.empty()) {
    const std::optional<Activations> activations = ParseActivations(options.activations);
    if (!activations) {
      return InvalidArgument("--activations: '{}' is unknown; it may be int8 or bf16",
                             options.activations);
    }
    SetQuantizedActivations(*activations);
  }
  return OkStatus();
}

}  // namespace harrow
