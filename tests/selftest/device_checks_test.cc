// The checks of devices pass on devices that are right, in every schedule, and fail on wrong ones.
#include "runtime/selftest/device_checks.h"

#include "runtime/device/cpu_device.h"
#include "runtime/device/cuda_device.h"
#include "tests/engine/fake_cuda.h"
#include "tests/selftest/selftest_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

using Strings = std::vector<std::string>;

// Nothing takes time here.
constexpr int64_t kLongCopy = 1 << 17;

Results results_on(Device& device) {
  std::vector<std::byte> to_pin(1 << 20);
  Results results;
  CheckRun run = results.run();
  run_device_checks(device, {to_pin, kLongCopy}, &run);
  return results;
}

// Copies to the device are a byte short.
class ForgetsLastByte : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  Timepoint copy_to_device(Stream s, DeviceAddr to, const void* from, int64_t bytes) override {
    return to_.copy_to_device(s, to, from, bytes - 1);
  }
};

// A row too few.
class ForgetsLastRow : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  Timepoint copy_rows_to_device(Stream s, DeviceAddr to, const void* from,
                                const RowCopy& copy) override {
    RowCopy less = copy;
    --less.rows;
    return to_.copy_rows_to_device(s, to, from, less);
  }
};

// No stream waits for another.
class NeverWaits : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  ~NeverWaits() override {
    for (void* at : kept_) ForwardingDevice::free_host(at);
  }
  void wait(Stream stream, Timepoint point) override {
    if (point.stream == Stream::kHost) ForwardingDevice::wait(stream, point);
  }
  // What nobody has waited for may still use it.
  void free_host(void* at) noexcept override { kept_.push_back(at); }

 private:
  std::vector<void*> kept_;
};

// No stream waits for host work.
class IgnoresHost : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void wait(Stream stream, Timepoint point) override {
    if (point.stream != Stream::kHost) ForwardingDevice::wait(stream, point);
  }
};

// Counts nothing.
class CountsNothing : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  int64_t used_bytes() const override { return 0; }
};

// Addresses that begin 64 bytes too late.
class Misaligned : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  DeviceAddr alloc(int64_t bytes, const char* tag) override {
    return to_.alloc(bytes > kSomeVram ? bytes : bytes + 64, tag) + 64;
  }
  void free(DeviceAddr at) override { to_.free(at + -64); }
};

SimSettings late() {
  SimSettings settings = emulated();
  settings.schedule = SimSchedule::kLate;
  return settings;
}

}  // namespace

TEST_CASE("all checks of devices pass on the CPU, on a simulated GPU and on an emulated one") {
  CpuDevice cpu(some_machine());
  CHECK(results_on(cpu).failed() == Strings{});
  SimDevice sim(some_machine(), kSomeVram);
  CHECK(results_on(sim).failed() == Strings{});
  SimDevice sim_cuda(some_machine(), kSomeVram, emulated());
  CHECK(results_on(sim_cuda).failed() == Strings{});
  CHECK(sim_cuda.used_bytes() == 0);
}

TEST_CASE("the checks of devices wait for all that they must wait for") {
  for (const SimSchedule schedule :
       {SimSchedule::kLate, SimSchedule::kTimed, SimSchedule::kRandom}) {
    SimSettings settings = emulated();
    settings.schedule = schedule;
    settings.check_hazards = true;
    SimDevice device(some_machine(), kSomeVram, settings);
    CHECK(results_on(device).failed() == Strings{});
  }
}

TEST_CASE("all checks of devices pass on a CUDA device whose runtime is the tests'") {
  FakeCuda fake;
  std::vector<std::byte> to_pin(1 << 20);
  Results results;
  {
    CudaDevice device(some_machine(), FakeCuda::table(), gpu::kEmulatedOps, FakeCuda::facts(), 0,
                      int64_t{1} << 29);
    CheckRun run = results.run();
    run_device_checks(device, {to_pin, kLongCopy}, &run);
  }
  CHECK(results.failed() == Strings{});
  CHECK(fake.misuse.empty());
  CHECK(fake.alive() == 0);
}

TEST_CASE("a device that loses the last byte of a copy fails") {
  SimDevice sim(some_machine(), kSomeVram, emulated());
  ForgetsLastByte device(sim);
  const Strings names = results_on(device).failed_names();
  REQUIRE_FALSE(names.empty());
  CHECK(names.front() == "copies of odd sizes and offsets come back bit for bit");
}

TEST_CASE("a device that loses the last row of a copy fails that check alone") {
  SimDevice sim(some_machine(), kSomeVram, emulated());
  ForgetsLastRow device(sim);
  CHECK(results_on(device).failed_names() ==
        Strings{"rows are copied from one distance to another"});
}

TEST_CASE("streams that do not wait for each other fail the checks of their order") {
  SimDevice sim(some_machine(), kSomeVram, late());
  NeverWaits device(sim);
  const Results results = results_on(device);
  for (const Check& check : results.checks) {
    INFO(check.name);
    const bool of_order = check.name.find("of the other stream") != std::string::npos ||
                          check.name.find("take turns") != std::string::npos ||
                          check.name == "what the host has waited for is done" ||
                          check.name.find("thousands") == 0;
    CHECK(check.ok == !of_order);
  }
}

TEST_CASE(
    "a device whose graphs do nothing, or what a cancelled one kept, fails that check alone") {
  const auto failed = [](const CudaRuntime& cuda) {
    FakeCuda fake;
    std::vector<std::byte> to_pin(1 << 20);
    Results results;
    {
      CudaDevice device(some_machine(), cuda, gpu::kEmulatedOps, FakeCuda::facts(), 0,
                        int64_t{1} << 29);
      CheckRun run = results.run();
      run_device_checks(device, {to_pin, kLongCopy}, &run);
    }
    return results.failed_names();
  };
  const Strings expected{"a graph does what was kept, with what memory holds when it is run"};
  CudaRuntime idle = FakeCuda::table();
  idle.launch_graph = [](void*, void*) { return 0; };
  CHECK(failed(idle) == expected);
  CudaRuntime eager = FakeCuda::table();
  eager.end_capture = [](void* stream, void** graph) {
    const int error = FakeCuda::table().end_capture(stream, graph);
    return error != 0 ? error : FakeCuda::table().launch_graph(*graph, stream);
  };
  CHECK(failed(eager) == expected);
}

#ifndef TANDEM_SANITIZED  // a race, as ThreadSanitizer says
TEST_CASE("a stream that does not wait for host work fails that check alone") {
  SimDevice sim(some_machine(), kSomeVram, emulated());
  IgnoresHost device(sim);
  CHECK(results_on(device).failed_names() == Strings{"what waits for host work comes after it"});
}
#endif

TEST_CASE("memory that is not counted, or begins elsewhere, fails its check alone") {
  SimDevice sim(some_machine(), kSomeVram, emulated());
  CountsNothing uncounted(sim);
  CHECK(results_on(uncounted).failed_names() ==
        Strings{"used bytes grow with an allocation and shrink when it is freed"});
  Misaligned misaligned(sim);
  CHECK(results_on(misaligned).failed_names() ==
        Strings{"allocations begin at multiples of 256 and do not overlap"});
}

TEST_CASE("a device that is lost in the middle fails what it was doing, and the rest is not run") {
  SimSettings settings = emulated();
  settings.fault = SimFault::kAtOnce;
  settings.fault_call = 100;
  SimDevice device(some_machine(), kSomeVram, settings);
  const Strings failed = results_on(device).failed();
  REQUIRE(failed.size() > 1);
  CHECK(failed.front().find("failed") != std::string::npos);
  CHECK(failed.back().find("not run: the device is lost") != std::string::npos);
}

}  // namespace tandem::test
