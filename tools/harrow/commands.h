// The commands, each adding itself to the shell.
#ifndef HARROW_TOOLS_COMMANDS_H_
#define HARROW_TOOLS_COMMANDS_H_

#include "shell.h"

namespace harrow::tools {

void AddInspect(Shell* shell);
void AddRun(Shell* shell);
void AddScore(Shell* shell);

void AddCompress(Shell* shell);  // prune, quantize, compress
void AddExport(Shell* shell);
void AddConvert(Shell* shell);

void AddEval(Shell* shell);
void AddCompare(Shell* shell);
void AddBench(Shell* shell);
void AddDoctor(Shell* shell);

void AddSensitivity(Shell* shell);
void AddAblate(Shell* shell);
void AddStudy(Shell* shell);

}  // namespace harrow::tools

#endif  // HARROW_TOOLS_COMMANDS_H_
