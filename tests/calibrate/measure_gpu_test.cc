// Calibration on simulated GPUs, which must give the profile back that they were made with: its
// times are computed from that profile by the cost model, and the measurement knows neither. And on
// the tests' stand-in for CUDA, where times mean nothing and calls must end well.
#include "runtime/calibrate/measure_gpu.h"

#include "runtime/config/embedded.h"
#include "runtime/config/machine_profile.h"
#include "runtime/error.h"
#include "tests/calibrate/calibrate_testing.h"
#include "tests/support/catch.h"

namespace tandem::test {
namespace {

// What is not counted of a kernel: the 12 bytes of a tiny one, which stand in its launch.
constexpr double kTolerance = 0.002;

Approx about(double value) { return Approx(value).epsilon(kTolerance); }

void check_gives_back(const GpuRates& rates, const MachineProfile& machine) {
  CHECK(rates.modelled);
  CHECK(rates.link_warm_up.seconds == 0);
  CHECK(rates.h2d_gbps.median == about(machine.link.h2d_gbps));
  CHECK(rates.d2h_gbps.median == about(machine.link.d2h_gbps));
  CHECK(rates.latency_us.median == about(machine.link.latency_us).margin(0.001));
  CHECK(rates.launch_us.median == about(machine.gpu.launch_us).margin(0.001));
  CHECK(rates.read_gbps.median == about(machine.gpu.read_gbps));
  CHECK(rates.gflops.median == about(machine.gpu.gflops));
  CHECK_FALSE(rates.many_read);
}

GpuRates measure_simulated(const MachineProfile& machine, SimKernels kernels,
                           const GpuSettings& settings) {
  SimSettings sim;
  sim.kernels = kernels;
  sim.check_hazards = true;
  SimDevice device(machine, int64_t{1} << 30, sim);
  const GpuRates rates = measure_gpu(device, settings, nobody_looks);
  CHECK(device.used_bytes() == 0);
  return rates;
}

}  // namespace

TEST_CASE("calibrating a simulated GPU gives every built-in profile back, within 0.2 percent") {
  for (const EmbeddedFile& file : embedded_machines()) {
    const MachineProfile machine = load_machine_profile(std::string(file.name));
    INFO(machine.name);
    check_gives_back(measure_simulated(machine, SimKernels::kHost, simulated_gpu_settings()),
                     machine);
  }
}

TEST_CASE("so it does with the CUDA kernels emulated") {
  // Enough arithmetic a byte for a machine whose GPU is slow at it, in a hundredth of the time.
  MachineProfile machine = round_machine();
  machine.gpu.gflops = 500;
  machine.gpu.read_gbps = 20;
  GpuSettings settings = small_settings();
  settings.repeats = 1;
  settings.copy_bytes = 16 << 20;
  settings.experts = {512, 256, 2, 1, 0};
  settings.many_tokens = 48;
  check_gives_back(measure_simulated(machine, SimKernels::kEmulated, settings), machine);
}

TEST_CASE("experts that reading keeps busy are said to give no more than a bound") {
  GpuSettings settings = small_settings();
  settings.many_tokens = 2;
  const GpuRates rates = measure_simulated(round_machine(), SimKernels::kHost, settings);
  CHECK(rates.many_read);
  CHECK(rates.gflops.median < round_machine().gpu.gflops);
}

TEST_CASE("a device with little memory is measured with less, and says so") {
  SimDevice device(round_machine(), 8 << 20);
  GpuSettings settings = small_settings();
  settings.copy_bytes = settings.region_bytes = 64 << 20;
  const GpuRates rates = measure_gpu(device, settings, nobody_looks);
  CHECK(rates.settings.copy_bytes == 2 << 20);
  CHECK(rates.settings.region_bytes == 2 << 20);
  CHECK(rates.h2d_gbps.median == about(20));
}

TEST_CASE("a device without the memory for it is one clear error") {
  SimDevice device(round_machine(), 1 << 16);
  REQUIRE_THROWS_AS(measure_gpu(device, small_settings(), nobody_looks), MemoryError);
}

TEST_CASE("calibration runs to its end on a CUDA runtime, and gives everything back") {
  FakeCuda fake;
  std::vector<std::string> steps;
  {
    const auto device = open_fake();
    const GpuRates rates = measure_gpu(*device, small_settings(),
                                       [&](const std::string& what) { steps.push_back(what); });
    CHECK_FALSE(rates.modelled);
    CHECK(rates.gpu == "Fake");
    CHECK(rates.link_warm_up.seconds >= 0.001);
    CHECK(rates.link_warm_up.bytes > 0);
    CHECK(rates.kernels_warm_up_seconds >= 0.001);
    for (const Spread& rate :
         {rates.h2d_gbps, rates.d2h_gbps, rates.read_gbps, rates.gflops, rates.product_gbps}) {
      CHECK(rate.median > 0);
      CHECK(rate.low <= rate.median);
      CHECK(rate.median <= rate.high);
      CHECK(rate.n == 2);
    }
    for (const Spread& time : {rates.latency_us, rates.launch_us, rates.hand_over_us}) {
      CHECK(time.median >= 0);
      CHECK(time.n == 2);
    }
    CHECK(device->used_bytes() == 0);
  }
  CHECK(fake.misuse == std::vector<std::string>{});
  CHECK(fake.alive() == 0);
  REQUIRE(steps.size() > 4);
  CHECK(steps.front() == "link: warming it up");
}

// Each call of CUDA's that the measurement makes, in turn. What fails where memory is given back
// is noticed with the next call, which can only say that the device is lost.
#ifdef TANDEM_SANITIZED
constexpr int64_t kStep = 7;  // ten times as slow
#else
constexpr int64_t kStep = 1;
#endif
TEST_CASE("a call of CUDA's that fails ends calibration in one line of an error") {
  GpuSettings settings = small_settings();
  settings.repeats = 1;
  settings.warm_up_seconds = 0;
  int64_t calls = 0;
  {
    FakeCuda fake;
    const auto device = open_fake();
    measure_gpu(*device, settings, nobody_looks);
    calls = fake.calls;
  }
  REQUIRE(calls > 100);
  for (int64_t n = 0; n < calls; n += kStep) {
    FakeCuda fake;
    fake.fail_call = n;
    std::string message;
    int64_t made = 0;
    try {
      const auto device = open_fake();
      measure_gpu(*device, settings, nobody_looks);
      made = fake.calls;
    } catch (const Error& error) {
      message = error.what();
    }
    INFO("call " << n << " of " << calls << ": " << message);
    CHECK(fake.alive() == 0);
    if (message.empty()) {
      // Work had ended sooner than in the first run: nobody had to wait for it, which is a call
      // less.
      CHECK(made > 100);
      CHECK(made <= n);
      continue;
    }
    CHECK((message.find("CUDA error 700") != std::string::npos ||
           message.find("lost; ") != std::string::npos));
    CHECK(message.find('\n') == std::string::npos);
  }
}

}  // namespace tandem::test
