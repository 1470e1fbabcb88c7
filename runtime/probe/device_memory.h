// Device memory of one check or one measurement. What is written has guards before and behind it,
// which kernels must leave as they are; raw() has none and is undefined.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/gpu/gpu_ops.h"
#include "runtime/device/device.h"
#include "runtime/probe/packed_activations.h"

namespace tandem {

// [n] in device memory; kernels get it only while they are launched.
template <typename T>
struct DeviceArray {
  DeviceAddr at;
  int64_t n = 0;
  T* in(const KernelScope& scope) const { return scope.write_as<T>(at, n); }
};

// Packed weights, 4-byte aligned and no more, as in an expert's slot. A whole matrix, or
// its leading columns and whole groups of rows.
struct DeviceMatrix {
  DeviceArray<uint8_t> bytes;
  int64_t group_stride = 0;
  int rows = 0;
  int cols = 0;
  gpu::PackedWeights in(const KernelScope& scope) const {
    return {bytes.in(scope), group_stride, rows, cols};
  }
};

struct DeviceActivations {
  DeviceArray<uint8_t> bytes;
  int stride = 0;
  int cols = 0;
  gpu::PackedX in(const KernelScope& scope) const { return {bytes.in(scope), stride, cols}; }
};

// What results hold before: NaN, so that what is left out is noticed.
inline constexpr uint8_t kUntouched = 0xFF;

// Owns its allocations; the device outlives it. MemoryError, DeviceError.
class DeviceMemory {
 public:
  // tag: of what is allocated; lives as long as this.
  DeviceMemory(Device& device, const char* tag) : device_(device), tag_(tag) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // A copy of `values`, `shift` bytes off a 256-byte aligned address.
  template <typename T>
  DeviceArray<T> put(const std::vector<T>& values, int64_t shift = 0) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto n = static_cast<int64_t>(values.size());
    return {write(values.data(), n * static_cast<int64_t>(sizeof(T)), shift), n};
  }
  DeviceActivations put(const PackedActivations& x);
  // Room for results, all bytes kUntouched.
  template <typename T>
  DeviceArray<T> room(int64_t n, int64_t shift = 0) {
    const std::vector<uint8_t> fill(static_cast<size_t>(n) * sizeof(T), kUntouched);
    return {write(fill.data(), static_cast<int64_t>(fill.size()), shift), n};
  }
  // Room of undefined contents and without guards, for what is only timed.
  template <typename T>
  DeviceArray<T> raw(int64_t n) {
    return {take(n * static_cast<int64_t>(sizeof(T))), n};
  }

  // Enqueues what `body` launches, with all of this memory declared, and waits for it.
  void run(const char* name, const std::function<void(const KernelScope&)>& body);

  template <typename T>
  std::vector<T> get(const DeviceArray<T>& array) {
    std::vector<T> values(static_cast<size_t>(array.n));
    read(array.at, array.n * static_cast<int64_t>(sizeof(T)), values.data());
    return values;
  }
  // A sentence for each guard that is no longer what it was.
  std::vector<std::string> broken_guards();

 private:
  struct Block {
    DeviceAddr at;
    int64_t bytes;  // with guards
    int64_t begin;  // of what lies between them
    int64_t end;
  };
  DeviceAddr take(int64_t bytes);
  DeviceAddr write(const void* from, int64_t bytes, int64_t shift);
  void read(DeviceAddr from, int64_t bytes, void* to);

  Device& device_;
  const char* tag_;
  std::vector<Block> blocks_;
};

}  // namespace tandem
