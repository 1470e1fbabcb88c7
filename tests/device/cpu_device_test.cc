#include "runtime/device/cpu_device.h"

#include <type_traits>

#include "tests/device/device_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

TEST_CASE("the CPU device works on host memory and simulates nothing") {
  const CpuDevice device(round_machine());
  CHECK(device.info().host_memory);
  CHECK_FALSE(device.info().simulated);
  CHECK(device.info().vram_bytes == 0);
}

TEST_CASE("memory of the CPU device is the host's, and new memory is zero") {
  CpuDevice device(round_machine());
  const DeviceAddr at = device.alloc(5000, "x");
  for (int i = 0; i < 5000; ++i) REQUIRE(at.at[i] == std::byte{0});
  at.at[4999] = std::byte{7};
  CHECK(download<std::byte>(device, at + 4999, 1).front() == std::byte{7});
}

TEST_CASE("copies on the CPU device take no modelled time and cross no link") {
  CpuDevice device(round_machine());
  upload(device, std::vector<float>(1000, 1));
  CHECK(device.stream_now_us(Stream::kCopy) == 0);
  CHECK(device.copied_to_device_bytes() == 0);
}

TEST_CASE("kernels on the CPU device take the CPU's modelled time") {
  CpuDevice device(round_machine());
  device.launch(Stream::kCompute, {"x", {}, 4'000'000, 1'000'000, [](const KernelScope&) {}});
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(100));  // 4 MB at 40 GB/s
  device.launch(Stream::kCompute, {"x", {}, 0, 50'000'000, [](const KernelScope&) {}});
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(600));  // 50 MFLOP at 100 GFLOP/s
}

TEST_CASE("kernels on the CPU device keep the host busy: they run on its cores") {
  CpuDevice device(round_machine());
  device.launch(Stream::kCompute, {"x", {}, 4'000'000, 0, [](const KernelScope&) {}});
  CHECK(device.host_now_us() == Approx(100));
  host_busy(device, 50);
  device.launch(Stream::kCompute, {"x", {}, 4'000'000, 0, [](const KernelScope&) {}});
  CHECK(device.host_now_us() == Approx(250));
}

TEST_CASE("a device owns its memory: it can't be copied") {
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<CpuDevice>);
  STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<CpuDevice>);
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<SimDevice>);
  STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<SimDevice>);
}

}  // namespace
}  // namespace tandem::test
