#include "runtime/device/sim_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "kernels/check.h"
#ifdef TANDEM_EMULATED_KERNELS
#include "kernels/gpu/emulation/emulation.h"
#include "kernels/gpu/gpu_ops.h"
#endif
#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

constexpr int64_t kAlignment = 256;

std::byte* reserve(int64_t bytes, int protection) {
  void* at = mmap(nullptr, static_cast<size_t>(bytes), protection,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    throw MemoryError(
        fmt::format("simulated GPU: cannot reserve {} of address space", bytes_text(bytes)));
  }
  return static_cast<std::byte*>(at);
}

}  // namespace

SimDevice::SimDevice(const MachineProfile& profile, int64_t vram_bytes, SimKernels kernels)
    : ModelledDevice(
          {"sim", "simulated GPU, times modelled for " + profile.name, vram_bytes, false, true},
          profile) {
  if (kernels == SimKernels::kEmulated) {
    info_.name = "sim-cuda";
    info_.description += ", CUDA kernels emulated";
#ifdef TANDEM_EMULATED_KERNELS
    emulation_ = std::make_shared<vgpu::Emulation>();
#else
    throw ConfigError("--device sim-cuda: CUDA kernels are emulated on x86-64 only");
#endif
  }
  arena_bytes_ = std::max<int64_t>(vram_bytes, kAlignment);
  addresses_ = reserve(arena_bytes_, PROT_NONE);
  memory_ = reserve(arena_bytes_, PROT_READ | PROT_WRITE);
}

SimDevice::~SimDevice() {
  munmap(addresses_, static_cast<size_t>(arena_bytes_));
  munmap(memory_, static_cast<size_t>(arena_bytes_));
}

const gpu::GpuOps* SimDevice::kernels() const {
#ifdef TANDEM_EMULATED_KERNELS
  if (emulation_) return &gpu::kEmulatedOps;
#endif
  return nullptr;
}

DeviceAddr SimDevice::alloc(int64_t bytes, const char* tag) {
  // What cannot fit is not rounded up: that could overflow.
  const int64_t size =
      bytes > info_.vram_bytes
          ? bytes
          : std::max<int64_t>((bytes + kAlignment - 1) / kAlignment, 1) * kAlignment;
  int64_t at = 0;  // first fit
  for (const auto& [offset, length] : blocks_) {
    if (offset - at >= size) break;
    at = offset + length;
  }
  if (size > info_.vram_bytes - at) {
    throw MemoryError(fmt::format(
        "{}: {} do not fit into the {} of the {} GPU, {} of which are in use", tag,
        bytes_text(size), bytes_text(info_.vram_bytes), info_.name, bytes_text(used_bytes_)));
  }
  blocks_[at] = size;
  used_bytes_ += size;
  return {addresses_ + at};
}

void SimDevice::free(DeviceAddr at) {
  const auto it = blocks_.find(at.at - addresses_);
  TANDEM_CHECK(it != blocks_.end(), "%p was not allocated here", static_cast<void*>(at.at));
  used_bytes_ -= it->second;
  blocks_.erase(it);
}

std::byte* SimDevice::backing(DeviceAddr at, int64_t bytes) const {
  const int64_t offset = at.at - addresses_;
  auto it = blocks_.upper_bound(offset);
  TANDEM_CHECK(it != blocks_.begin(), "%p is not device memory", static_cast<void*>(at.at));
  it = std::prev(it);
  TANDEM_CHECK(offset + bytes <= it->first + it->second,
               "%lld bytes at %p reach past their allocation", static_cast<long long>(bytes),
               static_cast<void*>(at.at));
  return memory_ + offset;
}

// The copy engine starts a copy that follows another at once; between kernels each pays.
double SimDevice::copy_latency_us(Stream stream) const {
  const bool follows = stream == Stream::kCopy && clock_.end_us(stream) > clock_.host_us();
  return follows ? 0 : model_.profile().link.latency_us;
}

Timepoint SimDevice::copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) {
  std::memcpy(backing(to, bytes), from, static_cast<size_t>(bytes));
  copied_bytes_ += bytes;
  return clock_.run(stream, copy_latency_us(stream) + model_.h2d_us(bytes));
}

Timepoint SimDevice::copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                         const RowCopy& copy) {
  for (int64_t r = 0; r < copy.rows; ++r) {
    std::memcpy(backing(to + r * copy.to_stride, copy.row_bytes),
                static_cast<const std::byte*>(from) + r * copy.from_stride,
                static_cast<size_t>(copy.row_bytes));
  }
  const int64_t bytes = copy.rows * copy.row_bytes;
  copied_bytes_ += bytes;
  return clock_.run(stream, copy_latency_us(stream) + model_.h2d_us(bytes));
}

Timepoint SimDevice::copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) {
  std::memcpy(to, backing(from, bytes), static_cast<size_t>(bytes));
  return clock_.run(stream, copy_latency_us(stream) + model_.d2h_us(bytes));
}

Timepoint SimDevice::launch(Stream stream, const KernelCall& call) {
  for (const Touch& touch : call.touches) {
    if (touch.bytes > 0) backing(touch.at, touch.bytes);  // nothing is nowhere: an absent bias
  }
  call.body(KernelScope(call.touches, memory_ - addresses_, emulation_.get()));
  return clock_.run(stream, model_.gpu_us(call.bytes, call.flops));
}

}  // namespace tandem
