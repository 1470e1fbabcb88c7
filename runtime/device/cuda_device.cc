#include "runtime/device/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "kernels/check.h"
#include "runtime/device/short_wait.h"
#include "runtime/error.h"
#include "runtime/words.h"

namespace tandem {
namespace {

constexpr int kOutOfMemory = 2;  // cudaErrorMemoryAllocation
constexpr int kNotReady = 600;   // cudaErrorNotReady

}  // namespace

CudaDevice::CudaDevice(const MachineProfile& profile, const CudaRuntime& cuda,
                       const gpu::GpuOps& kernels, const CudaDeviceFacts& facts, int index,
                       std::optional<int64_t> vram_bytes, int64_t margin_bytes,
                       std::optional<HandOverKind> hand_over)
    : ModelledDevice({"cuda", facts.name, 0, false, false}, profile),
      cuda_(cuda),
      kernels_(kernels) {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  check(cuda_.set_device(index), "opening it");
  check(cuda_.memory(&free_bytes, &total_bytes), "asking for its memory");
  if (vram_bytes && *vram_bytes > free_bytes) {
    throw MemoryError(fmt::format("--vram is {}, of which {} are free on {}",
                                  bytes_text(*vram_bytes), bytes_text(free_bytes), facts.name));
  }
  info_.vram_bytes = vram_bytes.value_or(std::max<int64_t>(free_bytes - margin_bytes, 0));
  try {
    for (Lane& lane : lanes_) check(cuda_.create_stream(&lane.stream), "creating a stream");
    hand_over_.emplace(cuda_, kernels_, hand_over);
  } catch (const DeviceError&) {
    close();
    throw;
  }
}

CudaDevice::~CudaDevice() { close(); }

// What fails here has nobody to tell, and CUDA tidies up when the process ends.
void CudaDevice::close() noexcept {
  if (waits_for_ever()) {  // all of this would, too
    if (hand_over_) hand_over_->abandon();
    return;
  }
  static_cast<void>(cuda_.sync());
  hand_over_.reset();
  for (const auto& [id, kept] : graphs_) static_cast<void>(cuda_.destroy_graph(kept.graph));
  for (Lane& lane : lanes_) {
    for (const Mark& mark : lane.marks) static_cast<void>(cuda_.destroy_event(mark.event));
    if (lane.stream != nullptr) static_cast<void>(cuda_.destroy_stream(lane.stream));
  }
  for (const void* at : pinned_) static_cast<void>(cuda_.unpin(at));
  for (const auto& [at, bytes] : blocks_) static_cast<void>(cuda_.free(at));
}

void CudaDevice::check(int error, const char* what) {
  if (error == 0) return;
  lost_ = true;
  throw DeviceError(fmt::format("GPU {}: {} failed: CUDA error {}, {}", info_.description, what,
                                error, cuda_.error_text(error)));
}

// Looks again and again, as waiting for an event does, too; a GPU that does not answer any more
// ends the run instead of keeping it.
void CudaDevice::await(void* event) {
  const auto end = std::chrono::steady_clock::now() + patience_;
  constexpr int kLooks = 1000;  // between two looks at the clock
  for (int i = 1;; ++i) {
    const int state = cuda_.event_query(event);
    if (state == 0) return;
    if (state != kNotReady) check(state, "work that was enqueued");
    if (i % kLooks == 0 && std::chrono::steady_clock::now() > end) break;
    relax_cpu();
  }
  lost_ = true;
  stuck_ = true;
  throw DeviceError(
      fmt::format("GPU {}: work that was enqueued has not ended after {} s; it is "
                  "taken to be lost",
                  info_.description, std::chrono::duration<double>(patience_).count()));
}

void CudaDevice::check_lost(const char* what) const {
  if (!lost_) return;
  throw DeviceError(fmt::format("GPU {}: lost; {} is not possible", info_.description, what));
}

DeviceAddr CudaDevice::alloc(int64_t bytes, const char* tag) {
  check_lost("allocating");
  const auto fail = [&](const std::string& why) {
    throw MemoryError(
        fmt::format("{}: {} do not fit into the {} of the GPU, {} of which are in use{}", tag,
                    bytes_text(bytes), bytes_text(info_.vram_bytes), bytes_text(used_bytes_), why));
  };
  if (bytes > info_.vram_bytes - used_bytes_) fail("");
  void* at = nullptr;
  const int error = cuda_.alloc(&at, std::max<int64_t>(bytes, 1));
  if (error == kOutOfMemory) {
    fail(fmt::format(" (CUDA error {}, {})", error, cuda_.error_text(error)));
  }
  check(error, "allocating");
  blocks_[at] = bytes;
  used_bytes_ += bytes;
  return {static_cast<std::byte*>(at)};
}

void CudaDevice::free(DeviceAddr at) {
  const auto it = blocks_.find(at.at);
  TANDEM_CHECK(it != blocks_.end(), "%p was not allocated here", static_cast<void*>(at.at));
  used_bytes_ -= it->second;
  blocks_.erase(it);
  if (!waits_for_ever()) check(cuda_.free(at.at), "freeing memory");
}

void* CudaDevice::alloc_host(int64_t bytes, const char* tag) {
  check_lost("allocating");
  void* at = nullptr;
  const int error = cuda_.alloc_host(&at, std::max<int64_t>(bytes, 1));
  if (error == kOutOfMemory) {
    throw HostMemoryError(fmt::format("{}: cannot lock {} of host memory: CUDA error {}, {}", tag,
                                      bytes_text(bytes), error, cuda_.error_text(error)));
  }
  check(error, "locking memory");
  return at;
}

void CudaDevice::free_host(void* at) noexcept {
  if (!waits_for_ever()) static_cast<void>(cuda_.free_host(at));
}

std::string CudaDevice::pin_host(const void* at, int64_t bytes) {
  check_lost("locking pages");
  const int error = cuda_.pin(at, bytes);
  if (error != 0) return fmt::format("CUDA error {}, {}", error, cuda_.error_text(error));
  pinned_.push_back(at);
  return {};
}

Timepoint CudaDevice::enqueued(Stream stream, bool marked, double us) {
  if (keeping_) {
    keeping_->us += us;
    return {};
  }
  Lane& to = lane(stream);
  ++to.n;
  if (marked) record(&to);
  return clock_.run(stream, us);
}

void CudaDevice::record(Lane* lane) {
  void* event = nullptr;
  if (lane->marks.size() < kMarks) {
    check(cuda_.create_event(&event), "creating an event");
  } else {
    // Whoever waits for the oldest now waits for the next one.
    event = lane->marks.front().event;
    lane->marks.pop_front();
  }
  lane->marks.push_back({lane->n, event});
  check(cuda_.record(event, lane->stream), "recording an event");
}

void* CudaDevice::event_behind(Timepoint point) {
  Lane& of = lane(point.stream);
  TANDEM_CHECK(point.n <= of.n, "operation %llu of %llu", static_cast<unsigned long long>(point.n),
               static_cast<unsigned long long>(of.n));
  if (of.marks.empty() || of.marks.back().n < point.n) record(&of);
  // From the newest: what is waited for was mostly enqueued a moment ago.
  auto behind = of.marks.rbegin();
  while (behind + 1 != of.marks.rend() && (behind + 1)->n >= point.n) ++behind;
  return behind->event;
}

Timepoint CudaDevice::copy_to_device(Stream stream, DeviceAddr to, const void* from,
                                     int64_t bytes) {
  check_lost("a copy to the device");
  check(cuda_.copy_to_device(to.at, from, bytes, lane(stream).stream), "a copy to the device");
  copied_bytes_ += bytes;
  return enqueued(stream, false, model_.profile().link.latency_us + model_.h2d_us(bytes));
}

Timepoint CudaDevice::copy_rows_to_device(Stream stream, DeviceAddr to, const void* from,
                                          const RowCopy& copy) {
  check_lost("a copy to the device");
  check(cuda_.copy_rows_to_device(to.at, copy.to_stride, from, copy.from_stride, copy.row_bytes,
                                  copy.rows, lane(stream).stream),
        "a copy to the device");
  const int64_t bytes = copy.rows * copy.row_bytes;
  copied_bytes_ += bytes;
  return enqueued(stream, false, model_.profile().link.latency_us + model_.h2d_us(bytes));
}

Timepoint CudaDevice::copy_to_host(Stream stream, void* to, DeviceAddr from, int64_t bytes) {
  check_lost("a copy to the host");
  check(cuda_.copy_to_host(to, from.at, bytes, lane(stream).stream), "a copy to the host");
  return enqueued(stream, true, model_.profile().link.latency_us + model_.d2h_us(bytes));
}

void CudaDevice::mark(Stream stream) {
  check_lost("marking work");
  Lane& of = lane(stream);
  if (of.marks.empty() || of.marks.back().n < of.n) record(&of);
}

Timepoint CudaDevice::launch(Stream stream, const KernelCall& call) {
  (keeping_ ? keeping_->bytes : kernel_bytes_) += call.bytes;
  check_lost(call.name);
  call.body(KernelScope(call.touches, 0, lane(stream).stream));
  check(cuda_.last_error(), call.name);
  return enqueued(stream, call.marked, model_.gpu_us(call.bytes, call.flops));
}

void CudaDevice::begin_graph() {
  check_lost("keeping a graph");
  check(cuda_.begin_capture(lane(Stream::kCompute).stream), "keeping a graph");
  keeping_ = Kept{nullptr, 0, 0};
}

Graph CudaDevice::end_graph() {
  Kept kept = *keeping_;
  keeping_.reset();
  const int error = cuda_.end_capture(lane(Stream::kCompute).stream, &kept.graph);
  if (error == kOutOfMemory) {  // the device is as it was
    throw MemoryError(
        fmt::format("no memory for a graph: CUDA error {}, {}", error, cuda_.error_text(error)));
  }
  check(error, "keeping a graph");
  const Graph graph{next_graph_++};
  graphs_[graph.id] = kept;
  return graph;
}

void CudaDevice::cancel_graph() noexcept {
  keeping_.reset();
  void* unused = nullptr;
  if (cuda_.end_capture(lane(Stream::kCompute).stream, &unused) == 0) {
    static_cast<void>(cuda_.destroy_graph(unused));
  }
}

void CudaDevice::free_graph(Graph graph) noexcept {
  const auto it = graphs_.find(graph.id);
  if (it == graphs_.end() || waits_for_ever()) return;
  static_cast<void>(cuda_.destroy_graph(it->second.graph));
  graphs_.erase(it);
}

Timepoint CudaDevice::run_graph(Graph graph, int64_t more_bytes) {
  check_lost("running a graph");
  const auto it = graphs_.find(graph.id);
  TANDEM_CHECK(it != graphs_.end(), "no graph %u", graph.id);
  check(cuda_.launch_graph(it->second.graph, lane(Stream::kCompute).stream), "running a graph");
  kernel_bytes_ += it->second.bytes + more_bytes;
  const double more_us = model_.gpu_us(more_bytes, 0) - model_.gpu_us(0, 0);
  return enqueued(Stream::kCompute, true, it->second.us + more_us);
}

void CudaDevice::wait(Stream stream, Timepoint point) {
  check_lost("waiting");
  ModelledDevice::wait(stream, point);
  // What is over, or has been waited for, needs no second wait: a stream is in order.
  const auto of = static_cast<size_t>(point.stream);
  uint64_t& waited = lane(stream).waited[of];
  if (point.stream == stream || point.n <= std::max(waited, host_waited_[of])) return;
  if (point.stream == Stream::kHost) {
    if (hand_over_->kind() == HandOverKind::kHostWaits) return host_wait(point);
    if (host_work_is_done(point)) return;
    check(hand_over_->enqueue_wait(lane(stream).stream, point.n), "a wait for the host");
    waited = point.n;
    return;
  }
  check(cuda_.stream_wait(lane(stream).stream, event_behind(point)), "a wait");
  waited = point.n;
}

void CudaDevice::host_wait(Timepoint point) {
  check_lost("waiting");
  uint64_t& waited = host_waited_[static_cast<size_t>(point.stream)];
  if (point.n > waited) {
    if (point.stream == Stream::kHost) {
      await_host_work(point);
    } else {
      await(event_behind(point));
    }
    waited = point.n;
  }
  ModelledDevice::host_wait(point);
}

void CudaDevice::end_host_work(Timepoint point) noexcept {
  hand_over_->done(point.n);
  ModelledDevice::end_host_work(point);
}

void CudaDevice::host_wait_all() {
  check_lost("waiting");
  for (size_t i = 0; i < lanes_.size(); ++i) {
    Lane& lane = lanes_[i];
    if (lane.n == host_waited_[i]) continue;
    if (lane.marks.empty() || lane.marks.back().n < lane.n) record(&lane);
    await(lane.marks.back().event);
    host_waited_[i] = lane.n;
  }
  ModelledDevice::host_wait_all();
}

}  // namespace tandem
