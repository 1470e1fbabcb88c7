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
  int32_t pieces = 1;           // equal parts along the intermediate dimension that can run apart
};

// Times of one whole expert of a layer; a part of its pieces takes the same part of the time.
struct LayerCosts {
  double cpu_read = 0;         // its weights, the link idle
  double cpu_read_shared = 0;  // its weights while the link copies from the same memory
  double cpu_token = 0;        // arithmetic of one token
  double cpu_first = 0;        // once a layer that uses the CPU
  double gpu_read = 0;
  double gpu_token = 0;
  double gpu_launch = 0;    // once for the experts that are there at the start, once for each later
  double copy = 0;          // its weights over the link
  double copy_latency = 0;  // once before the first copy of a layer; later ones follow at once
  int32_t pieces = 1;

  double cpu(int32_t tokens) const { return std::max(cpu_read, tokens * cpu_token); }
  double cpu_shared(int32_t tokens) const { return std::max(cpu_read_shared, tokens * cpu_token); }
  double gpu(int32_t tokens) const { return std::max(gpu_read, tokens * gpu_token); }
};

// What believed costs have to be multiplied by, as learnt while running.
struct CostFactors {
  double cpu_read = 1;
  double cpu_read_shared = 1;
  double cpu_token = 1;
  double cpu_first = 1;
  double gpu_read = 1;
  double gpu_token = 1;
  double gpu_launch = 1;
  double copy = 1;
  double copy_shared = 1;  // copies that nobody waits for, beside a busy CPU
  double copy_latency = 1;
};

class CostModel {
 public:
  explicit CostModel(const MachineProfile& profile) : profile_(profile) {}

  const MachineProfile& profile() const { return profile_; }

  // Reading the weights once, or the arithmetic, whichever takes longer.
  ModelTime cpu_us(int64_t bytes, int64_t flops) const {
    return std::max(per_giga(bytes, profile_.cpu.read_gbps), per_giga(flops, profile_.cpu.gflops));
  }
  ModelTime gpu_us(int64_t bytes, int64_t flops) const {
    return profile_.gpu.launch_us +
           std::max(per_giga(bytes, profile_.gpu.read_gbps), per_giga(flops, profile_.gpu.gflops));
  }
  // The bytes alone; a burst of copies pays latency_us once.
  ModelTime h2d_us(int64_t bytes) const { return per_giga(bytes, profile_.link.h2d_gbps); }
  ModelTime d2h_us(int64_t bytes) const { return per_giga(bytes, profile_.link.d2h_gbps); }

  // What memory has left for the CPU while the link copies, and for the link while the CPU reads.
  // Never less than a twentieth of the rate alone: neither starves the other.
  double cpu_gbps_beside_link() const {
    const double left = profile_.dram_gbps - profile_.link.h2d_gbps;
    return std::clamp(left, profile_.cpu.read_gbps / 20, profile_.cpu.read_gbps);
  }
  double link_gbps_beside_cpu() const {
    const double left = profile_.dram_gbps - profile_.cpu.read_gbps;
    return std::clamp(left, profile_.link.h2d_gbps / 20, profile_.link.h2d_gbps);
  }

  LayerCosts layer(const ExpertCost& expert) const {
    return {per_giga(expert.bytes, profile_.cpu.read_gbps),
            per_giga(expert.bytes, cpu_gbps_beside_link()),
            per_giga(expert.flops_per_token, profile_.cpu.gflops),
            profile_.cpu.first_expert_us,
            per_giga(expert.bytes, profile_.gpu.read_gbps),
            per_giga(expert.flops_per_token, profile_.gpu.gflops),
            profile_.gpu.launch_us,
            h2d_us(expert.bytes),
            profile_.link.latency_us,
            expert.pieces};
  }

 private:
  // n / (rate * 1e9) seconds, as microseconds
  static ModelTime per_giga(int64_t n, double giga_rate) {
    return static_cast<double>(n) / (giga_rate * 1e3);
  }

  MachineProfile profile_;
};

}  // namespace tandem
