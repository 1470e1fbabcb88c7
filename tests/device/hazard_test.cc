// What goes wrong between streams and host, one mistake at a time: each is found although, in most
// of these, the order in which the simulated GPU happens to work gives the right bytes.
#include <array>
#include <string>

#include "runtime/error.h"
#include "tests/device/device_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

struct Checked {
  static SimSettings settings() {
    SimSettings settings;
    settings.check_hazards = true;
    return settings;
  }
  SimDevice device{round_machine(), kVram, settings()};
  std::vector<float> host = std::vector<float>(64, 1.0F);
  DeviceAddr slot = device.alloc(256, "slot");

  Timepoint copy() { return device.copy_to_device(Stream::kCopy, slot, host.data(), 256); }
  Timepoint kernel(bool writes = false) {
    const Touch touch{slot, 256, writes};
    return device.launch(Stream::kCompute,
                         {"kernel", {&touch, 1}, 0, 0, [](const KernelScope&) {}});
  }
};

// The message of the HazardError, or nothing.
template <typename F>
std::string hazard(const F& f) {
  try {
    f();
  } catch (const HazardError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("a kernel that does not wait for the copy of what it reads is a hazard") {
  Checked c;
  c.copy();
  CHECK(hazard([&] { c.kernel(); }).find("kernel reads") == 0);
  Checked good;
  good.device.wait(Stream::kCompute, good.copy());
  CHECK(hazard([&] { good.kernel(); }).empty());
}

TEST_CASE("a wait for an earlier copy does not order a later one") {
  Checked c;
  const Timepoint first = c.copy();
  c.copy();
  c.device.wait(Stream::kCompute, first);
  CHECK(hazard([&] { c.kernel(); }).find("a copy to the device of the copy stream") !=
        std::string::npos);
}

TEST_CASE("a copy into a slot that a kernel may still read is a hazard") {
  Checked c;
  c.device.wait(Stream::kCompute, c.copy());
  const Timepoint used = c.kernel();
  CHECK(hazard([&] { c.copy(); }).find("may still read") != std::string::npos);
  Checked good;
  good.device.wait(Stream::kCompute, good.copy());
  good.device.wait(Stream::kCopy, good.kernel());
  CHECK(hazard([&] { good.copy(); }).empty());
  static_cast<void>(used);
}

TEST_CASE("a copy of what host work writes, without a wait for it, is a hazard") {
  Checked c;
  const std::array writes{HostTouch{c.host.data(), 256, true}};
  c.device.end_host_work(c.device.begin_host_work("experts", writes, 10));
  CHECK(hazard([&] { c.copy(); }).find("experts of the host may still write") != std::string::npos);
  Checked good;
  const std::array good_writes{HostTouch{good.host.data(), 256, true}};
  const Timepoint done = good.device.begin_host_work("experts", good_writes, 10);
  good.device.end_host_work(done);
  good.device.wait(Stream::kCopy, done);
  CHECK(hazard([&] { good.copy(); }).empty());
}

TEST_CASE("host work on memory that a copy may still read or write is a hazard") {
  Checked c;
  const Timepoint copied = c.copy();
  const std::array writes{HostTouch{c.host.data(), 4, true}};
  const std::array reads{HostTouch{c.host.data(), 4, false}};
  CHECK(hazard([&] { c.device.begin_host_work("experts", writes, 1); }).find("experts writes") ==
        0);
  CHECK(hazard([&] { c.device.begin_host_work("experts", reads, 1); }).empty());
  Checked good;
  good.device.host_wait(good.copy());
  const std::array good_writes{HostTouch{good.host.data(), 4, true}};
  CHECK(hazard([&] { good.device.begin_host_work("experts", good_writes, 1); }).empty());
  static_cast<void>(copied);
}

TEST_CASE("two kernels of one stream need no wait, a reader in another stream does") {
  Checked c;
  c.device.wait(Stream::kCompute, c.copy());
  CHECK(hazard([&] {
          c.kernel(true);
          c.kernel(true);
          c.kernel();
        }).empty());
  CHECK(hazard([&] {
          c.device.copy_to_host(Stream::kCopy, c.host.data(), c.slot, 256);
        }).find("may still write") != std::string::npos);
}

TEST_CASE("host memory that is filled again while a copy may still read it is a hazard") {
  Checked c;
  const Timepoint copied = c.copy();
  const auto fill = [&] { c.device.host_access("fill", c.host.data(), 4, true); };
  CHECK(hazard(fill).find("fill writes") == 0);
  c.device.host_access("look", c.host.data(), 4, false);  // reading beside a reader is none
  c.device.host_wait(copied);
  CHECK(hazard(fill).empty());
}

TEST_CASE("host memory that is read before a copy has filled it is a hazard") {
  Checked c;
  const Timepoint done = c.device.copy_to_host(Stream::kCompute, c.host.data(), c.slot, 256);
  const auto look = [&] { c.device.host_access("look", c.host.data() + 63, 4, false); };
  CHECK(hazard(look).find("look reads") == 0);
  CHECK(hazard([&] { c.device.host_access("beside", c.host.data() + 64, 4, false); }).empty());
  c.device.host_wait(done);
  CHECK(hazard(look).empty());
}

TEST_CASE("device memory that is freed while work may still use it is a hazard") {
  Checked c;
  c.kernel();
  CHECK(hazard([&] { c.device.free(c.slot); }).find("free writes") == 0);
  c.device.host_wait_all();
  CHECK(hazard([&] { c.device.free(c.slot); }).empty());
}

TEST_CASE("orders are passed on: from the copy over a kernel to what waits for the kernel") {
  Checked c;
  const DeviceAddr other = c.device.alloc(256, "other");
  c.device.wait(Stream::kCompute, c.copy());
  const std::array touches{Touch{c.slot, 256, false}, Touch{other, 256, true}};
  const Timepoint done =
      c.device.launch(Stream::kCompute, {"both", touches, 0, 0, [](const KernelScope&) {}});
  c.device.host_wait(done);
  // The host has waited for the kernel, and so for the copy that the kernel waited for.
  CHECK(hazard([&] { c.device.host_access("fill", c.host.data(), 256, true); }).empty());
  CHECK(hazard([&] { c.device.free(other); }).empty());
}

TEST_CASE("parts of a range are ordered each for itself") {
  Checked c;
  const Timepoint low = c.device.copy_to_device(Stream::kCopy, c.slot, c.host.data(), 128);
  c.device.copy_to_device(Stream::kCopy, c.slot + 128, c.host.data() + 32, 128);
  c.device.wait(Stream::kCompute, low);
  const auto read = [&](int64_t at, int64_t bytes) {
    const Touch touch{c.slot + at, bytes, false};
    return hazard([&] {
      c.device.launch(Stream::kCompute, {"part", {&touch, 1}, 0, 0, [](const KernelScope&) {}});
    });
  };
  CHECK(read(0, 128).empty());
  CHECK(read(64, 64).empty());
  CHECK_FALSE(read(64, 65).empty());
  CHECK_FALSE(read(200, 8).empty());
}

TEST_CASE("work that fails later is reported by the wait, and by every call from then on") {
  SimSettings settings;
  settings.fault = SimFault::kLater;
  settings.fault_call = 1;  // after alloc
  SimDevice device(round_machine(), kVram, settings);
  const DeviceAddr at = device.alloc(256, "x");
  std::vector<float> host(64, 1.0F);
  const Timepoint copied = device.copy_to_device(Stream::kCopy, at, host.data(), 256);
  CHECK_THROWS_WITH(device.host_wait(copied),
                    "sim GPU: a copy to the device failed after it was enqueued");
  CHECK_THROWS_WITH(device.copy_to_host(Stream::kCopy, host.data(), at, 256),
                    "sim GPU: lost; a copy to the host is not possible");
  CHECK_THROWS_AS(device.alloc(256, "y"), DeviceError);
}

}  // namespace tandem::test
