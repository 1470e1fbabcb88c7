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
// apart (x_bytes()); 64-byte aligned. Of what rounded_x_kind() of the weights says. All rows lie
// within 2 GiB.
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

// An expert of a launch, or its leading part: whole blocks of down's columns, whole groups of
// gate's and up's rows. And its uses by tokens: [first_use, first_use + n_uses) of all uses.
struct ExpertUses {
  PackedWeights gate;  // [ff of the part, d]
  PackedWeights up;    // likewise
  PackedWeights down;  // [d, ff of the part]
  int first_use;
  int n_uses;
};

// Experts of one layer, of the same types. most_uses: at least every n_uses.
struct ExpertCalls {
  const ExpertUses* experts;  // [n_experts]; nullptr: one, which is
  ExpertUses single;
  int n_experts;
  int most_uses;
};

// What expert_hidden() computes: both factors, or one after the other.
enum class HiddenPart : uint8_t { kBoth, kGate, kUp };

// The uses that add to each token: uses[begin[t]] … uses[begin[t + 1] - 1], in that order.
struct TokenUses {
  const int* begin;  // [n + 1]
  const int* uses;
  const float* weights;  // of uses, by use: the router's
};

// One layer's keys and values of one sequence, in the layout of kernels/kv_cache.h.
struct KvCache {
  bool f16_k;  // f32 otherwise
  bool f16_v;
  int n_kv_heads;
  int head_dim;
  int v_head_dim;
  uint8_t* k;  // 4-byte aligned
  uint8_t* v;
};

// Of `n` tokens behind `first_pos` others: into how many spans attention divides the positions,
// each a block of threads of its own (then joined in order), so that few tokens are enough for a
// GPU. Spans have 512 positions; more where they would be too many.
constexpr int attention_spans(int first_pos, int n) {
  constexpr int kPositions = 512;
  constexpr int kMostSpans = 128;  // by tokens
  const int most = n >= kMostSpans ? 1 : kMostSpans / n;
  const int spans = (first_pos + n + kPositions - 1) / kPositions;
  return spans < most ? spans : most;
}
// [spans, n, n_heads] of outputs, a largest score and a sum.
constexpr int64_t attention_scratch_floats(int first_pos, int n, int n_heads, int v_head_dim) {
  const int spans = attention_spans(first_pos, n);
  return spans > 1 ? int64_t{spans} * n * n_heads * (v_head_dim + 2) : 0;
}

struct GpuOps {
  // to = pack_x(kind) of x: [n, cols] f32.
  void (*pack_x)(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to,
                 int stride);
  // y[t, r] = sum_c W[r, c] * x[tokens[t], c] (+ bias[r]). y: [tokens.n, w.rows] f32; bias: [rows]
  // or nullptr. x is packed as the type wants it.
  void (*product)(void* stream, DType type, const PackedWeights& w, const PackedX& x,
                  const TokenList& tokens, const float* bias, float* y);
  // hidden[u, r] = silu(gate . x[tokens[u]])[r] * (up . x[tokens[u]])[r] of each use u. Or only its
  // first factor, or that times the second: where gate and up are of different types. type: of the
  // matrices read. tokens: [uses], or nullptr for 0, 1, …. hidden: [uses, ff] f32, ff being
  // that of whole experts.
  void (*expert_hidden)(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                        const PackedX& x, const int* tokens, int ff, float* hidden);
  // out[u] = down . hidden[u]. type: of down. hidden: [uses, ff], ff of whole experts, packed as it
  // wants. out: [uses, d] f32.
  void (*expert_output)(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden,
                        int d, float* out);
  // y[t] += sum of weights[u] * out[u] over the uses u of t. y: [n, d] f32.
  void (*combine)(void* stream, const float* out, const TokenUses& uses, int n, int d, float* y);
  // y[t, c] = x[t, c] / sqrt(mean_c x^2 + eps) * gain[c]; x, y: [n, d] f32; x == y is allowed.
  void (*rms_norm)(void* stream, const float* x, const float* gain, float eps, int n, int d,
                   float* y);
  // y[t] += x[t], or sigmoid(gate[t]) * x[t] where there is a gate: [n] f32. x, y: [n, d] f32.
  void (*add)(void* stream, const float* x, const float* gate, int n, int d, float* y);
  // x[i] = x[i] limited to [-limit, limit]; NaN stays.
  void (*clamp)(void* stream, float limit, int64_t n, float* x);
  // Turns the first n_rot elements of every head of x: [n, n_heads, head_dim] f32, in place, by
  // table: [n, n_rot] f32, cosines and then sines (rope_table() of kernels/elementwise.h). halves:
  // pairs are (i, i + n_rot / 2), else (2i, 2i + 1).
  void (*rope)(void* stream, const float* table, bool halves, int n_rot, int n, int n_heads,
               int head_dim, float* x);
  // Stores k: [n, n_kv_heads, head_dim] and v: [n, n_kv_heads, v_head_dim], f32, at positions
  // first_pos … first_pos + n - 1.
  void (*kv_append)(void* stream, const KvCache& cache, const float* k, const float* v,
                    int first_pos, int n);
  // out[t, h, :] = softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group], j <= first_pos +
  // t. q: [n, n_heads, head_dim] f32; out: [n, n_heads, v_head_dim] f32; scratch:
  // attention_scratch_floats(). Positions that no token sees may hold anything.
  void (*attention)(void* stream, const KvCache& cache, const float* q, int first_pos, int n,
                    int n_heads, float scale, float* scratch, float* out);
};

extern const GpuOps kEmulatedOps;
extern const GpuOps kCudaOps;  // in the plug-in only

}  // namespace tandem::gpu
