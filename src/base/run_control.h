// What long work tells its caller, and how the caller stops it.
#ifndef HARROW_BASE_RUN_CONTROL_H_
#define HARROW_BASE_RUN_CONTROL_H_

#include "harrow/run_control.h"

#endif  // HARROW_BASE_RUN_CONTROL_H_
