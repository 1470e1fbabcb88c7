#include "runtime/device/device.h"

#include "kernels/check.h"

namespace tandem {

std::byte* KernelScope::resolve(DeviceAddr at, int64_t bytes, bool write) const {
  for (const Touch& touch : touches_) {
    if ((touch.write || !write) && at.at >= touch.at.at &&
        at.at + bytes <= touch.at.at + touch.bytes) {
      return at.at + offset_;
    }
  }
  TANDEM_CHECK(false, "a kernel %s %lld bytes at %p, which its launch did not declare",
               write ? "writes" : "reads", static_cast<long long>(bytes),
               static_cast<void*>(at.at));
  return nullptr;
}

const std::byte* KernelScope::read(DeviceAddr at, int64_t bytes) const {
  return resolve(at, bytes, false);
}

std::byte* KernelScope::write(DeviceAddr at, int64_t bytes) const {
  return resolve(at, bytes, true);
}

WeightView KernelScope::read(const WeightView& device_view) const {
  WeightView view = device_view;
  // A WeightView's pointer is const; the address is only compared and shifted here.
  view.data = resolve({const_cast<std::byte*>(device_view.data)}, device_view.span_bytes(), false);
  return view;
}

}  // namespace tandem
