// Compiles the functions between BEGIN and END for an instruction set that the rest of the file may
// not use. Every standard and project header must be included before BEGIN: an inline function of a
// header that was compiled inside could be the copy that the linker keeps for the whole program.
#ifndef HARROW_KERNELS_CPU_TARGET_REGION_H_
#define HARROW_KERNELS_CPU_TARGET_REGION_H_

#define HARROW_TARGET_PRAGMA_(text) _Pragma(#text)
#if defined(__clang__)
#define HARROW_TARGET_BEGIN(features) \
  HARROW_TARGET_PRAGMA_(              \
      clang attribute push(__attribute__((target(features))), apply_to = function))
#define HARROW_TARGET_END HARROW_TARGET_PRAGMA_(clang attribute pop)
#else
#define HARROW_TARGET_BEGIN(features)     \
  HARROW_TARGET_PRAGMA_(GCC push_options) \
  HARROW_TARGET_PRAGMA_(GCC target(features))
#define HARROW_TARGET_END HARROW_TARGET_PRAGMA_(GCC pop_options)
#endif

#endif  // HARROW_KERNELS_CPU_TARGET_REGION_H_
