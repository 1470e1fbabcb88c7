#include "runtime/device/device.h"

#include <fmt/format.h>

#include <new>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/words.h"

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

void* Device::alloc_host(int64_t bytes, const char* tag) {
  constexpr std::align_val_t kAlign{64};
  void* at = ::operator new(static_cast<size_t>(bytes), kAlign, std::nothrow);
  if (at == nullptr) {
    throw HostMemoryError(
        fmt::format("{}: cannot allocate {} of host memory", tag, bytes_text(bytes)));
  }
  return at;
}

void Device::free_host(void* at) noexcept { ::operator delete (at, std::align_val_t{64}); }

void Device::begin_graph() { TANDEM_CHECK(false, "%s keeps no graphs", info().name.c_str()); }

Graph Device::end_graph() {
  TANDEM_CHECK(false, "%s keeps no graphs", info().name.c_str());
  return {};
}

Timepoint Device::run_graph(Graph graph, int64_t /*more_bytes*/) {
  TANDEM_CHECK(false, "%s keeps no graphs, %u", info().name.c_str(), graph.id);
  return {};
}

WeightView KernelScope::read(const WeightView& device_view) const {
  WeightView view = device_view;
  // A WeightView's pointer is const; the address is only compared and shifted here.
  view.data = resolve({const_cast<std::byte*>(device_view.data)}, device_view.span_bytes(), false);
  return view;
}

}  // namespace tandem
