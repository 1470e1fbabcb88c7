// What gpu_ops.cu collects in the table.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

void pack_x(void* stream, XKind kind, const float* x, int n, int cols, uint8_t* to, int stride);
void product(void* stream, DType type, const PackedWeights& w, const PackedX& x,
             const TokenList& tokens, const float* bias, float* y);

}  // namespace VGPU_NAMESPACE
