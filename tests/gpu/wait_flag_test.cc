// Streams that wait for the host by looking at its memory.
#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "kernels/gpu/emulation/emulation.h"
#include "kernels/gpu/gpu_ops.h"
#include "tests/support/catch.h"

namespace tandem::test {

TEST_CASE("a GPU waits until the host's number has come, round the end of numbers too") {
  struct Case {
    uint32_t before;
    uint32_t value;
    uint32_t after;
  };
  for (const Case c : {Case{0, 1, 1}, Case{0, 1, 5}, Case{7, 10, 10}, Case{0xFFFFFFFFU, 0, 0},
                       Case{0xFFFFFFF0U, 7, 9}}) {
    vgpu::Emulation emulation;
    uint32_t flag = c.before;
    std::array<int, 64> written{};
    std::jthread host([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      written.fill(1);
      std::atomic_ref(flag).store(c.after, std::memory_order_release);
    });
    gpu::kEmulatedOps.wait_flag(&emulation, &flag, c.value);
    CHECK(written.back() == 1);
  }
}

TEST_CASE("a GPU does not wait for what has come") {
  vgpu::Emulation emulation;
  for (const uint32_t flag : {5U, 6U, 0x80000004U}) {
    gpu::kEmulatedOps.wait_flag(&emulation, &flag, 5);
  }
  SUCCEED();
}

}  // namespace tandem::test
