#include "runtime/device/sim_device.h"

#include <string>
#include <vector>

#include "runtime/error.h"
#include "tests/device/device_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

std::string memory_error(SimDevice& device, int64_t bytes) {
  try {
    device.alloc(bytes, "the key-value cache");
  } catch (const MemoryError& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("the simulated GPU says so and has the VRAM it was given") {
  const SimDevice device(round_machine(), kVram);
  CHECK(device.info().simulated);
  CHECK_FALSE(device.info().host_memory);
  CHECK(device.info().vram_bytes == kVram);
  CHECK(device.info().description.find("modelled for round") != std::string::npos);
}

TEST_CASE("all of the VRAM can be allocated, and not a byte more") {
  SimDevice device(round_machine(), kVram);
  device.alloc(kVram, "all");
  CHECK(device.used_bytes() == kVram);
  CHECK_THROWS_AS(device.alloc(1, "one more"), MemoryError);
}

TEST_CASE("memory that does not fit is an error with what is wanted, there and in use") {
  SimDevice device(round_machine(), kVram);
  device.alloc(kVram / 4, "weights");
  const std::string message = memory_error(device, 2 * kVram);
  CAPTURE(message);
  CHECK(message.find("the key-value cache") != std::string::npos);
  CHECK(message.find("2.00 MiB do not fit") != std::string::npos);
  CHECK(message.find("1.00 MiB of") != std::string::npos);
  CHECK(message.find("256.00 KiB of which are in use") != std::string::npos);
}

TEST_CASE("an allocation that failed uses nothing") {
  SimDevice device(round_machine(), kVram);
  memory_error(device, 2 * kVram);
  CHECK(device.used_bytes() == 0);
  device.alloc(kVram, "all");
}

TEST_CASE("a freed range is reused by the first allocation that fits into it") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr a = device.alloc(1024, "a");
  const DeviceAddr b = device.alloc(4096, "b");
  device.alloc(1024, "c");
  device.free(a);
  device.free(b);
  CHECK(device.alloc(5120, "both gaps joined").at == a.at);
}

TEST_CASE("an allocation too long for a gap goes behind it, a later short one into it") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr a = device.alloc(1024, "a");
  const DeviceAddr b = device.alloc(1024, "b");
  device.free(a);
  CHECK(device.alloc(2048, "long").at == (b + 1024).at);
  CHECK(device.alloc(512, "short").at == a.at);
  CHECK(device.alloc(512, "short too").at == (a + 512).at);
}

TEST_CASE("memory is handed out again after thousands of allocations and frees") {
  SimDevice device(round_machine(), kVram);
  for (int i = 0; i < 5000; ++i) {
    const DeviceAddr a = device.alloc(kVram / 2, "a");
    const DeviceAddr b = device.alloc(kVram / 2, "b");
    device.free(i % 2 == 0 ? a : b);
    device.free(i % 2 == 0 ? b : a);
  }
  CHECK(device.used_bytes() == 0);
}

TEST_CASE("a device without VRAM allocates nothing") {
  SimDevice device(round_machine(), 0);
  CHECK_THROWS_AS(device.alloc(1, "x"), MemoryError);
}

TEST_CASE("more VRAM than there is address space is a MemoryError") {
  CHECK_THROWS_AS(SimDevice(round_machine(), int64_t{1} << 60), MemoryError);
}

TEST_CASE("the host faults when it reads a device address") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = upload(device, std::vector<int32_t>{1});
  CHECK(faults([&] {
    const volatile std::byte* p = at.at;
    static_cast<void>(*p);
  }));
}

TEST_CASE("the host faults when it writes to a device address") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = upload(device, std::vector<int32_t>{1});
  CHECK(faults([&] { *const_cast<volatile std::byte*>(at.at) = std::byte{1}; }));
}

TEST_CASE("a kernel that dereferences a device address without resolving it faults") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = upload(device, std::vector<int32_t>{1});
  const Touch touch{at, 4, true};
  CHECK(faults([&] {
    device.launch(Stream::kCompute, {"careless", {&touch, 1}, 0, 0, [&](const KernelScope&) {
                                       *const_cast<volatile std::byte*>(at.at) = std::byte{1};
                                     }});
  }));
}

TEST_CASE("a copy that reaches past its allocation fails a check") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(256, "x");
  device.alloc(256, "neighbour");
  std::vector<std::byte> host(512);
  CHECK(dies([&] { device.copy_to_device(Stream::kCopy, at, host.data(), 257); }, "reach past"));
  CHECK(dies([&] { device.copy_to_host(Stream::kCopy, host.data(), at + 1, 256); }, "reach past"));
}

TEST_CASE("a copy to freed or host memory fails a check") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(256, "x");
  std::vector<std::byte> host(256);
  device.free(at);
  CHECK(dies([&] { device.copy_to_device(Stream::kCopy, at, host.data(), 1); }));
  CHECK(dies([&] { device.copy_to_device(Stream::kCopy, {host.data()}, host.data(), 1); }));
}

TEST_CASE("a launch that declares memory that is not allocated fails a check") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(256, "x");
  const auto launch = [&](const Touch& touch) {
    device.launch(Stream::kCompute, {"x", {&touch, 1}, 0, 0, [](const KernelScope&) {}});
  };
  CHECK_FALSE(dies([&] { launch({at, 256, true}); }));
  CHECK_FALSE(dies([&] { launch({{}, 0, false}); }));  // an absent operand
  CHECK(dies([&] { launch({at, 257, true}); }));
  CHECK(dies([&] { launch({at + 1024, 1, true}); }));
}

TEST_CASE("a copy takes the link's latency and its bytes at the rate of its direction") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(200'000, "x");
  std::vector<std::byte> host(200'000);
  device.copy_to_device(Stream::kCopy, at, host.data(), 200'000);
  CHECK(device.stream_now_us(Stream::kCopy) == Approx(5 + 10));  // at 20 GB/s
  device.copy_to_host(Stream::kCopy, host.data(), at, 200'000);
  // It follows at once on the copy engine: no second latency.
  CHECK(device.stream_now_us(Stream::kCopy) == Approx(15 + 20));  // at 10 GB/s
  device.copy_to_device(Stream::kCompute, at, host.data(), 200'000);
  device.copy_to_device(Stream::kCompute, at, host.data(), 200'000);
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(2 * (5 + 10)));  // between kernels
}

TEST_CASE("bytes copied to the device are counted, those copied back are not") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = upload(device, std::vector<int32_t>(100));
  download<int32_t>(device, at, 100);
  CHECK(device.copied_to_device_bytes() == 400);
}

TEST_CASE("a kernel takes its launch and the longer of reading and arithmetic") {
  SimDevice device(round_machine(), kVram);
  device.launch(Stream::kCompute, {"x", {}, 4'000'000, 1, [](const KernelScope&) {}});
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(4 + 10));
  device.launch(Stream::kCompute, {"x", {}, 1, 500'000'000, [](const KernelScope&) {}});
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(14 + 4 + 50));
}

TEST_CASE("kernels on the compute stream overlap copies on the copy stream") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(200'000, "x");
  const std::vector<std::byte> host(200'000);
  const Timepoint kernel = busy(device, Stream::kCompute, 20);
  const Timepoint copy = device.copy_to_device(Stream::kCopy, at, host.data(), 200'000);
  device.host_wait(kernel);
  device.host_wait(copy);
  CHECK(device.host_now_us() == Approx(20));  // not 20 + 15
}

TEST_CASE("a kernel that waits for a copy starts when the copy has landed") {
  SimDevice device(round_machine(), kVram);
  const DeviceAddr at = device.alloc(200'000, "x");
  const std::vector<std::byte> host(200'000);
  const Timepoint copy = device.copy_to_device(Stream::kCopy, at, host.data(), 200'000);
  device.wait(Stream::kCompute, copy);
  busy(device, Stream::kCompute, 20);
  CHECK(device.stream_now_us(Stream::kCompute) == Approx(15 + 20));
}

#ifdef __x86_64__  // where kernels are emulated
TEST_CASE("with modelled times, all that ends before what the host waits for is done, no more") {
  SimSettings settings;
  settings.kernels = SimKernels::kEmulated;
  settings.schedule = SimSchedule::kTimed;
  SimDevice device(round_machine(), kVram, settings);
  std::vector<std::string> done;
  const auto kernel = [&](Stream stream, const char* name, int64_t us) {
    return device.launch(stream,
                         {name, {}, (us - 4) * 400'000, 0, [&done, name](const KernelScope&) {
                            done.push_back(name);
                          }});
  };
  kernel(Stream::kCompute, "soon", 10);
  const Timepoint middle = kernel(Stream::kCopy, "middle", 20);
  const Timepoint late = kernel(Stream::kCompute, "late", 30);
  CHECK(done.empty());
  device.host_wait(middle);
  CHECK(done == std::vector<std::string>{"soon", "middle"});
  device.host_wait(late);
  CHECK(done == std::vector<std::string>{"soon", "middle", "late"});
}
#endif

}  // namespace
}  // namespace tandem::test
