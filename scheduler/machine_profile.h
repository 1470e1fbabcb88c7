// A machine as the cost model sees it. Read from configs/machines/*.toml by the runtime.
// Rates are what a well-made kernel reaches, not the data sheet's peak; each file names sources.
#pragma once

#include <cstdint>
#include <string>

namespace tandem {

struct MachineProfile {
  std::string name;
  std::string description;

  struct Cpu {
    double read_gbps = 0;            // weights, all cores
    double gflops = 0;               // multiply and add counted apart, on quantised weights
    double first_expert_us = 0;      // waking the workers, once a layer
    int64_t onednn_bf16_tokens = 0;  // from how many tokens on oneDNN is faster; 0: never
  } cpu;
  struct Gpu {
    int64_t vram_bytes = 0;
    double read_gbps = 0;
    double gflops = 0;
    double launch_us = 0;       // per kernel
    std::string measured_on{};  // the GPU that these figures and the link's are from; empty: none
  } gpu;
  struct Link {
    double h2d_gbps = 0;
    double d2h_gbps = 0;
    double latency_us = 0;  // per copy
  } link;
  double dram_gbps = 0;  // CPU reads and link copies share it
  // Fixed cost of a layer beside what the other terms say: hand-overs between host and GPU, gaps.
  double layer_overhead_us = 0;
};

}  // namespace tandem
