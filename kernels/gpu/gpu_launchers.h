// What gpu_ops.cu collects in the table.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

void pack_x(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to, int stride);
void product(void* stream, DType type, const ProductParts& parts, const PackedX& x, int n);
void product_few(void* stream, DType type, const ProductParts& parts, const float* x, int n,
                 int cols, int stride);
void norm_product(void* stream, DType type, const ResidualNorm& call, const ProductParts& parts,
                  int n, int d, int stride);
void expert_hidden(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                   const PackedX& x, const int* tokens, int ff, float* hidden);
void expert_output(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden, int d,
                   float* out);
void expert_output_few(void* stream, DType type, const ExpertCalls& calls, const float* hidden,
                       int ff, int stride, int d, float* out);
void residual_norm(void* stream, const ResidualNorm& call, int n, int d);
void top_experts(void* stream, const TopExperts& call, int n);
void prepare_heads(void* stream, const PreparedHeads& call, const KvCache& cache, int n);
void attention(void* stream, const KvCache& cache, const float* q, int first_pos, int n,
               int n_heads, float scale, float* scratch, float* out);
void wait_flag(void* stream, const uint32_t* flag, uint32_t value);

// From kTileFrom tokens or uses on, in units of their own: they take long to compile.
void product_tiles(void* stream, DType type, const ProductParts& parts, const PackedX& x, int n);
void expert_hidden_tiles(void* stream, DType type, HiddenPart part, const ExpertCalls& calls,
                         const PackedX& x, const int* tokens, int ff, float* hidden);
void expert_output_tiles(void* stream, DType type, const ExpertCalls& calls, const PackedX& hidden,
                         int d, float* out);

}  // namespace VGPU_NAMESPACE
