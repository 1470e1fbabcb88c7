#include "runtime/device/cpu_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

// From here on huge pages are asked for, which take memory 2 MiB at a time.
constexpr int64_t kLarge = int64_t{4} << 20;

}  // namespace

CpuDevice::CpuDevice(const MachineProfile& profile)
    : ModelledDevice({"cpu", "host memory, no GPU", 0, true, false}, profile) {}

CpuDevice::~CpuDevice() {
  for (const Block& block : blocks_) munmap(block.at, static_cast<size_t>(block.bytes));
}

DeviceAddr CpuDevice::alloc(int64_t bytes, const char* tag) {
  // Fresh pages: they cost memory only once touched, so a long context is free until it is used.
  const int64_t size = std::max<int64_t>(bytes, 1);
  void* at = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    throw MemoryError(fmt::format("{}: cannot allocate {} of host memory", tag, bytes_text(bytes)));
  }
  // May fail silently: it changes speed, not content.
  if (size >= kLarge) madvise(at, static_cast<size_t>(size), MADV_HUGEPAGE);
  blocks_.push_back({static_cast<std::byte*>(at), size});
  used_bytes_ += size;
  return {static_cast<std::byte*>(at)};
}

void CpuDevice::free(DeviceAddr at) {
  const auto it = std::find_if(blocks_.begin(), blocks_.end(),
                               [&](const Block& block) { return block.at == at.at; });
  TANDEM_CHECK(it != blocks_.end(), "%p was not allocated here", static_cast<void*>(at.at));
  munmap(it->at, static_cast<size_t>(it->bytes));
  used_bytes_ -= it->bytes;
  blocks_.erase(it);
}

Timepoint CpuDevice::copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) {
  std::memcpy(to.at, from, static_cast<size_t>(bytes));
  return clock_.run(stream, 0);
}

Timepoint CpuDevice::copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                         const RowCopy& copy) {
  for (int64_t r = 0; r < copy.rows; ++r) {
    std::memcpy((to + r * copy.to_stride).at,
                static_cast<const std::byte*>(from) + r * copy.from_stride,
                static_cast<size_t>(copy.row_bytes));
  }
  return clock_.run(stream, 0);
}

Timepoint CpuDevice::copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) {
  std::memcpy(to, from.at, static_cast<size_t>(bytes));
  return clock_.run(stream, 0);
}

// What is enqueued next is done at once.
void CpuDevice::wait(Stream stream, Timepoint point) {
  if (point.stream == Stream::kHost) await_host_work(point);
  ModelledDevice::wait(stream, point);
}

void CpuDevice::host_wait(Timepoint point) {
  if (point.stream == Stream::kHost) await_host_work(point);
  ModelledDevice::host_wait(point);
}

Timepoint CpuDevice::launch(Stream stream, const KernelCall& call) {
  kernel_bytes_ += call.bytes;
  call.body(KernelScope(call.touches, 0));
  // The host's own cores computed it: nothing else can have run on them meanwhile.
  const Timepoint done = clock_.run(stream, model_.cpu_us(call.bytes, call.flops));
  clock_.host_wait(done);
  return done;
}

}  // namespace tandem
