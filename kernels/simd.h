// The inner loops that exist once per instruction set, as a table of functions. Internal to
// kernels/ and its tests. The files compiled for one instruction set include this file, so it holds
// no inline function: one compiled there could be linked into code that runs on older CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace tandem {

struct DotTile {
  int groups;
  int tokens;
};

// Which weights a caller of dot_packed() reads after those at hand: `next`, after `passes` calls
// for the same ones, of which this is number `pass`, from 0 on.
struct Ahead {
  const std::byte* next;
  int64_t pass;
  int64_t passes;
};

struct SoftmaxPart {
  float max;
  float sum;
  float decay;
};

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

  // scores[j] = exp(scale * scores[j] - m), j in [0, n), n > 0, where m is the largest of `max` and
  // the scaled scores. Returns m, the sum of the results, and exp(max - m).
  SoftmaxPart (*softmax)(float* scores, int64_t n, float scale, float max);

  // acc[c] = acc[c] * decay + part[c], c in [0, n).
  void (*decay_add)(float decay, const float* part, int64_t n, float* acc);

  // Sixteen rows, `stride` bytes apart, of n_blocks blocks each, into a group (packed.h): the
  // block's dwords, and before (scale_bytes = 0) or behind them its lone f16 scale, if any (>= 0).
  // nullptr where plain C++ is as good: the stores are the limit.
  void (*pack_blocks)(const std::byte* rows, int64_t stride, int dwords, int scale_bytes,
                      int64_t n_blocks, std::byte* to);

  // As pack_x() in packed.h; nullptr where activations are f32 for every type of weights.
  void (*pack_x)(XKind kind, const float* x, int64_t cols, std::byte* to);

  // out[t * out_stride + r] += W[r, first_col … + n_cols] . x[t], r in [0, 16 * n_groups): the
  // blocks of these columns of groups that begin at `group`, group_stride bytes apart; packed rows
  // of activations of `cols` columns. The order of additions for an element depends on the columns
  // only, not on how they are cut into calls, at multiples of 256.
  // n_groups and n_tokens are at most those of dot_tile(). ahead: what is fetched ahead.
  void (*dot_packed)(DType type, const std::byte* group, int64_t n_groups, int64_t group_stride,
                     const Ahead& ahead, int64_t cols, int64_t first_col, int64_t n_cols,
                     const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride);
  // What one call of it takes at most, by the kind of activations.
  DotTile (*dot_tile)(XKind kind);

  // out[t * out_stride + r] += q[r, c] * x[t][c], summed over c in [0, n) in order, r
  // in [0, 32): two groups of int8 without scales, in lines of four columns as Q8_0's, group_bytes
  // apart. n: a multiple of 4; x: n_tokens pointers to [n] f32. next: where the caller reads after
  // these.
  void (*dot_int8)(const std::byte* groups, int64_t group_bytes, const std::byte* next, int64_t n,
                   const std::byte* const* x, int64_t n_tokens, float* out, int64_t out_stride);

  // gate[i] = silu(gate[i]) * up[i], i in [0, n); silu(v) = v / (1 + exp(-v)).
  void (*silu_mul)(float* gate, const float* up, int64_t n);
};

extern const SimdOps kScalarOps;
// Defined on x86-64 only. Of the AVX-512 ones, the first five are as in kAvx2Ops, and null; AMX has
// its own products, and the rest is as in kAvx512Bf16Ops, and null.
extern const SimdOps kAvx2Ops;
extern const SimdOps kAvx512Ops;
extern const SimdOps kAvx512Bf16Ops;
extern const SimdOps kAmxOps;

// The table in use, chosen once, at first use, for the whole process, the best that the CPU runs:
//   "avx512-amx"   the following and matrix units, for bf16 and int8 (Sapphire Rapids)
//   "avx512-bf16"  the following and its BF16 extension (Zen 4, Cooper Lake)
//   "avx512"       F, BW, DQ, VL and VNNI (Ice Lake)
//   "avx2"         AVX2, FMA and F16C
//   "scalar"       the reference: plain C++, activations not rounded
// The environment variable TANDEM_ISA set to one of these names forces it; empty is as good as
// unset; any other value, or one that this CPU cannot run, ends the process with a line on stderr.
// Any thread.
const SimdOps& simd();

// nullptr when the name is unknown, not built, or not runnable on this CPU.
const SimdOps* find_simd(const char* name);

// For tests: simd() is `ops` from here on; nullptr goes back to the process's own choice.
// Not while a kernel runs.
void override_simd(const SimdOps* ops);

}  // namespace tandem
