#include "runtime/device/plan_device.h"

#include <algorithm>

#include "kernels/check.h"

namespace tandem {
namespace {

constexpr int64_t kAlignment = 256;
// No address is null, and none is one of the program's.
constexpr uintptr_t kFirst = uintptr_t{1} << 12;

int64_t rounded(int64_t bytes, int64_t to) {
  return std::max<int64_t>((bytes + to - 1) / to, 1) * to;
}

}  // namespace

PlanDevice::PlanDevice(const Device& planned, const MachineProfile& profile)
    : ModelledDevice(planned.info(), profile),
      kernels_(planned.kernels()),
      next_(reinterpret_cast<std::byte*>(kFirst)) {
  info_.counts_only = true;
}

std::byte* PlanDevice::add(int64_t bytes, const char* tag, Blocks* to) {
  std::byte* const at = next_;
  (*to)[at] = {bytes, tag};
  next_ += rounded(bytes, kAlignment);
  return at;
}

DeviceAddr PlanDevice::alloc(int64_t bytes, const char* tag) {
  const int64_t counted = info_.granularity > 1 ? rounded(bytes, info_.granularity) : bytes;
  used_bytes_ += counted;
  return {add(counted, tag, &device_)};
}

void PlanDevice::free(DeviceAddr at) {
  const auto it = device_.find(at.at);
  TANDEM_CHECK(it != device_.end(), "%p was not allocated here", static_cast<void*>(at.at));
  used_bytes_ -= it->second.bytes;
  device_.erase(it);
}

void* PlanDevice::alloc_host(int64_t bytes, const char* tag) { return add(bytes, tag, &locked_); }

void PlanDevice::free_host(void* at) noexcept { locked_.erase(at); }

void PlanDevice::host_buffer(int64_t bytes, const char* tag) { add(bytes, tag, &host_); }

std::vector<TaggedBytes> PlanDevice::total(const Blocks& blocks) {
  std::vector<TaggedBytes> all;
  for (const auto& entry : blocks) {
    const Block& block = entry.second;
    const auto known = std::find_if(all.begin(), all.end(),
                                    [&](const TaggedBytes& one) { return one.tag == block.tag; });
    if (known == all.end()) {
      all.push_back({block.tag, block.bytes});
    } else {
      known->bytes += block.bytes;
    }
  }
  return all;
}

}  // namespace tandem
