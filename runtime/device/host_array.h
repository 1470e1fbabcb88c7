// An array in host memory that a device's copies use (Device::alloc_host).
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "runtime/device/device.h"

namespace tandem {

template <typename T>
class HostArray {
  static_assert(std::is_trivial_v<T>);

 public:
  HostArray() = default;
  // HostMemoryError. The device outlives this.
  HostArray(Device& device, int64_t n, const char* tag)
      : device_(&device),
        at_(static_cast<T*>(device.alloc_host(n * static_cast<int64_t>(sizeof(T)), tag))),
        n_(n) {}
  HostArray(HostArray&& other) noexcept { swap(other); }
  HostArray& operator=(HostArray&& other) noexcept {
    HostArray old = std::move(other);
    swap(old);
    return *this;
  }
  HostArray(const HostArray&) = delete;
  HostArray& operator=(const HostArray&) = delete;
  ~HostArray() {
    if (at_ != nullptr) device_->free_host(at_);
  }

  T* data() { return at_; }
  const T* data() const { return at_; }
  int64_t size() const { return n_; }

 private:
  void swap(HostArray& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(at_, other.at_);
    std::swap(n_, other.n_);
  }

  Device* device_ = nullptr;
  T* at_ = nullptr;
  int64_t n_ = 0;
};

}  // namespace tandem
