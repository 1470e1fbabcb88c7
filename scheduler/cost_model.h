// What an operation takes on a machine profile, in microseconds. Every time that this computes is
// modelled, and is called so wherever it is shown.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cache/types.h"
#include "scheduler/machine_profile.h"

namespace tandem {

// One expert of a layer.
struct ExpertCost {
  int64_t bytes = 0;            // of its weights
  int64_t flops_per_token = 0;  // 2 x weights
  int32_t copies = 3;           // link copies that bring it in: gate, up, down
};

class CostModel {
 public:
  explicit CostModel(const MachineProfile& profile) : profile_(profile) {}

  const MachineProfile& profile() const { return profile_; }

  // Reading the weights once, or the arithmetic, whichever takes longer.
  ModelTime cpu_us(int64_t bytes, int64_t flops) const {
    return std::max(per_gb(bytes, profile_.cpu.read_gbps), per_gb(flops, profile_.cpu.gflops));
  }
  ModelTime gpu_us(int64_t bytes, int64_t flops) const {
    return profile_.gpu.launch_us +
           std::max(per_gb(bytes, profile_.gpu.read_gbps), per_gb(flops, profile_.gpu.gflops));
  }
  ModelTime h2d_us(int64_t bytes) const {
    return profile_.link.latency_us + per_gb(bytes, profile_.link.h2d_gbps);
  }
  ModelTime d2h_us(int64_t bytes) const {
    return profile_.link.latency_us + per_gb(bytes, profile_.link.d2h_gbps);
  }
  ModelTime fetch_us(const ExpertCost& expert) const {
    return h2d_us(expert.bytes) + (expert.copies - 1) * profile_.link.latency_us;
  }
  ModelTime cpu_expert_us(const ExpertCost& expert, int32_t tokens) const {
    return cpu_us(expert.bytes, expert.flops_per_token * tokens);
  }
  ModelTime gpu_expert_us(const ExpertCost& expert, int32_t tokens) const {
    return gpu_us(expert.bytes, expert.flops_per_token * tokens);
  }

 private:
  // n / (rate * 1e9) seconds, as microseconds
  static ModelTime per_gb(int64_t n, double giga_rate) {
    return static_cast<double>(n) / (giga_rate * 1e3);
  }

  MachineProfile profile_;
};

}  // namespace tandem
