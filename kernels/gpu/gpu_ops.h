// The operations of a GPU as a table of functions that enqueue kernels on a stream. One source is
// compiled twice: by nvcc for real GPUs (a plug-in, opened at run time), and by the host's compiler
// for the emulation. All pointers are to device memory, and must stay valid until the stream has
// got there.
//
// A stream is a cudaStream_t, or a vgpu::Emulation*, on which kernels have ended when a function
// returns, or thrown vgpu::KernelFault.
#pragma once

#include <cstdint>

#include "kernels/quant.h"

namespace tandem::gpu {

// A packed matrix (kernels/packed.h), its rows filled up to whole groups of 16.
struct PackedWeights {
  const uint8_t* data;   // 4-byte aligned
  int64_t group_stride;  // bytes
  int rows;              // that count
  int cols;
};

// [n, cols] activations as pack_x() of kernels/packed.h leaves them, byte for byte, `stride` bytes
// apart (x_bytes()); 64-byte aligned.
struct PackedX {
  const uint8_t* rows;
  int stride;
  int cols;
};

// Rows of x: those of a list, or (nullptr) 0, 1, … n - 1.
struct TokenList {
  const int* rows;
  int n;
};

struct GpuOps {
  // to = pack_x(kind) of x: [n, cols] f32.
  void (*pack_x)(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to,
                 int stride);
  // y[t, r] = sum_c W[r, c] * x[tokens[t], c] (+ bias[r]). y: [tokens.n, w.rows] f32; bias: [rows]
  // or nullptr. x is packed as the type wants it.
  void (*product)(void* stream, DType type, const PackedWeights& w, const PackedX& x,
                  const TokenList& tokens, const float* bias, float* y);
};

// How weights of a type want their activations on a GPU.
constexpr XKind gpu_x_kind(DType type) {
  switch (type) {
    case DType::kBF16:
      return XKind::kBf16;
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      return XKind::kQ8;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return XKind::kQ8K;
    default:
      return XKind::kFloat;
  }
}

extern const GpuOps kEmulatedOps;
extern const GpuOps kCudaOps;  // in the plug-in only

}  // namespace tandem::gpu
