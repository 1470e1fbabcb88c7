// The AVX-512 table once more, compiled with the BF16 extension (see CMakeLists.txt).
#include "kernels/simd_avx512.cc"  // NOLINT(bugprone-suspicious-include)
