// Work of the CPU's that calibration times: experts and products as a model has them, on weights
// that no cache holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/expert_ffn.h"
#include "kernels/onednn_tile.h"
#include "kernels/tensor.h"
#include "runtime/device/thread_pool.h"
#include "runtime/model/host_memory.h"

namespace tandem {

// Weights for one use after the other, the oldest again when all were used.
class ColdWeights {
 public:
  // MemoryError.
  explicit ColdWeights(int64_t bytes);
  WeightView matrix(DType type, int64_t rows, int64_t cols);
  // As pack_model() places it. gate and up: [hidden, width].
  ExpertWeights expert(DType type, int64_t hidden, int64_t width);

 private:
  const std::byte* next(int64_t bytes);

  HostRegion region_;
  int64_t at_ = 0;
};

class CpuWork {
 public:
  // What OLMoE has, and about what Qwen3-30B has.
  static constexpr int64_t kWidth = 2048;
  static constexpr int64_t kHidden = 1024;
  static constexpr int64_t kExperts = 8;

  // region_bytes: of weights, more than caches hold. The pool outlives this. MemoryError.
  CpuWork(ThreadPool& pool, int64_t region_bytes);

  // Each does its work once and returns the seconds that it took.
  // kExperts experts in Q4_K, n tokens each.
  double experts(int64_t n);
  // A product with a [kHidden, kWidth] matrix; onednn: use_onednn_from(), and then to never.
  double product(DType type, int64_t n, int64_t onednn = kOnednnNever);
  // Until sleeping workers have done a first task.
  double first_task();

  static int64_t expert_bytes();  // of all kExperts

 private:
  void resize(int64_t n);

  ThreadPool& pool_;
  ColdWeights weights_;
  std::vector<ExpertRow> rows_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::vector<float> hidden_;
};

}  // namespace tandem
