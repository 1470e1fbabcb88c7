// DeviceOps by the CPU's kernels: what CpuDevice runs on host memory, and SimDevice in place of a
// GPU's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "runtime/device/device.h"
#include "runtime/device/thread_pool.h"
#include "runtime/engine/device_ops.h"
#include "runtime/engine/engine_shape.h"
#include "runtime/model/model_config.h"

namespace tandem {

class HostKernelOps final : public DeviceOps {
 public:
  // All outlive this. MemoryError when the device is too small for what is needed here.
  HostKernelOps(const ModelConfig& config, Device& device, ThreadPool& pool,
                const EngineShape& shape);

  void begin_step(int64_t first_pos, int64_t n) override;
  void normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) override;
  void products(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                int64_t n) override;
  void normalize_products(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to,
                          const char* name, std::span<const DeviceProduct> products) override;
  void add(const char* name, DeviceAddr x, DeviceAddr y) override;
  void attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q, DeviceAddr k,
              DeviceAddr v, DeviceAddr out) override;
  void shared_expert(const SharedExpert& shared, DeviceAddr x, DeviceAddr y) override;
  void begin_experts(std::span<const DeviceExpert> experts,
                     std::span<const int32_t> by_id) override;
  Timepoint experts(int64_t first, int64_t count, DeviceAddr x, DeviceAddr y) override;
  void end_experts(DeviceAddr /*y*/) override {}

 private:
  void limit_values(DeviceAddr v);
  void qk_norm_rope(const DeviceLayer& layer, DeviceAddr q, DeviceAddr k);
  Touch all(DeviceAddr at, int64_t floats_per_token, bool write) const;

  const ModelConfig& config_;
  Device& device_;
  ThreadPool& pool_;
  KvShape kv_shape_;
  int64_t kv_bytes_k_;  // of one layer
  int64_t kv_bytes_v_;

  int64_t first_pos_ = 0;  // of the current step
  int64_t n_ = 0;
  DeviceAddr rope_;           // [n_batch, n_rot] f32
  DeviceAddr shared_hidden_;  // [n_batch, shared_ff] f32; null without shared experts
  DeviceAddr shared_scale_;   // [n_batch] f32; likewise
  int64_t hidden_bytes_;
  DeviceAddr hidden_;  // [n_batch * top_k, ff] f32; null where the device reads host memory
  std::span<const DeviceExpert> experts_;
  std::vector<ExpertRow> shared_rows_;
  std::vector<ExpertCall> calls_;
  std::vector<Touch> touches_;
};

}  // namespace tandem
