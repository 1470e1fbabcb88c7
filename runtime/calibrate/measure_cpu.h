// What a machine profile says of the CPU, measured with the kernels that a model would run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/device/thread_pool.h"

namespace tandem {

struct CpuRates {
  double dram_gbps = 0;            // one pass over f32 weights: the fastest that we read
  double read_gbps = 0;            // eight Q4_K experts of [2048, 1024], one token
  double gflops = 0;               // the same with 64 tokens an expert; a multiply-add is two
  double first_expert_us = 0;      // until sleeping workers have done a first task
  int64_t onednn_bf16_tokens = 0;  // from how many tokens on oneDNN is faster; 0: never
  std::string onednn;              // version, or why there is none
};

// Takes about five seconds and a GiB of memory. MemoryError where that is missing. Sets
// use_onednn_from() to never. progress: what is being measured.
CpuRates measure_cpu(ThreadPool& pool, const std::function<void(const std::string&)>& progress);

}  // namespace tandem
