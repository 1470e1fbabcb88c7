#include "runtime/calibrate/cpu_work.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <span>
#include <thread>

#include "kernels/check.h"
#include "kernels/dense.h"
#include "kernels/packed.h"

namespace tandem {
namespace {

double seconds_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

ColdWeights::ColdWeights(int64_t bytes) : region_(bytes) {
  // The same small number in every type: what the values are changes no speed.
  std::memset(region_.data(), 0x11, static_cast<size_t>(bytes));
}

const std::byte* ColdWeights::next(int64_t bytes) {
  TANDEM_CHECK(bytes <= region_.size(), "%lld bytes of weights", static_cast<long long>(bytes));
  if (at_ + bytes > region_.size()) at_ = 0;
  const std::byte* from = region_.data() + at_;
  at_ += (bytes + 63) / 64 * 64;
  return from;
}

WeightView ColdWeights::matrix(DType type, int64_t rows, int64_t cols) {
  WeightView w{type, rows, cols, nullptr, 0, Layout::kPacked};
  w.data = next(w.bytes());
  return w;
}

ExpertWeights ColdWeights::expert(DType type, int64_t hidden, int64_t width) {
  ExpertWeights e{{type, hidden, width, nullptr, 0, Layout::kPacked}, {}, {}};
  const int64_t run = e.gate.run_bytes();
  e.gate.data = next(2 * e.gate.bytes());
  e.gate.stride_bytes = 2 * run;
  e.up = e.gate;
  e.up.data += run;
  e.down = matrix(type, width, hidden);
  return e;
}

CpuWork::CpuWork(ThreadPool& pool, int64_t region_bytes) : pool_(pool), weights_(region_bytes) {}

double CpuWork::experts(int64_t n) {
  rows_.resize(static_cast<size_t>(kExperts * n));
  for (size_t i = 0; i < rows_.size(); ++i) rows_[i] = {static_cast<int32_t>(i), 1.0F};
  resize(kExperts * n);
  hidden_.resize(static_cast<size_t>(kExperts * n * kHidden));
  std::array<ExpertCall, kExperts> calls;
  for (int64_t e = 0; e < kExperts; ++e) {
    calls[static_cast<size_t>(e)] = {
        weights_.expert(DType::kQ4_K, kHidden, kWidth),
        std::span(rows_).subspan(static_cast<size_t>(e * n), static_cast<size_t>(n))};
  }
  return seconds_of([&] {
    expert_ffn(calls, x_.data(), kExperts * n, kWidth, y_.data(), hidden_.data(), pool_.workspace(),
               pool_);
  });
}

double CpuWork::product(DType type, int64_t n, int64_t onednn) {
  resize(n);
  use_onednn_from(onednn);
  const MatmulPart part{weights_.matrix(type, kHidden, kWidth), nullptr, y_.data()};
  const double seconds = seconds_of([&] {
    matmul({&part, 1}, x_.data(), n, pool_.workspace(), pool_);
  });
  use_onednn_from(kOnednnNever);
  return seconds;
}

double CpuWork::first_task() {
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return seconds_of([&] { pool_.run(4 * pool_.size(), [](int64_t) {}); });
}

int64_t CpuWork::expert_bytes() {
  return kExperts * 3 * dtype_bytes(DType::kQ4_K, kHidden * kWidth);
}

void CpuWork::resize(int64_t n) {
  x_.resize(static_cast<size_t>(n * kWidth), 0.25F);
  y_.resize(std::max(y_.size(), static_cast<size_t>(n * kWidth)));
}

}  // namespace tandem
