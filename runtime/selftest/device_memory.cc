#include "runtime/selftest/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/packed.h"
#include "runtime/error.h"

namespace tandem {
namespace {

constexpr int64_t kGuard = 256;
constexpr uint8_t kGuardByte = 0xA5;
constexpr const char* kTag = "selftest";

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
  blocks_.push_back({device_.alloc(bytes, kTag), bytes, 0, bytes});
  return blocks_.back().at;
}

DeviceAddr DeviceMemory::write(const void* from, int64_t bytes, int64_t shift) {
  const int64_t begin = kGuard + shift;
  std::vector<uint8_t> all(static_cast<size_t>(begin + bytes + kGuard), kGuardByte);
  if (bytes > 0) std::memcpy(all.data() + begin, from, static_cast<size_t>(bytes));
  const auto size = static_cast<int64_t>(all.size());
  blocks_.push_back({device_.alloc(size, kTag), size, begin, begin + bytes});
  const DeviceAddr at = blocks_.back().at;
  device_.host_wait(device_.copy_to_device(Stream::kCompute, at, all.data(), size));
  return at + begin;
}

void DeviceMemory::read(DeviceAddr from, int64_t bytes, void* to) {
  device_.host_wait(device_.copy_to_host(Stream::kCompute, to, from, bytes));
}

DeviceMatrix DeviceMemory::put(const RandomMatrix& m) {
  std::vector<uint8_t> bytes(m.packed.size());
  std::memcpy(bytes.data(), m.packed.data(), bytes.size());
  return {put(bytes, 4), packed_bytes(m.type, m.cols), static_cast<int>(m.rows),
          static_cast<int>(m.cols)};
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

void DeviceMemory::check_guards(Comparison* comparison) {
  for (const Block& block : blocks_) {
    std::vector<uint8_t> all(static_cast<size_t>(block.bytes));
    read(block.at, block.bytes, all.data());
    const auto whole = [](auto from, auto to) {
      return std::all_of(from, to, [](uint8_t b) { return b == kGuardByte; });
    };
    comparison->require(
        whole(all.begin(), all.begin() + block.begin),
        fmt::format("bytes before an array of {} were written", block.end - block.begin));
    comparison->require(
        whole(all.begin() + block.end, all.end()),
        fmt::format("bytes behind an array of {} were written", block.end - block.begin));
  }
}

}  // namespace tandem
