// HARROW_CHECK is for bugs in Harrow itself; nothing that a file or a user can cause may reach it.
#ifndef HARROW_BASE_CHECK_H_
#define HARROW_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define HARROW_CHECK(condition)                                                           \
  do {                                                                                    \
    if (!(condition)) [[unlikely]] {                                                      \
      std::fprintf(stderr, "harrow: bug at %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)

#ifdef NDEBUG
#define HARROW_DCHECK(condition) static_cast<void>(sizeof(!(condition)))
#else
#define HARROW_DCHECK(condition) HARROW_CHECK(condition)
#endif

#endif  // HARROW_BASE_CHECK_H_
