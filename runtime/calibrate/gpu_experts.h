// A layer's routed experts on a GPU, launched as GpuKernelOps launches them: one kernel for gate
// and up, one for down, all experts in Q4_K and in one launch each. Groups of experts follow each
// other in device memory, so that what a chain of them reads is in no cache.
#pragma once

#include <cstdint>

#include "runtime/device/device.h"
#include "runtime/probe/device_memory.h"

namespace tandem {

class GpuExperts {
 public:
  struct Shape {
    int64_t d = 0;  // multiples of 256
    int64_t ff = 0;
    int n_experts = 0;  // of a group
    int n_tokens = 0;   // of each expert
    int n_groups = 0;   // in device memory
  };
  static constexpr int kLaunches = 2;  // of a group

  // The device outlives this. MemoryError, DeviceError.
  GpuExperts(Device& device, const Shape& shape, const char* tag);

  // Enqueues a chain of n groups; returns the end of the last.
  Timepoint launch(int n);

  // Of a group: what its launches move, activations too, and compute.
  int64_t bytes() const { return hidden_cost_.bytes + output_cost_.bytes; }
  int64_t flops() const { return hidden_cost_.flops + output_cost_.flops; }
  static int64_t group_weight_bytes(const Shape& shape);

 private:
  struct Cost {
    int64_t bytes = 0;
    int64_t flops = 0;
  };
  void fill_weights();
  void make_table();
  gpu::ExpertCalls calls(const KernelScope& scope, int group) const;
  void launch_hidden(int group);
  Timepoint launch_output(int group, bool last);
  int64_t n_uses() const { return int64_t{shape_.n_experts} * shape_.n_tokens; }

  Device& device_;
  Shape shape_;
  DeviceMemory memory_;
  bool few_;  // down's kernel packs what it reads
  DeviceArray<uint8_t> weights_;
  DeviceArray<gpu::ExpertUses> table_;  // [n_groups, n_experts]
  DeviceArray<int> tokens_;             // [uses]
  DeviceActivations x_;                 // [n_tokens, d]
  DeviceActivations packed_hidden_;     // [uses, ff], where not few_
  DeviceArray<float> hidden_;           // [uses, ff]
  DeviceArray<float> out_;              // [uses, d]
  Cost hidden_cost_;
  Cost output_cost_;
  int next_ = 0;  // group
};

}  // namespace tandem
