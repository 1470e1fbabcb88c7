#include "runtime/probe/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr int64_t kGuard = 256;
constexpr uint8_t kGuardByte = 0xA5;

}  // namespace

DeviceMemory::~DeviceMemory() {
  for (const Block& block : blocks_) {
    try {
      device_.free(block.at);
    } catch (const Error&) {  // of a device that is lost, which was said before
    }
  }
}

DeviceAddr DeviceMemory::take(int64_t bytes) {
  blocks_.push_back({device_.alloc(bytes, tag_), bytes, 0, bytes});
  return blocks_.back().at;
}

DeviceAddr DeviceMemory::write(const void* from, int64_t bytes, int64_t shift) {
  const int64_t begin = kGuard + shift;
  std::vector<uint8_t> all(static_cast<size_t>(begin + bytes + kGuard), kGuardByte);
  if (bytes > 0) std::memcpy(all.data() + begin, from, static_cast<size_t>(bytes));
  const auto size = static_cast<int64_t>(all.size());
  blocks_.push_back({device_.alloc(size, tag_), size, begin, begin + bytes});
  const DeviceAddr at = blocks_.back().at;
  device_.host_wait(device_.copy_to_device(Stream::kCompute, at, all.data(), size));
  return at + begin;
}

void DeviceMemory::read(DeviceAddr from, int64_t bytes, void* to) {
  device_.host_wait(device_.copy_to_host(Stream::kCompute, to, from, bytes));
}

DeviceActivations DeviceMemory::put(const PackedActivations& x) {
  return {put(x.bytes), static_cast<int>(x.stride), static_cast<int>(x.cols)};
}

void DeviceMemory::run(const char* name, const std::function<void(const KernelScope&)>& body) {
  std::vector<Touch> touches;
  for (const Block& block : blocks_) touches.push_back({block.at, block.bytes, true});
  const KernelCall call{name, touches, 0, 0, [&body](const KernelScope& scope) { body(scope); },
                        true};
  device_.host_wait(device_.launch(Stream::kCompute, call));
}

std::vector<std::string> DeviceMemory::broken_guards() {
  std::vector<std::string> broken;
  for (const Block& block : blocks_) {
    std::vector<uint8_t> all(static_cast<size_t>(block.bytes));
    read(block.at, block.bytes, all.data());
    const auto look = [&](auto from, auto to, const char* where) {
      if (std::all_of(from, to, [](uint8_t b) { return b == kGuardByte; })) return;
      broken.push_back(
          fmt::format("bytes {} an array of {} were written", where, block.end - block.begin));
    };
    look(all.begin(), all.begin() + block.begin, "before");
    look(all.begin() + block.end, all.end(), "behind");
  }
  return broken;
}

}  // namespace tandem
