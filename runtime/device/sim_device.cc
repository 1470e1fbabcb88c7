#include "runtime/device/sim_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "kernels/check.h"
#ifdef TANDEM_EMULATED_KERNELS
#include "kernels/gpu/emulation/emulation.h"
#include "kernels/gpu/gpu_ops.h"
#endif
#include "runtime/device/arena_poison.h"
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

SimDevice::SimDevice(const MachineProfile& profile, int64_t vram_bytes, const SimSettings& settings)
    : ModelledDevice({"sim", "simulated GPU, times modelled for " + profile.name, vram_bytes, false,
                      true, false, kAlignment},
                     profile),
      settings_(settings),
      queue_(settings.schedule, settings.seed,
             [this](Timepoint point) { await_host_work(point); }) {
  const bool emulated = settings.kernels == SimKernels::kEmulated;
  TANDEM_CHECK(emulated || settings.schedule == SimSchedule::kAtOnce,
               "host code does not run later: it refers to what is gone by then");
  if (emulated) {
    info_.name = "sim-cuda";
    info_.description += ", CUDA kernels emulated";
#ifdef TANDEM_EMULATED_KERNELS
    emulation_ = std::make_shared<vgpu::Emulation>();
#else
    throw ConfigError("--device sim-cuda: CUDA kernels are emulated on x86-64 only");
#endif
  }
  if (settings.check_hazards) checker_.emplace();
  arena_bytes_ = std::max<int64_t>(vram_bytes, kAlignment);
  addresses_ = reserve(arena_bytes_, PROT_NONE);
  memory_ = reserve(arena_bytes_, PROT_READ | PROT_WRITE);
}

SimDevice::~SimDevice() {
  for (const auto& [offset, bytes] : blocks_) open_range(memory_ + offset, bytes);
  munmap(addresses_, static_cast<size_t>(arena_bytes_));
  munmap(memory_, static_cast<size_t>(arena_bytes_));
}

bool SimDevice::begin_call(const char* what) {
  const bool chosen = calls_++ == settings_.fault_call && settings_.fault != SimFault::kNone;
  if (chosen && settings_.fault == SimFault::kAtOnce) {
    lost_ = true;
    throw DeviceError(fmt::format("{} GPU: {} failed", info_.name, what));
  }
  if (lost_) throw DeviceError(fmt::format("{} GPU: lost; {} is not possible", info_.name, what));
  if (chosen) broken_ = what;
  return broken_ != nullptr;
}

uint64_t SimDevice::kernel_launches() const {
#ifdef TANDEM_EMULATED_KERNELS
  if (emulation_) return emulation_->stats().launches;
#endif
  return 0;
}

const gpu::GpuOps* SimDevice::kernels() const {
#ifdef TANDEM_EMULATED_KERNELS
  if (emulation_) return &gpu::kEmulatedOps;
#endif
  return nullptr;
}

DeviceAddr SimDevice::alloc(int64_t bytes, const char* tag) {
  if (calls_ == settings_.fault_call && settings_.fault != SimFault::kNone) {
    ++calls_;
    throw MemoryError(fmt::format("{}: the {} GPU has no memory left", tag, info_.name));
  }
  begin_call("alloc");
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
  close_range(memory_ + at, size);
  return {addresses_ + at};
}

void SimDevice::free(DeviceAddr at) {
  const auto it = blocks_.find(at.at - addresses_);
  TANDEM_CHECK(it != blocks_.end(), "%p was not allocated here", static_cast<void*>(at.at));
  if (checker_) checker_->freed(at.at, it->second);
  open_range(memory_ + it->first, it->second);
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

template <typename F>
Timepoint SimDevice::enqueue(Stream stream, double us, bool fails, const F& work) {
  const Timepoint end = clock_.run(stream, us);
  if (settings_.schedule == SimSchedule::kAtOnce) {
    if (!fails) work();
    return end;
  }
  queue_.enqueue(stream, clock_.end_us(stream), [fails, work] {
    if (!fails) work();
  });
  return end;
}

Timepoint SimDevice::copy_to_device(Stream stream, DeviceAddr to, const void* from, int64_t bytes) {
  return copy_rows_to_device(stream, to, from, {1, bytes, bytes, bytes});
}

Timepoint SimDevice::copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                         const RowCopy& copy) {
  const bool fails = begin_call("a copy to the device");
  const auto* host = static_cast<const std::byte*>(from);
  std::vector<HazardChecker::Access> accesses;
  for (int64_t r = 0; r < copy.rows; ++r) {
    const DeviceAddr row = to + r * copy.to_stride;
    backing(row, copy.row_bytes);
    if (!checker_) continue;
    accesses.push_back({host + r * copy.from_stride, copy.row_bytes, false});
    accesses.push_back({row.at, copy.row_bytes, true});
  }
  if (checker_) checker_->enqueued(stream, "a copy to the device", accesses);
  const int64_t bytes = copy.rows * copy.row_bytes;
  copied_bytes_ += bytes;
  const double us = copy_latency_us(stream) + model_.h2d_us(bytes);
  return enqueue(stream, us, fails, [this, to, host, copy] {
    for (int64_t r = 0; r < copy.rows; ++r) {
      std::byte* row = backing(to + r * copy.to_stride, copy.row_bytes);
      open_range(row, copy.row_bytes);
      std::memcpy(row, host + r * copy.from_stride, static_cast<size_t>(copy.row_bytes));
      close_range(row, copy.row_bytes);
    }
  });
}

Timepoint SimDevice::copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) {
  if (keeping_) {
    keeping_->emplace_back([=, this](int64_t) { return copy_to_host(stream, to, from, bytes); });
    return {};
  }
  const bool fails = begin_call("a copy to the host");
  backing(from, bytes);
  if (checker_) {
    checker_->enqueued(stream, "a copy to the host",
                       std::array{HazardChecker::Access{from.at, bytes, false},
                                  HazardChecker::Access{to, bytes, true}});
  }
  const double us = copy_latency_us(stream) + model_.d2h_us(bytes);
  return enqueue(stream, us, fails, [this, to, from, bytes] {
    const std::byte* memory = backing(from, bytes);
    open_range(memory, bytes);
    std::memcpy(to, memory, static_cast<size_t>(bytes));
    close_range(memory, bytes);
  });
}

Timepoint SimDevice::launch(Stream stream, const KernelCall& call) {
  if (keeping_) {
    keep(call);
    return {};
  }
  const auto run = [this, body = call.body](std::span<const Touch> touches) {
    body(KernelScope(touches, memory_ - addresses_, emulation_.get()));
  };
  if (settings_.schedule == SimSchedule::kAtOnce) {
    return enqueue_launch(stream, call.name, call.touches, call.bytes, call.flops,
                          [&] { run(call.touches); });
  }
  return enqueue_launch(stream, call.name, call.touches, call.bytes, call.flops,
                        [run, touches = std::vector<Touch>(call.touches.begin(),
                                                           call.touches.end())] { run(touches); });
}

template <typename F>
Timepoint SimDevice::enqueue_launch(Stream stream, const char* name, std::span<const Touch> touches,
                                    int64_t bytes, int64_t flops, const F& run) {
  kernel_bytes_ += bytes;
  const bool fails = begin_call(name);
  std::vector<HazardChecker::Access> accesses;
  for (const Touch& touch : touches) {
    if (touch.bytes == 0) continue;  // nothing is nowhere: an absent bias
    backing(touch.at, touch.bytes);
    if (checker_) accesses.push_back({touch.at.at, touch.bytes, touch.write});
  }
  if (checker_) checker_->enqueued(stream, name, accesses);
  const double us = model_.gpu_us(bytes, flops);
  if (settings_.schedule == SimSchedule::kAtOnce) {
    return enqueue(stream, us, fails, [&] { run_kernel(run, touches); });
  }
  return enqueue(stream, us, fails,
                 [this, run, all = std::vector<Touch>(touches.begin(), touches.end())] {
                   run_kernel(run, all);
                 });
}

void SimDevice::run_kernel(FunctionRef<void()> run, std::span<const Touch> touches) {
  for (const Touch& touch : touches) {
    if (touch.bytes > 0) open_range(backing(touch.at, touch.bytes), touch.bytes);
  }
#ifdef TANDEM_EMULATED_KERNELS
  try {
    run();
  } catch (const vgpu::KernelFault& fault) {
    lost_ = true;
    throw DeviceError(fmt::format("{} GPU: {}", info_.name, fault.what()));
  }
#else
  run();
#endif
  for (const Touch& touch : touches) {
    if (touch.bytes > 0) close_range(backing(touch.at, touch.bytes), touch.bytes);
  }
}

void SimDevice::begin_graph() {
  TANDEM_CHECK(keeps_graphs() && !keeping_, "no graph can be begun");
  keeping_.emplace();
}

// As a GPU's stream captures it: the body is run once, and what it enqueued is kept.
void SimDevice::keep(const KernelCall& call) {
#ifdef TANDEM_EMULATED_KERNELS
  emulation_->begin_capture();
  call.body(KernelScope(call.touches, memory_ - addresses_, emulation_.get()));
  const auto run = [kernels = emulation_->end_capture()] {
    for (const auto& kernel : kernels) kernel();
  };
  keeping_->emplace_back(
      [this, run, name = call.name, bytes = call.bytes, flops = call.flops,
       touches = std::vector<Touch>(call.touches.begin(), call.touches.end())](int64_t more_bytes) {
        return enqueue_launch(Stream::kCompute, name, touches, bytes + more_bytes, flops, run);
      });
#else
  TANDEM_CHECK(false, "%s cannot be kept", call.name);
#endif
}

Graph SimDevice::end_graph() {
  const Graph graph{next_graph_++};
  graphs_[graph.id] = std::move(*keeping_);
  keeping_.reset();
  return graph;
}

void SimDevice::cancel_graph() noexcept {
  keeping_.reset();
#ifdef TANDEM_EMULATED_KERNELS
  emulation_->end_capture();
#endif
}

void SimDevice::free_graph(Graph graph) noexcept { graphs_.erase(graph.id); }

Timepoint SimDevice::run_graph(Graph graph, int64_t more_bytes) {
  const auto it = graphs_.find(graph.id);
  TANDEM_CHECK(it != graphs_.end() && !keeping_, "graph %u cannot be run", graph.id);
  Timepoint end;
  for (const auto& enqueue_again : it->second) end = enqueue_again(std::exchange(more_bytes, 0));
  return end;
}

void SimDevice::wait(Stream stream, Timepoint point) {
  if (checker_) checker_->wait(stream, point);
  if (settings_.schedule != SimSchedule::kAtOnce) {
    queue_.wait(stream, point);
  } else if (point.stream == Stream::kHost) {
    await_host_work(point);  // what is enqueued next is done at once
  }
  ModelledDevice::wait(stream, point);
}

void SimDevice::host_wait(Timepoint point) {
  begin_call("waiting for it");
  if (settings_.schedule != SimSchedule::kAtOnce || point.stream == Stream::kHost) {
    queue_.finish(point);
  }
  if (checker_) checker_->host_wait(point);
  ModelledDevice::host_wait(point);
  end_host_wait();
}

void SimDevice::host_wait_all() {
  begin_call("waiting for it");
  queue_.finish_all();
  if (checker_) checker_->host_wait_all();
  ModelledDevice::host_wait_all();
  end_host_wait();
}

void SimDevice::end_host_wait() {
  if (broken_ == nullptr) return;
  lost_ = true;
  throw DeviceError(fmt::format("{} GPU: {} failed after it was enqueued", info_.name, broken_));
}

Timepoint SimDevice::begin_host_work(const char* name, std::span<const HostTouch> touches,
                                     double us) {
  if (checker_) {
    std::vector<HazardChecker::Access> accesses;
    for (const HostTouch& touch : touches) {
      accesses.push_back({touch.at, touch.bytes, touch.write});
    }
    checker_->enqueued(Stream::kHost, name, accesses);
  }
  return ModelledDevice::begin_host_work(name, touches, us);
}

void SimDevice::host_access(const char* what, const void* at, int64_t bytes, bool write) {
  if (checker_) checker_->host_access(what, {at, bytes, write});
}

}  // namespace tandem
