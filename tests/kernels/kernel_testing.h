// What the kernel tests share: random weights, float64 references, and every way to run a kernel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernels/dense.h"
#include "kernels/packed.h"
#include "kernels/parallel.h"
#include "kernels/quant.h"
#include "kernels/simd.h"
#include "kernels/tensor.h"

namespace tandem::testing {

inline const std::vector<DType> kAllTypes = {DType::kF32,  DType::kF16,  DType::kBF16,
                                             DType::kQ4_0, DType::kQ5_0, DType::kQ8_0,
                                             DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// The instruction sets that this machine can run.
inline std::vector<const SimdOps*> all_isas() {
  std::vector<const SimdOps*> out;
  for (const char* name : {"scalar", "avx2", "avx512", "avx512-bf16", "avx512-amx"}) {
    if (const SimdOps* ops = find_simd(name)) out.push_back(ops);
  }
  return out;
}

// One that rounds activations, as GPU kernels do; nullptr where this machine has none.
inline const SimdOps* rounding_isa() {
  for (const SimdOps* ops : all_isas()) {
    if (ops->pack_x != nullptr) return ops;
  }
  return nullptr;
}

// Forces an instruction set while it lives.
class IsaScope {
 public:
  explicit IsaScope(const SimdOps* ops) { override_simd(ops); }
  ~IsaScope() { override_simd(nullptr); }
  IsaScope(const IsaScope&) = delete;
  IsaScope& operator=(const IsaScope&) = delete;
};

inline void reverse_for(int64_t n_tasks, Task task) {
  for (int64_t i = n_tasks; i-- > 0;) task(i);
}

inline constexpr int64_t kThreads = 3;

// Task i runs on thread i % kThreads.
inline void threads_for(int64_t n_tasks, Task task) {
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([=] {
      for (int64_t i = thread; i < n_tasks; i += kThreads) task(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline std::vector<float> random_floats(std::mt19937& rng, int64_t n, float scale = 1.0F) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = normal(rng);
  return out;
}

// Byte offsets of the f16 scales in a block; empty for unblocked types.
inline std::vector<int> scale_offsets(DType type) {
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      return {0};
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {};
  }
}

// A random matrix that owns its bytes, which start `misalign` bytes off an aligned address.
class RandomWeights {
 public:
  RandomWeights(std::mt19937& rng, DType type, int64_t rows, int64_t cols, int misalign = 0)
      : bytes_(static_cast<size_t>(dtype_bytes(type, cols) * rows + misalign)) {
    view_ = {type, rows, cols, bytes_.data() + misalign};
    std::byte* data = bytes_.data() + misalign;
    const std::vector<float> values = random_floats(rng, rows * cols);
    const DTypeInfo& info = dtype_info(type);
    if (info.block_elems > 1) {
      fill_blocks(rng, type, data);
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &values[i], sizeof bits);
      if (type == DType::kF16) bits = f32_to_f16(values[i]);
      if (type == DType::kBF16) bits >>= 16;
      std::memcpy(data + i * static_cast<size_t>(info.block_bytes), &bits,
                  static_cast<size_t>(info.block_bytes));
    }
  }

  const WeightView& view() const { return view_; }
  std::byte* data() { return bytes_.data(); }

  // [rows, cols] f32 by the scalar path, which quant_test.cc holds against stored fixtures.
  std::vector<float> dequantized() const {
    std::vector<float> out(static_cast<size_t>(view_.rows * view_.cols));
    kScalarOps.dequantize(view_.type, view_.data, out.data(), view_.rows * view_.cols);
    return out;
  }

 private:
  void fill_blocks(std::mt19937& rng, DType type, std::byte* data) {
    const DTypeInfo& info = dtype_info(type);
    for (int64_t i = 0; i < view_.bytes(); ++i) data[i] = static_cast<std::byte>(rng() & 0xFF);
    for (int64_t b = 0; b < view_.bytes(); b += info.block_bytes) {
      for (const int offset : scale_offsets(type)) {
        const float scale = 0.001F * (1.0F + static_cast<float>(rng() % 100) / 10.0F);
        const uint16_t half = f32_to_f16(rng() % 2 == 0 ? scale : -scale);
        std::memcpy(data + b + offset, &half, sizeof half);
      }
    }
  }

  std::vector<std::byte> bytes_;
  WeightView view_;
};

// Activations as products see them: rounded by the rule that packed.h states, in plain float64
// here. [n] f32 values, n a multiple of the block.
inline std::vector<float> as_packed(XKind kind, const float* x, int64_t n) {
  std::vector<float> out(x, x + n);
  if (kind == XKind::kFloat) return out;
  if (kind == XKind::kBf16) {
    for (float& v : out) {
      int exponent = 0;
      std::frexp(v, &exponent);
      const int last = std::max(exponent - 8, -133);  // eight bits stay, fewer of denormals
      v = std::ldexp(std::nearbyint(std::ldexp(v, -last)), last);
    }
    return out;
  }
  const int64_t block = kind == XKind::kQ8 ? 32 : 256;
  for (int64_t b = 0; b < n; b += block) {
    float largest = 0;
    for (int64_t i = b; i < b + block; ++i) largest = std::max(largest, std::abs(x[i]));
    if (largest < 1e-36F) {
      std::fill_n(out.begin() + b, block, 0.0F);
      continue;
    }
    const float inverse = 127.0F / largest;
    for (int64_t i = b; i < b + block; ++i) {
      out[static_cast<size_t>(i)] = static_cast<float>(
          static_cast<double>(std::nearbyint(x[i] * inverse)) * static_cast<double>(largest) / 127);
    }
  }
  return out;
}

inline std::vector<float> as_seen_by(DType type, const float* x, int64_t n) {
  return as_packed(x_kind(type), x, n);
}

// sum a[i] b[i] in float64, and sum |a[i] b[i]|, in whose units float32 errors are bounded.
struct Dot {
  double sum = 0;
  double magnitude = 0;
};

inline Dot reference_dot(const float* a, const float* b, int64_t n) {
  Dot out;
  for (int64_t i = 0; i < n; ++i) {
    const double product = static_cast<double>(a[i]) * static_cast<double>(b[i]);
    out.sum += product;
    out.magnitude += std::abs(product);
  }
  return out;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// A packed copy that owns its bytes, off any alignment.
class Packed {
 public:
  explicit Packed(const WeightView& w) : bytes_(static_cast<size_t>(w.bytes()) + 1), view_(w) {
    view_.data = bytes_.data() + 1;
    view_.layout = Layout::kPacked;
    for (int64_t r = 0; r < w.rows; r += kGroupRows) {
      pack_group(w, r, kGroupRows, 0, w.cols, bytes_.data() + 1 + r * w.row_bytes());
    }
  }
  const WeightView& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  WeightView view_;
};

// matmul() of one matrix with tokens x: [n, w.cols]; the result: [n, w.rows].
inline std::vector<float> product(const WeightView& w, const std::vector<float>& x,
                                  ParallelFor parallel = serial_for) {
  const int64_t n = static_cast<int64_t>(x.size()) / w.cols;
  std::vector<float> y(static_cast<size_t>(n * w.rows));
  Workspace scratch;
  const MatmulPart part{w, nullptr, y.data()};
  matmul({&part, 1}, x.data(), n, scratch, parallel);
  return y;
}

}  // namespace tandem::testing
