// What this machine is, the profile that it has, and the choices that follow from it.
#ifndef HARROW_ADVISE_DIAGNOSE_H_
#define HARROW_ADVISE_DIAGNOSE_H_

#include "base/status.h"
#include "harrow/doctor.h"
#include "harrow/machine.h"

namespace harrow {

Status ApplyMachineOptions(const MachineOptions& options, const RunControl* control);
Result<DoctorReport> DiagnoseMachine(const MachineOptions& options);
Result<DoctorReport> MeasureAndStore(const MeasureOptions& measure, const MachineOptions& options,
                                     const RunControl* control);
Result<ExplainReport> ExplainHere(const ExplainOptions& explain, const MachineOptions& options,
                                  const RunControl* control);

}  // namespace harrow

#endif  // HARROW_ADVISE_DIAGNOSE_H_
