// What a machine profile says of the CPU, measured with the kernels that a model would run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/calibrate/cpu_work.h"
#include "runtime/calibrate/spread.h"

namespace tandem {

struct CpuRates {
  Spread dram_gbps;        // one pass over f32 weights, or experts: the fastest that we read
  Spread read_gbps;        // eight Q4_K experts of [2048, 1024], one token
  Spread gflops;           // the same with 64 tokens an expert; a multiply-add is two
  Spread first_expert_us;  // until sleeping workers have done a first task
  int64_t onednn_bf16_tokens = 0;  // from how many tokens on oneDNN is faster; 0: never
  std::string onednn;              // version, or why there is none
};

inline constexpr int64_t kCpuRegionBytes = int64_t{768} << 20;  // more than caches hold

// What is being measured, before each measurement.
using OnMeasuring = std::function<void(const std::string&)>;

// Takes about five seconds. Sets use_onednn_from() to never.
CpuRates measure_cpu(CpuWork& work, const OnMeasuring& measuring);

}  // namespace tandem
