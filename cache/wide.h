// TANDEM_WIDE before a function's definition in a .cc file: compiled for AVX2, too, and a CPU that
// has it takes that. For loops over a layer's experts: twice the experts at a time, and the same
// bits, since no products and sums are contracted (-ffp-contract=off) and sums keep their order.
// Nothing where the toolchain has no ifunc, and under sanitizers, which are not ready that early.
#pragma once

#include <cstddef>  // for what the C library is

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TANDEM_WIDE
#elif defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && !defined(__clang__)
#define TANDEM_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define TANDEM_WIDE
#endif
