// What the tests of GPU kernels share: every way in which the emulation runs them, and buffers that
// stand for device memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/gpu/emulation/emulation.h"
#include "kernels/gpu/gpu_ops.h"
#include "kernels/packed.h"
#include "tests/kernels/kernel_testing.h"

namespace tandem::testing {

struct Way {
  std::string name;
  vgpu::EmulationOptions options;
};

// Three orders of threads and blocks, asynchronous copies late and early.
inline std::vector<Way> all_ways() {
  std::vector<Way> out;
  const auto add = [&](const char* name, vgpu::Order order, bool early) {
    vgpu::EmulationOptions options;
    options.order = order;
    options.early_copies = early;
    out.push_back({std::string(name) + (early ? ", early copies" : ", late copies"), options});
  };
  for (const bool early : {false, true}) {
    add("forward", vgpu::Order::kForward, early);
    add("reverse", vgpu::Order::kReverse, early);
    add("random", vgpu::Order::kRandom, early);
  }
  return out;
}

// For what takes long: under sanitizers, whose findings depend little on the order, two of them.
inline std::vector<Way> few_ways_if_sanitized() {
  std::vector<Way> ways = all_ways();
#ifdef TANDEM_SANITIZED
  ways = {ways.front(), ways.back()};
#endif
  return ways;
}

// Bytes that are aligned as the device allocates them; ASan knows where they end.
class DeviceBytes {
 public:
  explicit DeviceBytes(int64_t bytes) : bytes_(bytes) {
    constexpr size_t kAlign = 256;
    void* at = nullptr;
    if (posix_memalign(&at, kAlign, static_cast<size_t>(std::max<int64_t>(bytes, 1))) != 0) {
      throw std::bad_alloc();
    }
    at_.reset(static_cast<uint8_t*>(at));
    std::memset(at, 0, static_cast<size_t>(bytes));
  }
  uint8_t* data() { return at_.get(); }
  const uint8_t* data() const { return at_.get(); }
  int64_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* at) const { std::free(at); }
  };
  std::unique_ptr<uint8_t[], Free> at_;
  int64_t bytes_;
};

// A matrix as it lies in device memory: packed, its rows filled up to whole groups.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(const WeightView& w)
      : w_(w),
        group_bytes_(packed_bytes(w.type, w.cols)),
        bytes_((w.rows + kGroupRows - 1) / kGroupRows * group_bytes_) {
    for (int64_t r = 0; r < w.rows; r += kGroupRows) {
      pack_group(w, r, std::min(kGroupRows, w.rows - r), 0, w.cols,
                 reinterpret_cast<std::byte*>(bytes_.data() + r / kGroupRows * group_bytes_));
    }
  }
  gpu::PackedWeights weights() const {
    return {bytes_.data(), group_bytes_, static_cast<int>(w_.rows), static_cast<int>(w_.cols)};
  }

 private:
  WeightView w_;
  int64_t group_bytes_;
  DeviceBytes bytes_;
};

// x as the type wants it, in device memory.
struct PackedRowsOnGpu {
  XKind kind;
  int stride;
  DeviceBytes bytes;
  gpu::PackedX view{};

  PackedRowsOnGpu(vgpu::Emulation* emulation, DType type, const std::vector<float>& x, int64_t cols)
      : kind(rounded_x_kind(type)),
        stride(static_cast<int>(kind == XKind::kFloat ? cols * 4 : x_bytes(kind, cols))),
        bytes(static_cast<int64_t>(x.size()) / cols * stride) {
    const auto n = static_cast<int>(static_cast<int64_t>(x.size()) / cols);
    if (kind == XKind::kFloat) {
      std::memcpy(bytes.data(), x.data(), x.size() * sizeof(float));
    } else {
      gpu::kEmulatedOps.pack_x(emulation, kind, x.data(), n, static_cast<int>(cols), bytes.data(),
                               stride);
    }
    view = {bytes.data(), stride, static_cast<int>(cols)};
  }
};

}  // namespace tandem::testing
