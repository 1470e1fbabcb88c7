#include "runtime/device/hand_over.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "kernels/check.h"
#include "runtime/device/short_wait.h"

namespace tandem {
namespace {

constexpr auto kTrial = std::chrono::milliseconds(1);  // that a wait must last
constexpr auto kPatience = std::chrono::seconds(2);    // that it may last
constexpr int64_t kCounterBytes = 64;                  // a cache line of its own
constexpr int kNotReady = 600;                         // cudaErrorNotReady

// As the GPU compares: numbers go round.
bool reached(uint32_t counter, uint32_t value) {
  return static_cast<int32_t>(counter - value) >= 0;
}

}  // namespace

const char* hand_over_name(HandOverKind kind) {
  switch (kind) {
    case HandOverKind::kMemoryOperation:
      return "memory operations";
    case HandOverKind::kHostFunction:
      return "host functions";
    case HandOverKind::kSpinKernel:
      return "a spin kernel";
    case HandOverKind::kHostWaits:
      return "the host's waiting";
  }
  return "?";
}

HandOver::HandOver(const CudaRuntime& cuda, const gpu::GpuOps& kernels,
                   std::optional<HandOverKind> wanted)
    : cuda_(cuda), kernels_(kernels) {
  if (wanted == HandOverKind::kHostWaits) return;
  void* at = nullptr;
  if (const int error = cuda_.alloc_host(&at, kCounterBytes)) {
    reason_ =
        fmt::format("no page-locked memory: CUDA error {}, {}", error, cuda_.error_text(error));
    return;
  }
  counter_ = static_cast<uint32_t*>(at);
  std::atomic_ref(*counter_).store(0);
  for (const HandOverKind kind : kHandOverKinds) {
    if (wanted && kind != *wanted) continue;
    const std::string problem = trial(kind);
    if (problem.empty()) {
      kind_ = kind;
      return;
    }
    reason_ += fmt::format("{}{}: {}", reason_.empty() ? "" : "; ", hand_over_name(kind), problem);
  }
}

HandOver::~HandOver() {
  if (counter_ != nullptr && !stuck_) static_cast<void>(cuda_.free_host(counter_));
}

void HandOver::sleep_until(void* ticket) {
  const Ticket& wanted = *static_cast<const Ticket*>(ticket);
  const std::atomic_ref counter(*wanted.from->counter_);
  uint32_t now = 0;
  while (!reached(now = counter.load(std::memory_order_acquire), wanted.value)) {
    counter.wait(now, std::memory_order_acquire);
  }
}

int HandOver::enqueue(HandOverKind kind, void* stream, uint32_t value) {
  switch (kind) {
    case HandOverKind::kMemoryOperation:
      return cuda_.wait_value(stream, counter_, value);
    case HandOverKind::kHostFunction: {
      Ticket& ticket = tickets_[next_ticket_++ % kTickets];
      ticket = {this, value};
      return cuda_.host_function(stream, &sleep_until, &ticket);
    }
    case HandOverKind::kSpinKernel:
      kernels_.wait_flag(stream, counter_, value);
      return cuda_.last_error();
    case HandOverKind::kHostWaits:
      break;
  }
  TANDEM_CHECK(false, "%s enqueues nothing", hand_over_name(kind));
  return 0;
}

int HandOver::enqueue_wait(void* stream, uint64_t n) {
  return enqueue(kind_, stream, first_ + static_cast<uint32_t>(n));
}

void HandOver::done(uint64_t n) noexcept {
  if (counter_ == nullptr) return;
  std::atomic_ref counter(*counter_);
  store_and_wake(counter, first_ + static_cast<uint32_t>(n));
}

std::string HandOver::trial(HandOverKind kind) {
  void* stream = nullptr;
  void* event = nullptr;
  const auto failed = [&](int error) {
    return fmt::format("CUDA error {}, {}", error, cuda_.error_text(error));
  };
  if (const int error = cuda_.create_stream(&stream)) return failed(error);
  if (const int error = cuda_.create_event(&event)) {
    static_cast<void>(cuda_.destroy_stream(stream));
    return failed(error);
  }
  const uint32_t value = first_ + 1;
  std::atomic<bool> raised{false};
  // By another thread, as in earnest; and a runtime may work at once, where it is a test's.
  std::thread host([&] {
    std::this_thread::sleep_for(kTrial);
    raised.store(true);
    done(1);
  });
  int error = enqueue(kind, stream, value);
  if (error == 0) error = cuda_.record(event, stream);
  std::string problem = error != 0 ? failed(error) : outcome(event, raised);
  host.join();
  first_ = value;
  if (!stuck_) {
    static_cast<void>(cuda_.destroy_event(event));
    static_cast<void>(cuda_.destroy_stream(stream));
  }
  return problem;
}

std::string HandOver::outcome(void* event, const std::atomic<bool>& raised) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    const int state = cuda_.event_query(event);
    if (state == 0) return raised.load() ? "" : "it does not wait";
    if (state != kNotReady) return fmt::format("CUDA error {}, {}", state, cuda_.error_text(state));
    if (std::chrono::steady_clock::now() > end) {
      stuck_ = true;
      return "it waits for ever";
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

}  // namespace tandem
