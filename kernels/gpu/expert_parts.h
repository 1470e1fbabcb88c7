// What kernels of experts share.
#pragma once

#include "kernels/gpu/gpu_ops.h"
#include "kernels/gpu/vgpu.h"

namespace VGPU_NAMESPACE {

// By value: a reference to either would put `single` into local memory.
VGPU_DEVICE ExpertUses expert_of(const ExpertCalls& calls, unsigned i) {
  if (calls.experts != nullptr) return calls.experts[i];
  return calls.single;
}

// What is written to hidden, where `old` is what is there.
VGPU_DEVICE float hidden_value(HiddenPart part, float gate, float up, float old) {
  float value = part == HiddenPart::kUp ? old : gate / (1.0F + expf(-gate));
  if (part != HiddenPart::kGate) value *= up;
  return value;
}

}  // namespace VGPU_NAMESPACE
