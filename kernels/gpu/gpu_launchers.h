// What gpu_ops.cu collects in the table.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

void pack_x(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to, int stride);
void product(void* stream, DType type, const PackedWeights& w, const PackedX& x,
             const TokenList& tokens, const float* bias, float* y);

void expert_hidden(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                   const PackedX& x, const int* tokens, int ff, float* hidden);
void expert_output(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden, int d,
                   float* out);
void combine(void* stream, const float* out, const TokenUses& uses, int n, int d, float* y);
void rms_norm(void* stream, const float* x, const float* gain, float eps, int n, int d, float* y);
void add(void* stream, const float* x, const float* gate, int n, int d, float* y);
void clamp(void* stream, float limit, int64_t n, float* x);

void rope(void* stream, const float* table, bool halves, int n_rot, int n, int n_heads,
          int head_dim, float* x);
void kv_append(void* stream, const KvCache& cache, const float* k, const float* v, int first_pos,
               int n);
void attention(void* stream, const KvCache& cache, const float* q, int first_pos, int n,
               int n_heads, float scale, float* scratch, float* out);

}  // namespace VGPU_NAMESPACE
