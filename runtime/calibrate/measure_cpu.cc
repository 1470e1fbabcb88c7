#include "runtime/calibrate/measure_cpu.h"

#include <chrono>
#include <utility>
#include <vector>

#include "kernels/onednn_gemm.h"
#include "kernels/packed.h"

namespace tandem {
namespace {

constexpr double kBudget = 0.5;      // seconds a measurement
constexpr double kLeastGain = 1.05;  // for which another order of additions pays
constexpr int64_t kManyTokens = 64;

// Of what `once` returns, called for kBudget seconds and at least three times.
Spread measured(const std::function<double()>& once) {
  std::vector<double> values;
  const auto start = std::chrono::steady_clock::now();
  while (values.size() < 3 ||
         std::chrono::steady_clock::now() - start < std::chrono::duration<double>(kBudget)) {
    values.push_back(once());
  }
  return spread_of(std::move(values));
}

// The least number of tokens from which on oneDNN is faster at each that is tried; 0: at none.
int64_t onednn_crossing(CpuWork& work) {
  constexpr int64_t kTried[] = {128, 64, 32};
  int64_t from = 0;
  for (const int64_t n : kTried) {
    const Spread gain = measured([&] {
      const double own = work.product(DType::kBF16, n);
      return own / work.product(DType::kBF16, n, 1);
    });
    if (gain.median < kLeastGain) break;
    from = n;
  }
  return from;
}

}  // namespace

CpuRates measure_cpu(CpuWork& work, const OnMeasuring& measuring) {
  CpuRates rates;
  measuring("memory");
  const auto f32_bytes =
      static_cast<double>(dtype_bytes(DType::kF32, CpuWork::kHidden * CpuWork::kWidth));
  rates.dram_gbps = measured([&] { return f32_bytes / work.product(DType::kF32, 1) / 1e9; });
  measuring("experts with one token");
  const auto expert_bytes = static_cast<double>(CpuWork::expert_bytes());
  rates.read_gbps = measured([&] { return expert_bytes / work.experts(1) / 1e9; });
  if (rates.read_gbps.median > rates.dram_gbps.median) rates.dram_gbps = rates.read_gbps;
  measuring("experts with many tokens");
  const double flops =
      2.0 * 3 *
      static_cast<double>(CpuWork::kExperts * kManyTokens * CpuWork::kHidden * CpuWork::kWidth);
  rates.gflops = measured([&] { return flops / work.experts(kManyTokens) / 1e9; });
  measuring("waking workers");
  rates.first_expert_us = measured([&] { return work.first_task() * 1e6; });
  if (const char* why = onednn_tile_missing()) {
    rates.onednn = why;
    return rates;
  }
  rates.onednn = onednn_version();
  measuring("oneDNN");
  if (x_kind(DType::kBF16) == XKind::kBf16) rates.onednn_bf16_tokens = onednn_crossing(work);
  return rates;
}

}  // namespace tandem
