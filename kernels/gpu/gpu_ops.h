// The operations of a GPU as a table of functions that enqueue kernels on a stream. One source is
// compiled twice: by nvcc for real GPUs (a plug-in, opened at run time), and by the host's compiler
// for the emulation. All pointers are to device memory, and must stay valid until the stream has
// got there.
//
// A stream is a cudaStream_t, or a vgpu::Emulation*, on which kernels have ended when a function
// returns, or thrown vgpu::KernelFault.
#pragma once

#include <cstdint>

#include "kernels/kv_cache.h"
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
  KvType type_k;  // of heads that are multiples of kv_type_block()
  KvType type_v;
  int n_kv_heads;
  int head_dim;
  int v_head_dim;
  uint8_t* k;  // 4-byte aligned
  uint8_t* v;
  // How many positions came before, in device memory, so that a graph can be run again at others.
  // nullptr: as many as a call says. Otherwise that only decides into how many spans attention
  // divides them, and must give as many as the right one.
  const int* first_pos = nullptr;
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

// One to three products of the same x: y[t, r] = sum_c W[r, c] * x[t, c] (+ bias[r]).
struct ProductPart {
  PackedWeights w;
  const float* bias;  // [rows] or nullptr
  float* y;           // [n, rows]
};
struct ProductParts {
  ProductPart first;
  ProductPart second;  // of no rows: there is none
  ProductPart third;   // likewise
};

// Rows of f32 of which a kernel packs what it needs in shared memory: without a launch of its own,
// worth it for few tokens. row_bytes: of a packed row.
inline constexpr int kFewTokens = 8;
constexpr bool can_pack_here(int64_t row_bytes, int n) {
  return n <= kFewTokens && n * row_bytes <= 40 * 1024;
}

// Adds x, [n, d], each row by the sigmoid of its gate if there are gates: [n].
struct Addend {
  const float* x;  // nullptr: nothing
  const float* gate;
};

// Where packed copies of rows go, of the kinds that are wanted; nullptr: not wanted.
struct PackedCopies {
  uint8_t* bf16;
  uint8_t* q8;
  uint8_t* q8_k;
  int bf16_stride;
  int q8_stride;
  int q8_k_stride;
};

// y += addends[0] + addends[1] + sum of weights[u] * out[u] over the uses u of a token +
// addends[2], in that order; then normed = y / sqrt(mean y^2 + eps) * gain, and packed copies of
// that.
struct ResidualNorm {
  float* y;  // [n, d]
  Addend addends[3];
  const float* out;  // [uses, d] or nullptr: no uses
  TokenUses uses;
  const float* gain;  // [d] or nullptr: only the sum
  float eps;
  float* normed;  // [n, d] or nullptr
  PackedCopies copies;
};
inline constexpr int kWidestResidual = 12000;  // d: a row lies in shared memory

// Shared memory of products that normalise their rows themselves, as kind wants them, stride bytes
// apart: worth it for few tokens and few rows of weights.
constexpr int64_t norm_here_bytes(XKind kind, int64_t n, int64_t d, int64_t stride) {
  return n * stride + (kind == XKind::kFloat ? 0 : d * 4);
}
constexpr bool can_norm_here(XKind kind, int64_t n, int64_t d, int64_t stride) {
  return n <= kFewTokens && norm_here_bytes(kind, n, d, stride) <= 40 * 1024;
}

// What a router selects of each row: scores are shares of all experts (softmax) or each logit's
// sigmoid.
struct TopExperts {
  const float* logits;  // [n, n_experts]
  int n_experts;        // <= kMostExperts
  bool sigmoid;
  int count;      // <= n_experts
  int* ids;       // [n, count], best first, of equals the lower id; -1: a logit is not finite
  float* scores;  // [n, count] or nullptr
};
inline constexpr int kMostExperts = 512;

// Queries, keys and values as products give them: normalised, limited, turned; keys and values
// stored at positions first_pos ….
struct PreparedHeads {
  const float* q;       // [n, n_heads, head_dim]
  const float* k;       // [n, n_kv_heads, head_dim]
  const float* v;       // [n, n_kv_heads, v_head_dim]
  const float* q_gain;  // [q_norm_width] or nullptr: no norm
  const float* k_gain;
  int q_norm_width;  // head_dim, or all heads': what is normalised together
  int k_norm_width;
  float eps;
  float limit;  // behind the norm, to [-limit, limit]; NaN stays; 0: none
  // [n, n_rot]: cosines and then sines (rope_table() of kernels/elementwise.h) by which the first
  // n_rot elements of heads of q and k turn; pairs are (i, i + n_rot / 2) if halves, else (2i, 2i +
  // 1).
  const float* rope;
  int n_rot;
  bool halves;
  int n_heads;
  int first_pos;
  float* q_out;  // [n, n_heads, head_dim]
};
inline constexpr int kWidestHead = 512;

struct GpuOps {
  // to = pack_x(kind) of x: [n, cols] f32.
  void (*pack_x)(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to,
                 int stride);
  // type: of all parts. x: [n, cols], packed as the type wants it.
  void (*product)(void* stream, DType type, const ProductParts& parts, const PackedX& x, int n);
  // The same of x: [n, cols] f32; can_pack_here(). stride: of a packed row.
  void (*product_few)(void* stream, DType type, const ProductParts& parts, const float* x, int n,
                      int cols, int stride);
  // normed and its packed copies as residual_norm() makes them, and products of normed, but y stays
  // as it is; call.gain is not nullptr. can_norm_here(). stride: of a row as the type wants it.
  void (*norm_product)(void* stream, DType type, const ResidualNorm& call,
                       const ProductParts& parts, int n, int d, int stride);
  // hidden[u, r] = silu(gate . x[tokens[u]])[r] * (up . x[tokens[u]])[r] of each use u. Or only its
  // first factor, or that times the second: where gate and up are of different types. type: of the
  // matrices read. tokens: [uses], or nullptr for 0, 1, …. hidden: [uses, ff] f32, ff being that of
  // whole experts.
  void (*expert_hidden)(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                        const PackedX& x, const int* tokens, int ff, float* hidden);
  // out[u] = down . hidden[u]. type: of down. hidden: [uses, ff], ff of whole experts, packed as it
  // wants. out: [uses, d] f32.
  void (*expert_output)(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden,
                        int d, float* out);
  // The same of f32; can_pack_here(stride of a packed row, calls.most_uses).
  void (*expert_output_few)(void* stream, DType type, const ExpertCalls& calls, const float* hidden,
                            int ff, int stride, int d, float* out);
  // d <= kWidestResidual
  void (*residual_norm)(void* stream, const ResidualNorm& call, int n, int d);
  void (*top_experts)(void* stream, const TopExperts& call, int n);
  // Heads of at most kWidestHead.
  void (*prepare_heads)(void* stream, const PreparedHeads& call, const KvCache& cache, int n);
  // out[t, h, :] = softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group], j <= first_pos +
  // t. q: [n, n_heads, head_dim] f32; out: [n, n_heads, v_head_dim] f32; scratch:
  // attention_scratch_floats(). Positions that no token sees may hold anything. For keys in kQ8_0
  // queries are rounded to int8, as the CPU's instruction sets do it.
  void (*attention)(void* stream, const KvCache& cache, const float* q, int first_pos, int n,
                    int n_heads, float scale, float* scratch, float* out);
  // What is enqueued later starts when *flag, which the host writes, has come to `value`, going
  // round: (int)(*flag - value) >= 0. flag: page-locked memory of the host's. A thread looks again
  // and again.
  void (*wait_flag)(void* stream, const uint32_t* flag, uint32_t value);
};

extern const GpuOps kEmulatedOps;
extern const GpuOps kCudaOps;  // in the plug-in only

}  // namespace tandem::gpu
