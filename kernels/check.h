// CHECK: a broken promise of the caller. Always on; prints where and the values, then aborts.
// The same eight lines stand in cache/check.h: neither folder may include the other.
#pragma once

#include <cstdio>
#include <cstdlib>

#define TANDEM_CHECK(condition, ...)                                                     \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                                 \
      std::fputc('\n', stderr);                                                          \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
