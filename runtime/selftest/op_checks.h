// A function for each of GpuOps: inputs, the launch, the reference. Internal to selftest.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"
#include "runtime/device/device.h"
#include "runtime/probe/device_memory.h"
#include "runtime/selftest/check.h"
#include "runtime/selftest/random_inputs.h"

namespace tandem {

struct OpContext {
  Device& device;
  const gpu::GpuOps& ops;
  bool large;
  CheckRun& run;

  // A check with device memory of its own, whose guards are looked at afterwards.
  void check(const std::string& name, const std::string& type, const std::string& shape,
             const std::function<void(DeviceMemory&, Comparison&)>& body) const {
    run.check(name, type, shape, [&](Comparison& comparison) {
      DeviceMemory memory(device, "selftest");
      body(memory, comparison);
      for (const std::string& problem : memory.broken_guards()) comparison.require(false, problem);
    });
  }
};

inline constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                                         DType::kQ4_0, DType::kQ5_0, DType::kQ8_0,
                                         DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// A rounding of f32 at most, whether to nearest or cut off.
inline constexpr double kRounding = 1.0 / (1 << 23);

// sum a[i] b[i] in float64, and sum |a[i] b[i]|.
struct Dot {
  double sum = 0;
  double magnitude = 0;
};
inline Dot dot(const float* a, const float* b, int64_t n) {
  Dot out;
  for (int64_t i = 0; i < n; ++i) {
    const double product = static_cast<double>(a[i]) * static_cast<double>(b[i]);
    out.sum += product;
    out.magnitude += std::abs(product);
  }
  return out;
}
// Of n values that are added up in f32, in any order, of this magnitude. 8: scales, a bias, warps
// that add up.
inline double sum_tolerance(int64_t n, double magnitude) {
  return static_cast<double>(n + 8) * kRounding * magnitude + 1e-30;
}
// The same of a row of weights times activations. Where these are int8, 16 columns or more are
// added as integers, and what is rounded are the scales of either side, and values beside minima.
inline double dot_tolerance(DType type, int64_t cols, double magnitude) {
  const bool integers = dtype_info(type).block_elems > 1;
  return sum_tolerance(integers ? cols / 16 + 8 : cols, magnitude);
}

// "1 token", "9 tokens"
inline std::string tokens_text(int64_t n) {
  return std::to_string(n) + (n == 1 ? " token" : " tokens");
}

// As an expert's slot has it: 4-byte aligned and no more.
inline DeviceMatrix put(DeviceMemory& memory, const RandomMatrix& m) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(m.packed.data());
  return {memory.put(std::vector<uint8_t>(bytes, bytes + m.packed.size()), 4),
          packed_bytes(m.type, m.cols), static_cast<int>(m.rows), static_cast<int>(m.cols)};
}

inline size_t at(int64_t i) { return static_cast<size_t>(i); }

void check_pack_x(const OpContext& context);
void check_product(const OpContext& context);
void check_product_few(const OpContext& context);
void check_norm_product(const OpContext& context);
void check_expert_hidden(const OpContext& context);
void check_expert_output(const OpContext& context);
void check_expert_output_few(const OpContext& context);
void check_residual_norm(const OpContext& context);
void check_top_experts(const OpContext& context);
void check_prepare_heads(const OpContext& context);
void check_attention(const OpContext& context);
void check_wait_flag(const OpContext& context);

}  // namespace tandem
