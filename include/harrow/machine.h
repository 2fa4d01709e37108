// How a call uses the machine: threads, instruction set, kernels.
#ifndef HARROW_MACHINE_H_
#define HARROW_MACHINE_H_

#include <cstdint>
#include <string>

#include "harrow/fields.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

struct MachineOptions {
  int32_t threads = 0;
  std::string isa;
  std::string kernel;
  std::string activations;
  std::string profile;

  template <class V>
  void Visit(V&& v) {
    v("threads", threads, "threads; 0: one per CPU that this process may use", Limits{0, 1024});
    v("isa", isa,
      "cap the instruction set: scalar, avx2, avx512, avx512bf16 (also HARROW_ISA); empty: best");
    v("kernel", kernel,
      "force kernels whose name starts with this (also HARROW_KERNEL); empty: automatic");
    v("activations", activations,
      "of quantized weights: int8, or bf16, slower (also HARROW_ACTIVATIONS); empty: int8");
    v("profile", profile,
      "machine profile that kernels are chosen by, a file that `harrow doctor --measure` wrote "
      "(also HARROW_PROFILE); none: the built-in rules; empty: this machine's, if there is one");
  }
};
// Applies `isa`, `kernel`, `activations` and `profile` to the whole process; fails when this
// machine cannot run the first two. A profile that is damaged or another machine's is warned of
// through `control` and left aside. Not thread safe against running models.
Status ConfigureMachine(const MachineOptions& options, const RunControl* control = nullptr);

}  // namespace harrow

#endif  // HARROW_MACHINE_H_
