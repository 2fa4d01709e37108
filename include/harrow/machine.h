// The machine that Harrow runs on: threads, instruction sets, kernels.
#ifndef HARROW_MACHINE_H_
#define HARROW_MACHINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/status.h"

namespace harrow {

struct MachineOptions {
  int32_t threads = 0;
  std::string isa;
  std::string kernel;
  std::string activations;

  template <class V>
  void Visit(V&& v) {
    v("threads", threads, "threads; 0: one per CPU that this process may use", Limits{0, 1024});
    v("isa", isa,
      "cap the instruction set: scalar, avx2, avx512, avx512bf16 (also HARROW_ISA); empty: best");
    v("kernel", kernel,
      "force kernels whose name starts with this (also HARROW_KERNEL); empty: automatic");
    v("activations", activations,
      "of quantized weights: int8, or bf16, slower (also HARROW_ACTIVATIONS); empty: int8");
  }
};
// Applies `isa`, `kernel` and `activations` to the whole process; fails when this machine cannot
// run them. Not thread safe against running models.
Status ConfigureMachine(const MachineOptions& options);

struct KernelEntry {
  std::string name;
  std::string isa;
  bool runs_here = false;

  template <class V>
  void Visit(V&& v) {
    v("name", name, "name, as in reports and HARROW_KERNEL");
    v("isa", isa, "instruction set that it needs");
    v("runs_here", runs_here, "whether it can run under the active instruction set");
  }
};

struct DoctorReport {
  std::string cpu;
  int32_t cpus = 0;
  uint64_t l3_bytes = 0;
  std::string isa_detected;
  std::string isa_active;
  std::vector<KernelEntry> kernels;

  template <class V>
  void Visit(V&& v) {
    v("cpu", cpu, "model name of the CPU");
    v("cpus", cpus, "CPUs that this process may use");
    v("l3_bytes", l3_bytes, "last-level cache, as the system reports it; 0: unknown");
    v("isa_detected", isa_detected, "best instruction set of this CPU and system");
    v("isa_active", isa_active, "the one in use (capped by --isa or HARROW_ISA)");
    v("kernels", kernels, "every linear kernel, fastest first");
  }
};
DoctorReport Diagnose();

}  // namespace harrow

#endif  // HARROW_MACHINE_H_
