// The inner loops that exist once per instruction set, as a table of functions. Internal to
// kernels/ and its tests. simd_avx2.cc includes this file, so it holds no inline function: one
// compiled there could be linked into code that runs on older CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace tandem {

struct SimdOps {
  const char* name;

  // As dequantize() in quant.h.
  void (*dequantize)(DType type, const std::byte* src, float* dst, int64_t n);

  // src: [n] f32; dst: [n] f16, any alignment.
  void (*store_f16)(const float* src, std::byte* dst, int64_t n);

  // out[t * out_stride + r] += sum_c w[r * w_stride + c] * x[t][c], c in [0, n).
  // w: [n_rows, n] f32; x: n_tokens pointers to [n] f32. The order of additions depends on n only.
  void (*dot)(const float* w, int64_t w_stride, int64_t n_rows, const float* const* x,
              int64_t n_tokens, int64_t n, float* out, int64_t out_stride);

  // The same for one token, bit for bit, straight from blocks: out[r] += W[r, :] . x.
  // rows: n weights each, row_bytes apart. nullptr where dequantize and dot are as good.
  void (*dot_blocks)(DType type, const std::byte* rows, int64_t row_bytes, int64_t n_rows,
                     const float* x, int64_t n, float* out);

  // acc[c] = acc[c] * decay + sum_j p[j] * v[j * v_stride + c], j in [0, n_keys), c in [0, n).
  void (*weighted_sum)(const float* p, int64_t n_keys, const float* v, int64_t v_stride,
                       float decay, int64_t n, float* acc);
};

extern const SimdOps kScalarOps;
extern const SimdOps kAvx2Ops;  // defined on x86-64 only

// The table in use, chosen once, at first use, for the whole process: "avx2" (AVX2 + FMA + F16C)
// where the CPU has it, else "scalar". The environment variable TANDEM_ISA set to one of these
// names forces it; empty is as good as unset; any other value, or one that this CPU cannot run,
// ends the process with a line on stderr. Any thread.
const SimdOps& simd();

// nullptr when the name is unknown, not built, or not runnable on this CPU.
const SimdOps* find_simd(const char* name);

// For tests: simd() is `ops` from here on; nullptr goes back to the process's own choice.
// Not while a kernel runs.
void override_simd(const SimdOps* ops);

}  // namespace tandem
