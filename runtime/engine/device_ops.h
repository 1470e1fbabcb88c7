// What a step computes on the device, one operation a function: the seam between the order of a
// step (DenseLayers, HybridExecutor) and kernels. HostKernelOps computes with the CPU's
// kernels, GpuKernelOps with a GPU's, real or emulated. Everything is enqueued on the compute
// stream, in the order of the calls.
//
// Addresses are device addresses; matrices of activations are f32, row by row, and n counts rows:
// the tokens of the step, unless it is passed. Called by the thread that runs the step loop.
// Nothing allocates after construction, or after the first steps.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/check.h"
#include "kernels/expert_ffn.h"
#include "kernels/function_ref.h"
#include "runtime/device/device.h"
#include "runtime/engine/device_weights.h"

namespace tandem {

// One layer's keys and values: kv_shape()'s bytes of each.
struct KvLayer {
  DeviceAddr k, v;
};

// y = w x + bias; y: [n, w.rows].
struct DeviceProduct {
  WeightView w;
  DeviceVector bias;
  DeviceAddr y;
};

// An expert that the device computes, or its leading part, and the tokens that use it.
struct DeviceExpert {
  ExpertWeights weights;
  std::span<const ExpertRow> rows;
};

class DeviceOps {
 public:
  virtual ~DeviceOps() = default;

  // n tokens at first_pos … follow, up to the next call.
  virtual void begin_step(int64_t first_pos, int64_t n) = 0;

  // What `enqueue` enqueues by calls of this seam and a copy to the host at its end, whose
  // timepoint it returns. part: a small number, the same calls for the same number, in every step.
  // So it may be kept and done again without calling `enqueue`.
  virtual Timepoint kept(int64_t /*part*/, FunctionRef<Timepoint()> enqueue) { return enqueue(); }

  // Whether the device had no memory for what is kept, so that nothing is.
  virtual bool graphs_refused() const { return false; }

  // to = from / rms(from) * gain; [n, gain.n]
  virtual void normalize(const DeviceVector& gain, DeviceAddr from, int64_t n, DeviceAddr to) = 0;
  // At most three, of the same x: [n, cols].
  virtual void products(const char* name, std::span<const DeviceProduct> products, DeviceAddr x,
                        int64_t n) = 0;
  // normalize(), and products() of what comes out.
  virtual void normalize_products(const DeviceVector& gain, DeviceAddr from, int64_t n,
                                  DeviceAddr to, const char* name,
                                  std::span<const DeviceProduct> products) = 0;
  // y += x; [n, d]
  virtual void add(const char* name, DeviceAddr x, DeviceAddr y) = 0;
  // Attention of one layer from the products on: norms, limits and RoPE of q: [n, q_width] and k:
  // [n, k_width], the limit of v: [n, v_width], all of which may change; keys and values stored;
  // out: [n, n_heads * v_head_dim].
  virtual void attend(const DeviceLayer& layer, const KvLayer& cache, DeviceAddr q, DeviceAddr k,
                      DeviceAddr v, DeviceAddr out) = 0;
  // Whether top_experts() is there for steps of n tokens, and faster than having logits ranked by
  // the host.
  virtual bool ranks(int64_t /*n*/) const { return false; }
  // The best `count` experts of each of n rows of a router's logits, by the model's rules: ids and
  // (unless null) scores, [n, count] int32 and f32, as gpu::TopExperts has them.
  virtual void top_experts(DeviceAddr /*logits*/, int64_t /*n*/, int64_t /*count*/,
                           DeviceAddr /*ids*/, DeviceAddr /*scores*/) {
    TANDEM_CHECK(false, "%s", "a device that ranks nothing");
  }
  // y += the shared expert of x, by its gate if it has one; [n, d]
  virtual void shared_expert(const SharedExpert& shared, DeviceAddr x, DeviceAddr y) = 0;

  // Routed experts of one layer: begin, launches, end. `experts` in the order of their launches, to
  // be there until end_experts(). Contributions to a token are added in the order of `by_id`, which
  // are indices of experts, or launch by launch.
  virtual void begin_experts(std::span<const DeviceExpert> experts,
                             std::span<const int32_t> by_id) = 0;
  // Experts [first, first + count) of those. x, y: [n, d]. y may change now or in end_experts().
  virtual Timepoint experts(int64_t first, int64_t count, DeviceAddr x, DeviceAddr y) = 0;
  virtual void end_experts(DeviceAddr y) = 0;
};

}  // namespace tandem
