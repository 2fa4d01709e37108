#include "commands.h"

int main(int argc, char** argv) {
  harrow::tools::Shell shell;
  AddInspect(&shell);
  AddRun(&shell);
  AddScore(&shell);
  AddCompress(&shell);
  AddExport(&shell);
  AddConvert(&shell);
  AddEval(&shell);
  AddCompare(&shell);
  AddBench(&shell);
  AddSensitivity(&shell);
  AddAblate(&shell);
  AddStudy(&shell);
  AddDoctor(&shell);
  return shell.Main(argc, argv);
}
