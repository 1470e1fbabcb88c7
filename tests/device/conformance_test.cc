// What every device promises: each case runs on all of them.
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include "runtime/error.h"
#include "tests/device/device_testing.h"
#include "tests/support/catch.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

std::vector<int32_t> counting(size_t n) {
  std::vector<int32_t> values(n);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

TEMPLATE_TEST_CASE("a copy to the device and back returns the same bytes", "", Cpu, Sim) {
  TestType on;
  const auto values = counting(1000);
  const DeviceAddr at = upload(on.device, values);
  CHECK(download<int32_t>(on.device, at, values.size()) == values);
}

TEMPLATE_TEST_CASE("a part of an allocation can be copied", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = upload(on.device, counting(100));
  const int32_t patch[] = {-1, -2};
  on.device.copy_to_device(Stream::kCopy, at + 40, patch, sizeof patch);
  const auto back = download<int32_t>(on.device, at + 36, 4);
  CHECK(back == std::vector<int32_t>{9, -1, -2, 12});
}

TEMPLATE_TEST_CASE("rows are copied from one distance to another", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = upload(on.device, std::vector<int32_t>(12, -1));
  const auto from = counting(100);
  // Two numbers of every ten into two of every four.
  on.device.copy_rows_to_device(Stream::kCopy, at + 4, from.data() + 10, {3, 8, 16, 40});
  CHECK(download<int32_t>(on.device, at, 12) ==
        std::vector<int32_t>{-1, 10, 11, -1, -1, 20, 21, -1, -1, 30, 31, -1});
}

TEMPLATE_TEST_CASE("an allocation has an address that is a multiple of 256", "", Cpu, Sim) {
  TestType on;
  for (const int64_t bytes : {1, 255, 256, 257, 1000}) {
    const DeviceAddr at = on.device.alloc(bytes, "x");
    CHECK(reinterpret_cast<uintptr_t>(at.at) % 256 == 0);
  }
}

TEMPLATE_TEST_CASE("an empty allocation has an address of its own", "", Cpu, Sim) {
  TestType on;
  std::set<std::byte*> addresses;
  for (int i = 0; i < 4; ++i) {
    const DeviceAddr at = on.device.alloc(0, "nothing");
    CHECK(at);
    CHECK(addresses.insert(at.at).second);
  }
}

TEMPLATE_TEST_CASE("allocations don't overlap", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr a = upload(on.device, std::vector<int32_t>(100, 1));
  const DeviceAddr b = upload(on.device, std::vector<int32_t>(100, 2));
  CHECK(download<int32_t>(on.device, a, 100) == std::vector<int32_t>(100, 1));
  CHECK(download<int32_t>(on.device, b, 100) == std::vector<int32_t>(100, 2));
}

TEMPLATE_TEST_CASE("used bytes grow with an allocation and shrink when it is freed", "", Cpu, Sim) {
  TestType on;
  CHECK(on.device.used_bytes() == 0);
  const DeviceAddr a = on.device.alloc(1000, "a");
  const int64_t with_a = on.device.used_bytes();
  CHECK(with_a >= 1000);
  const DeviceAddr b = on.device.alloc(2000, "b");
  CHECK(on.device.used_bytes() >= with_a + 2000);
  on.device.free(b);
  CHECK(on.device.used_bytes() == with_a);
  on.device.free(a);
  CHECK(on.device.used_bytes() == 0);
}

TEMPLATE_TEST_CASE("an allocation of all the address space is a MemoryError", "", Cpu, Sim) {
  TestType on;
  for (const int64_t bytes : {INT64_MAX, INT64_MAX - 255, int64_t{1} << 60}) {
    CHECK_THROWS_AS(on.device.alloc(bytes, "too much"), MemoryError);
  }
  CHECK(on.device.used_bytes() == 0);
}

TEMPLATE_TEST_CASE("freeing what was not allocated, or twice, fails a check", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = on.device.alloc(1000, "x");
  CHECK(dies([&] { on.device.free(at + 256); }, "not allocated"));
  CHECK(dies([&] { on.device.free({}); }, "not allocated"));
  on.device.free(at);
  CHECK(dies([&] { on.device.free(at); }, "not allocated"));
}

TEMPLATE_TEST_CASE("a kernel reads and writes what its launch declares", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr in = upload(on.device, std::vector<float>{1, 2, 3});
  const DeviceAddr out = upload(on.device, std::vector<float>(3, 0));
  const Touch touches[] = {{in, 12, false}, {out, 12, true}};
  on.device.launch(Stream::kCompute, {"double", touches, 24, 3, [&](const KernelScope& scope) {
                                        const auto* from = scope.read_as<float>(in, 3);
                                        auto* to = scope.write_as<float>(out, 3);
                                        for (int i = 0; i < 3; ++i) to[i] = 2 * from[i];
                                      }});
  CHECK(download<float>(on.device, out, 3) == std::vector<float>{2, 4, 6});
}

TEMPLATE_TEST_CASE("a range declared for writing may be read", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = upload(on.device, std::vector<int32_t>{41});
  const Touch touches[] = {{at, 4, true}};
  on.device.launch(Stream::kCompute, {"increment", touches, 4, 1, [&](const KernelScope& scope) {
                                        const int32_t old = *scope.read_as<int32_t>(at, 1);
                                        *scope.write_as<int32_t>(at, 1) = old + 1;
                                      }});
  CHECK(download<int32_t>(on.device, at, 1) == std::vector<int32_t>{42});
}

// Launches a kernel with `touch` declared that resolves [at, at + bytes).
void resolve(Device& device, const Touch& touch, DeviceAddr at, int64_t bytes, bool write) {
  device.launch(Stream::kCompute, {"resolve", {&touch, 1}, 0, 0, [&](const KernelScope& scope) {
                                     if (write) {
                                       scope.write(at, bytes);
                                     } else {
                                       static_cast<void>(scope.read(at, bytes));
                                     }
                                   }});
}

TEMPLATE_TEST_CASE("a kernel that writes what it declared to read dies", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = on.device.alloc(64, "x");
  CHECK(dies([&] { resolve(on.device, {at, 64, false}, at, 64, true); }, "did not declare"));
}

TEMPLATE_TEST_CASE("a kernel that touches another allocation than the declared dies", "", Cpu,
                   Sim) {
  TestType on;
  const DeviceAddr at = on.device.alloc(64, "x");
  const DeviceAddr other = on.device.alloc(64, "y");
  for (const bool write : {false, true}) {
    CHECK(dies([&] { resolve(on.device, {at, 64, true}, other, 64, write); }, "did not declare"));
  }
}

TEMPLATE_TEST_CASE("a kernel may touch any part of a declared range and nothing beyond", "", Cpu,
                   Sim) {
  TestType on;
  const DeviceAddr at = on.device.alloc(1024, "x");
  const Touch middle{at + 256, 256, true};
  for (const bool write : {false, true}) {
    CHECK_FALSE(dies([&] { resolve(on.device, middle, at + 256, 256, write); }));
    CHECK_FALSE(dies([&] { resolve(on.device, middle, at + 300, 10, write); }));
    CHECK_FALSE(dies([&] { resolve(on.device, middle, at + 511, 1, write); }));
    CHECK(dies([&] { resolve(on.device, middle, at + 255, 2, write); }));
    CHECK(dies([&] { resolve(on.device, middle, at + 511, 2, write); }));
    CHECK(dies([&] { resolve(on.device, middle, at, 1024, write); }));
  }
}

TEMPLATE_TEST_CASE("two ranges that touch don't make one range", "", Cpu, Sim) {
  TestType on;
  const DeviceAddr at = on.device.alloc(64, "x");
  const Touch halves[] = {{at, 32, false}, {at + 32, 32, true}};
  const auto launch = [&](int64_t bytes) {
    on.device.launch(Stream::kCompute, {"all", halves, 0, 0, [&](const KernelScope& scope) {
                                          static_cast<void>(scope.read(at, bytes));
                                        }});
  };
  CHECK_FALSE(dies([&] { launch(32); }));
  CHECK(dies([&] { launch(64); }, "did not declare"));
}

TEMPLATE_TEST_CASE("a kernel resolves a declared matrix with its shape kept", "", Cpu, Sim) {
  TestType on;
  const std::vector<float> weights{1, 2, 3, 4, 5, 6};
  const DeviceAddr at = upload(on.device, weights);
  const Touch touches[] = {{at, 24, false}};
  const WeightView view{DType::kF32, 2, 3, at.at};
  std::vector<float> seen(6);
  on.device.launch(Stream::kCompute, {"matrix", touches, 24, 0, [&](const KernelScope& scope) {
                                        const WeightView resolved = scope.read(view);
                                        CHECK(resolved.rows == 2);
                                        CHECK(resolved.cols == 3);
                                        std::memcpy(seen.data(), resolved.data, 24);
                                      }});
  CHECK(seen == weights);
}

TEMPLATE_TEST_CASE("timepoints of a stream count its operations from one", "", Cpu, Sim) {
  TestType on;
  for (uint64_t n = 1; n <= 3; ++n) CHECK(busy(on.device, Stream::kCompute, 10).n == n);
  const Timepoint other = busy(on.device, Stream::kCopy, 10);
  CHECK(other.n == 1);
  CHECK(other.stream == Stream::kCopy);
}

TEMPLATE_TEST_CASE("kernels of one stream run one after another", "", Cpu, Sim) {
  TestType on;
  busy(on.device, Stream::kCompute, 10);
  const double once = on.device.stream_now_us(Stream::kCompute);
  CHECK(once > 0);
  busy(on.device, Stream::kCompute, 10);
  CHECK(on.device.stream_now_us(Stream::kCompute) == Approx(2 * once));
}

TEST_CASE("launching on a GPU does not keep the host busy, but waiting for the kernel does") {
  Sim on;
  const Timepoint done = busy(on.device, Stream::kCompute, 10);
  CHECK(on.device.host_now_us() == 0);
  on.device.host_wait(done);
  CHECK(on.device.host_now_us() == on.device.stream_now_us(Stream::kCompute));
}

TEMPLATE_TEST_CASE("a stream that waits for another starts after it", "", Cpu, Sim) {
  TestType on;
  const Timepoint first = busy(on.device, Stream::kCompute, 100);
  const double end = on.device.stream_now_us(Stream::kCompute);
  on.device.wait(Stream::kCopy, first);
  busy(on.device, Stream::kCopy, 100);
  CHECK(on.device.stream_now_us(Stream::kCopy) == Approx(2 * end));
}

TEMPLATE_TEST_CASE("what the host enqueues after being busy starts after that", "", Cpu, Sim) {
  TestType on;
  host_busy(on.device, 50);
  CHECK(on.device.host_now_us() == 50);
  busy(on.device, Stream::kCompute, 10);
  CHECK(on.device.stream_now_us(Stream::kCompute) > 50);
}

TEMPLATE_TEST_CASE("a stream that waits for host work starts after it, the host goes on", "", Cpu,
                   Sim) {
  TestType on;
  const Timepoint done = on.device.begin_host_work("host work", {}, 70);
  CHECK(on.device.host_now_us() == 0);
  CHECK(on.device.stream_now_us(Stream::kHost) == 70);
  on.device.end_host_work(done);
  on.device.wait(Stream::kCopy, done);
  CHECK(on.device.host_now_us() == 0);
  CHECK(on.device.stream_now_us(Stream::kCopy) == 70);
  on.device.host_wait(done);
  CHECK(on.device.host_now_us() == 70);
}

TEMPLATE_TEST_CASE("a timepoint of a stream's beginning has always ended", "", Cpu, Sim) {
  TestType on;
  busy(on.device, Stream::kCompute, 100);
  const double now = on.device.host_now_us();
  on.device.host_wait({Stream::kCompute, 0});
  CHECK(on.device.host_now_us() == now);
}

}  // namespace
}  // namespace tandem::test
