#include "runtime/calibrate/measure_cpu.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/dense.h"
#include "kernels/expert_ffn.h"
#include "kernels/onednn_gemm.h"
#include "kernels/onednn_tile.h"
#include "kernels/packed.h"
#include "runtime/model/host_memory.h"

namespace tandem {
namespace {

// What OLMoE has, and about what Qwen3-30B has.
constexpr int64_t kWidth = 2048;
constexpr int64_t kHidden = 1024;
constexpr int64_t kExperts = 8;

constexpr int64_t kRegionBytes = int64_t{768} << 20;  // more than caches hold
constexpr double kBudget = 0.5;                       // seconds a measurement
constexpr double kLeastGain = 1.05;                   // for which another order of additions pays

double seconds_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Of what `once` returns, called for `budget` seconds and at least three times.
double median_of(double budget, const std::function<double()>& once) {
  std::vector<double> values;
  const auto start = std::chrono::steady_clock::now();
  while (values.size() < 3 ||
         std::chrono::steady_clock::now() - start < std::chrono::duration<double>(budget)) {
    values.push_back(once());
  }
  return median(std::move(values));
}

// Weights for one use after the other, the oldest again when all were used.
class ColdWeights {
 public:
  ColdWeights() : region_(kRegionBytes) {
    // The same small number in every type: what the values are changes no speed.
    std::memset(region_.data(), 0x11, static_cast<size_t>(kRegionBytes));
  }
  const std::byte* next(int64_t bytes) {
    if (at_ + bytes > kRegionBytes) at_ = 0;
    const std::byte* from = region_.data() + at_;
    at_ += (bytes + 63) / 64 * 64;
    return from;
  }
  WeightView matrix(DType type, int64_t rows, int64_t cols) {
    WeightView w{type, rows, cols, nullptr, 0, Layout::kPacked};
    w.data = next(w.bytes());
    return w;
  }
  // As pack_model() places it.
  ExpertWeights expert(DType type) {
    ExpertWeights e{{type, kHidden, kWidth, nullptr, 0, Layout::kPacked}, {}, {}};
    const int64_t run = e.gate.run_bytes();
    e.gate.data = next(2 * e.gate.bytes());
    e.gate.stride_bytes = 2 * run;
    e.up = e.gate;
    e.up.data += run;
    e.down = matrix(type, kWidth, kHidden);
    return e;
  }

 private:
  HostRegion region_;
  int64_t at_ = 0;
};

class Measurement {
 public:
  explicit Measurement(ThreadPool& pool) : pool_(pool) {}

  // Median seconds of kExperts experts with n tokens each.
  double experts(int64_t n) {
    rows_.resize(static_cast<size_t>(kExperts * n));
    for (size_t i = 0; i < rows_.size(); ++i) rows_[i] = {static_cast<int32_t>(i), 1.0F};
    resize(kExperts * n);
    hidden_.resize(static_cast<size_t>(kExperts * n * kHidden));
    return median_of(kBudget, [&] {
      std::array<ExpertCall, kExperts> calls;
      for (int64_t e = 0; e < kExperts; ++e) {
        calls[static_cast<size_t>(e)] = {
            weights_.expert(DType::kQ4_K),
            std::span(rows_).subspan(static_cast<size_t>(e * n), static_cast<size_t>(n))};
      }
      return seconds_of([&] {
        expert_ffn(calls, x_.data(), kExperts * n, kWidth, y_.data(), hidden_.data(),
                   pool_.workspace(), pool_);
      });
    });
  }

  // Seconds of one product with a [kHidden, kWidth] matrix; onednn: use_onednn_from().
  double product(DType type, int64_t n, int64_t onednn = kOnednnNever) {
    resize(n);
    use_onednn_from(onednn);
    const MatmulPart part{weights_.matrix(type, kHidden, kWidth), nullptr, y_.data()};
    const double seconds = seconds_of([&] {
      matmul({&part, 1}, x_.data(), n, pool_.workspace(), pool_);
    });
    use_onednn_from(kOnednnNever);
    return seconds;
  }

  double first_task() {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return seconds_of([&] { pool_.run(4 * pool_.size(), [](int64_t) {}); });
  }

 private:
  void resize(int64_t n) {
    x_.resize(static_cast<size_t>(n * kWidth), 0.25F);
    y_.resize(std::max(y_.size(), static_cast<size_t>(n * kWidth)));
  }

  ThreadPool& pool_;
  ColdWeights weights_;
  std::vector<ExpertRow> rows_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::vector<float> hidden_;
};

// The least number of tokens from which on oneDNN is faster at each that is tried; 0: at none.
int64_t onednn_crossing(Measurement* measure) {
  constexpr int64_t kTried[] = {128, 64, 32};
  int64_t from = 0;
  for (const int64_t n : kTried) {
    const double gain = median_of(kBudget, [&] {
      const double own = measure->product(DType::kBF16, n);
      return own / measure->product(DType::kBF16, n, 1);
    });
    if (gain < kLeastGain) break;
    from = n;
  }
  return from;
}

}  // namespace

CpuRates measure_cpu(ThreadPool& pool, const std::function<void(const std::string&)>& progress) {
  CpuRates rates;
  Measurement measure(pool);
  progress("memory");
  const auto f32_bytes = static_cast<double>(dtype_bytes(DType::kF32, kHidden * kWidth));
  const auto expert_bytes =
      static_cast<double>(kExperts * 3 * dtype_bytes(DType::kQ4_K, kHidden * kWidth));
  rates.dram_gbps =
      f32_bytes / median_of(kBudget, [&] { return measure.product(DType::kF32, 1); }) / 1e9;
  progress("experts with one token");
  rates.read_gbps = expert_bytes / measure.experts(1) / 1e9;
  rates.dram_gbps = std::max(rates.dram_gbps, rates.read_gbps);
  progress("experts with many tokens");
  constexpr int64_t kMany = 64;
  const double flops = 2.0 * 3 * static_cast<double>(kExperts * kMany * kHidden * kWidth);
  rates.gflops = flops / measure.experts(kMany) / 1e9;
  progress("waking workers");
  rates.first_expert_us = median_of(kBudget, [&] { return measure.first_task(); }) * 1e6;
  if (const char* why = onednn_missing()) {
    rates.onednn = why;
    return rates;
  }
  rates.onednn = onednn_version();
  progress("oneDNN");
  if (x_kind(DType::kBF16) == XKind::kBf16) rates.onednn_bf16_tokens = onednn_crossing(&measure);
  return rates;
}

}  // namespace tandem
