// What this machine is and which kernels it can run.
#ifndef HARROW_EVAL_DIAGNOSE_H_
#define HARROW_EVAL_DIAGNOSE_H_

#include <string>

#include "base/status.h"
#include "harrow/machine.h"

namespace harrow {

// "model name" of /proc/cpuinfo; "unknown" where there is none.
std::string CpuModelName();
DoctorReport DiagnoseMachine();
Status ApplyMachineOptions(const MachineOptions& options);

}  // namespace harrow

#endif  // HARROW_EVAL_DIAGNOSE_H_
