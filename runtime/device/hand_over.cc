#include "runtime/device/hand_over.h"

#include <fmt/format.h>

#include <atomic>
#include <future>
#include <thread>

#include "kernels/check.h"
#include "runtime/device/short_wait.h"

namespace tandem {
namespace {

constexpr std::chrono::milliseconds kTrial{1};        // that a wait must last
constexpr std::chrono::milliseconds kHeldUp{100};     // that the host may need for its calls
constexpr std::chrono::milliseconds kPatience{2000};  // that a wait may last
constexpr int64_t kCounterBytes = 64;                 // a cache line of its own
constexpr int kNotReady = 600;                        // cudaErrorNotReady

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
  // By another thread, as in earnest; and a runtime may work at once, where it is a test's.
  std::promise<void> looked;
  std::atomic<bool> raised{false};
  std::thread host([&] {
    static_cast<void>(looked.get_future().wait_for(kHeldUp));
    raised.store(true);
    done(1);
  });
  int state = enqueue(kind, stream, value);
  if (state == 0) state = cuda_.record(event, stream);
  if (state == 0) state = last_state(event, kTrial);
  const bool early = state == 0 && !raised.load();
  looked.set_value();
  if (state == kNotReady) state = last_state(event, kPatience);
  host.join();
  first_ = value;
  if (state == kNotReady) stuck_ = true;
  if (!stuck_) {
    static_cast<void>(cuda_.destroy_event(event));
    static_cast<void>(cuda_.destroy_stream(stream));
  }
  if (state == kNotReady) return "it waits for ever";
  if (early) return "it does not wait";
  return state == 0 ? "" : failed(state);
}

int HandOver::last_state(void* event, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const int state = cuda_.event_query(event);
    if (state != kNotReady || std::chrono::steady_clock::now() > end) return state;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

}  // namespace tandem
