// Streams that wait for the host.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "runtime/device/host_array.h"
#include "runtime/selftest/op_checks.h"

namespace tandem {

void check_wait_flag(const OpContext& context) {
  struct Case {
    uint32_t before;
    uint32_t value;
  };
  // The second goes round.
  for (const Case c : {Case{0, 1}, Case{0xFFFFFFF0U, 7}}) {
    context.check("wait_flag", "", fmt::format("from {} to {}", c.before, c.value),
                  [&](DeviceMemory& memory, Comparison& comparison) {
                    HostArray<uint32_t> flag(context.device, 1, "selftest");
                    std::atomic_ref(*flag.data()).store(c.before);
                    std::atomic<bool> raised{false};
                    const std::jthread host([&] {
                      std::this_thread::sleep_for(std::chrono::milliseconds(1));
                      raised.store(true);
                      std::atomic_ref(*flag.data()).store(c.value, std::memory_order_release);
                    });
                    memory.run("wait_flag", [&](const KernelScope& scope) {
                      context.ops.wait_flag(scope.stream(), flag.data(), c.value);
                    });
                    // Behind the host's write, if the stream has waited for it.
                    comparison.add_exact(0, 0, raised.load() ? 1 : 0, 1);
                  });
  }
}

}  // namespace tandem
